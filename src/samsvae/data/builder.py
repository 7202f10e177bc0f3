"""From a table to the fields of a screen, checking everything."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data import labels
from samsvae.data.conditions import ConditionParser, dosage_rows, written
from samsvae.data.counts import looks_like_counts, looks_normalised, to_counts
from samsvae.data.names import SPLITS, UNUSED, NameRegistry
from samsvae.data.sgrna_labels import labels_by_sgrna, sgrnas_are_used
from samsvae.data.source import StoredCounts, rows_in_file
from samsvae.errors import InputError, check_unique, listed, note, unknown
from samsvae.settings.conventions import CONVENTIONS, convention
from samsvae.settings.screen import ScreenSettings
from samsvae.storage.anndata_files import RAW, Frame, Table, X, layer_name

_MAX_LEVELS = 100
"""Largest number of levels of a covariate that is kept."""


def screen_fields(table: Table, settings: ScreenSettings) -> tuple[dict[str, Any], np.ndarray]:
    """Return the fields of a `samsvae.Screen` of all cells, and `cell`: whether to keep it."""
    settings = replace(settings, **settings.found(list(table.cells.columns), table.layers))
    _gene_names(table.genes, table)  # empty data and repeated names are reported first
    sgrnas = None
    if sgrnas_are_used(table, settings):
        sgrnas = labels_by_sgrna(table, settings)
        table, settings = sgrnas.table, sgrnas.settings
    key, columns = settings.perturbation_key, table.cells.columns
    if key not in columns:
        missing = unknown("column for the perturbation in adata.obs:", key, columns)
        raise InputError(f"{missing}{_convention_hint(table)}")
    label = _perturbation_labels(table, settings)
    parser = _parser(settings, label)
    batch_labels, split, is_labelled = _other_labels(table, settings, label)
    is_used = np.ones(len(label), bool) if sgrnas is None else sgrnas.is_used
    is_labelled &= is_used
    label = _present_labels(table, settings, parser, label, is_labelled)
    doses = None
    if settings.dosage_key is not None:
        dose = _column(table.cells, settings.dosage_key, "the dosage in adata.obs").astype(object)
        doses = dose.where(dose.notna(), None).to_numpy()  # control cells may have none
    conditions, condition = _conditions(parser, label, doses)
    perturbations = sorted({name for received in conditions for name in received})
    alike = list(filter(labels.looks_like_control, perturbations))
    if alike:
        control = [*map(written, settings.controls), *alike[:3], *(["..."] if alike[3:] else [])]
        note(
            f"perturbations that look like control: {listed(alike)}; if they are, give "
            f"control={control} (--control, once for each)"
        )

    where = _chosen(table, settings.layer, counts=settings.counts)
    counts, total = _counts(table, where, settings)
    var = table.genes
    if where == RAW and table.raw_genes is not None:
        var = table.raw_genes()
    genes = _gene_names(var, table)
    is_kept = _kept(is_labelled, is_used, total, settings)
    if settings.library_size_key is not None:
        total[is_kept] = _library_size(table, settings.library_size_key, total, is_kept)
    batches, batch = _batches(batch_labels, is_labelled)
    registry = NameRegistry(
        genes,
        tuple(perturbations),
        batches,
        parser,
        counts=settings.counts,
        own_library_size=settings.library_size_key is None,
        symbols=_symbols(var, settings.gene_key, perturbations),
        context_columns=len(settings.context_key or ()),
    )
    if split is not None:
        split = np.where(is_kept, split, UNUSED)
        check_split(split)
    fields = {
        "registry": registry,
        "cells": pd.Index(table.cells.names.astype(str)),
        "counts": counts,
        "library_size": total,
        "dosage": dosage_rows(conditions, perturbations)[condition],
        "condition_names": tuple(map(parser.write, conditions)),
        "condition": condition,
        "batch": batch,
        "split": split,
        "sgrna": _categories(table, settings.sgrna_key, "sgRNA"),
        "replicate": _categories(table, settings.replicate_key, "replicate"),
        "absence": None if sgrnas is None else sgrnas.absence(perturbations),
        "sgrna_assignment": None if sgrnas is None else sgrnas.assignment,
        "obs": _other_columns(table.cells, settings.keys),
    }
    return fields, is_kept


def _other_columns(cells: Frame, used: Collection[str]) -> pd.DataFrame:
    """Return the columns that are not used, `cell column`: numbers, or categories of few levels.

    They are compared between conditions and control (`samsvae.data.cautions`). Columns that cannot
    be read, such as damaged ones, are left out.
    """
    columns: dict[str, pd.Series] = {}
    for name in set(cells.columns).difference(used):
        with (
            suppress(InputError, KeyError, OSError, TypeError, ValueError),
            warnings.catch_warnings(action="ignore"),
        ):
            values = cells.read(name)
            if values.nunique() < 2:
                continue
            if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
                columns[name] = values.astype(np.float32)
            elif values.nunique() <= _MAX_LEVELS:
                columns[name] = values.astype(str).where(values.notna()).astype("category")
    values = {name: columns[name].array for name in sorted(columns)}
    return pd.DataFrame(values, index=cells.names.astype(str))


def _perturbation_labels(table: Table, settings: ScreenSettings) -> np.ndarray:
    """Return the label of each cell, as the convention reads it; None where it is missing."""
    label = _text(table, settings.perturbation_key, "perturbation")
    if settings.convention is None:
        return label
    layout = convention(settings.convention)
    return np.array([None if text is None else layout.label(text) for text in label], object)


def _parser(settings: ScreenSettings, label: np.ndarray) -> ConditionParser:
    """Return what reads the labels of these cells."""
    separator = settings.separator or ""
    texts = {str(text) for text in pd.unique(label) if text is not None}
    texts |= {part for text in texts for part in text.split(separator)} if separator else set()
    parser = ConditionParser.of(settings.controls, separator, texts)
    controls = [written(name) for name in settings.controls]
    if parser.control not in controls and parser.control in texts:
        raise InputError(
            f"{parser.control!r} is what control is written as here, and a label that is not "
            f"among control={controls}: add it (--control, once for each)"
        )
    return parser


def _other_labels(
    table: Table, settings: ScreenSettings, label: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray | None, np.ndarray]:
    """Return the cells' batches and split as text, and which cells lack neither nor a label.

    Nor a replicate, where replicates are named.
    """
    key = settings.perturbation_key
    batches = {(name, "batch"): _text(table, name, "batch") for name in settings.batch_columns}
    columns = {(key, "perturbation"): label, **batches}
    if labels.MISSING.intersection(map(written, settings.controls)):
        del columns[key, "perturbation"]  # those without a label are control
    replicates = settings.replicate_key
    if replicates is not None:
        columns[replicates, "replicate"] = _text(table, replicates, "replicate")
    split = None
    if settings.split_key is not None:
        split = _text(table, settings.split_key, "split")
        columns[settings.split_key, "split"] = split
    is_labelled = labels.labelled(columns, len(label), drop=settings.drop_unlabelled)
    if settings.convention is not None and split is not None:
        layout = convention(settings.convention)
        if set(layout.splits) <= set(pd.unique(split)):
            split = np.array([layout.splits.get(name, name) for name in split], object)
    return list(batches.values()), split, is_labelled


def _present_labels(
    table: Table,
    settings: ScreenSettings,
    parser: ConditionParser,
    label: np.ndarray,
    is_labelled: np.ndarray,
) -> np.ndarray:
    """Return the label of each cell, checked; cells that lack one are control."""
    label = np.where(is_labelled & pd.notna(label), label, parser.control)
    present = [str(text) for text in pd.unique(label[is_labelled])]
    if not _has_control(table, settings.perturbation_key, present, parser):
        note(
            "no cell is control, so a trained model can score these cells, and nothing else can be "
            f"asked of them: {labels.control_hint(present, parser.control)}"
        )
    labels.check_separator(present, parser)
    return label


def check_split(split: np.ndarray) -> None:
    """Raise if a cell's split is none of "train", "valid", "test" and "unused"."""
    for name in pd.unique(split):
        if name not in (*SPLITS, UNUSED):
            raise unknown("split", name, SPLITS)


def _categories(table: Table, key: str | None, what: str) -> pd.Categorical | None:
    """Return a column of obs as categories, `cell`; None without a key."""
    return None if key is None else pd.Categorical(_text(table, key, what))


def _text(table: Table, key: str, what: str) -> np.ndarray:
    """Return a column of obs as text, `cell`; None where it is missing."""
    values = _column(table.cells, key, f"the {what} in adata.obs")
    return labels.text_of(values, f"obs[{key!r}]", what)


def _column(frame: Frame, key: str, what: str) -> pd.Series:
    if key not in frame.columns:
        raise unknown(f"column for {what}:", key, list(frame.columns))
    return frame.read(key)


def fitting(table: Table) -> str | None:
    """Return the convention that the columns and labels look most like, if any."""
    signs = {}
    for name, layout in CONVENTIONS.items():
        key = layout.perturbation_key(table.cells.columns)
        if key in table.cells.columns:
            present = table.cells.read(key).dropna().astype(str).unique() if layout.marks else ()
            signs[name] = layout.fits(table.cells.columns, present)
    best = max(signs, key=lambda name: signs[name], default=None)
    return best if best is not None and signs[best] else None


def _convention_hint(table: Table) -> str:
    fits = fitting(table)
    return "" if fits is None else f"; the columns look like convention={fits!r} (--convention)"


def _has_control(table: Table, key: str, present: Sequence[str], parser: ConditionParser) -> bool:
    """Return whether there are control cells; raise if there are none, but labels that may be."""
    if any(parser.is_control(part) for name in present for part in parser.split(name)):
        return any(not parser.parts(name) for name in present)
    missing = unknown(f"control label in obs[{key!r}]:", parser.control, sorted(present))
    hint = _convention_hint(table)
    if hint or "the nearest is" in str(missing) or any(map(labels.looks_like_control, present)):
        raise InputError(f"{missing}{hint or '; ' + labels.control_hint(present, parser.control)}")
    return False


def _conditions(
    parser: ConditionParser, label: np.ndarray, doses: np.ndarray | None
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Return the conditions, control first, and which of them each cell received."""
    name_of: dict[tuple[str, object], str] = {}
    conditions: dict[str, dict[str, float]] = {parser.control: {}}
    names = []
    for key in zip(label, [None] * len(label) if doses is None else doses, strict=True):
        if key not in name_of:
            text, dose = key
            condition = parser.condition(text)
            if doses is not None and parser.parts(text):
                if dose is None:
                    raise InputError(f"a cell with the label {text!r} has no dosage")
                condition = parser.condition(text, parser.doses(dose))
            name_of[key] = parser.write(condition)
            conditions[name_of[key]] = condition
        names.append(name_of[key])
    order = [parser.control, *sorted(conditions.keys() - {parser.control})]
    position = {name: i for i, name in enumerate(order)}
    return [conditions[name] for name in order], np.array([position[n] for n in names], np.int32)


def _batches(
    columns: Sequence[np.ndarray], is_labelled: np.ndarray
) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Return the batches that occur, a level of each column, and that of each cell."""
    batch = np.zeros(len(is_labelled), np.int32)
    if not columns:
        return (), batch
    rows = pd.MultiIndex.from_arrays([one[is_labelled].astype(str) for one in columns])
    batch[is_labelled], present = rows.factorize(sort=True)
    return tuple(tuple(map(str, levels)) for levels in present), batch


def _gene_names(genes: Frame, table: Table) -> tuple[str, ...]:
    """Return the names of the genes, refusing empty data and repeated names."""
    n_cells, n_genes = len(table.cells.names), len(genes.names)
    if n_cells == 0 or n_genes == 0:
        hint = "; all features are sgRNAs: give the modality of the genes" if table.sgrnas else ""
        raise InputError(f"the data have {n_cells} cells and {n_genes} genes{hint}")
    names = pd.Index(genes.names.astype(str))
    check_unique(names, "gene names", "make them unique, say with adata.var_names_make_unique()")
    return tuple(names)


def _symbols(
    genes: Frame, key: str | Mapping[str, str] | None, perturbations: Sequence[str]
) -> tuple[str, ...]:
    """Return the symbol of each gene, its name where it has none; empty without a key.

    Then a column that has perturbations is reported, if the genes' names have none.
    """
    names = genes.names.astype(str)
    if key is None:
        columns = [] if set(names) & set(perturbations) else genes.columns
        for column in columns:
            values = genes.read(column)
            if values.dtype.kind not in "iufb" and set(values.astype(str)) & set(perturbations):
                note(
                    f"perturbations are genes of var[{column!r}], not of var_names: "
                    f"gene_key={column!r} (--gene-key) finds their targets"
                )
                break
        return ()
    if isinstance(key, Mapping):
        symbols = pd.Series([key.get(name) for name in names], dtype=object)
        if symbols.isna().all():
            raise InputError(
                f"gene_key names none of the {len(names)} genes, such as {listed(names, 3)}: "
                "expected a mapping from their names to symbols"
            )
    else:
        symbols = pd.Series(_column(genes, key, "gene symbols in adata.var").to_numpy(object))
    return tuple(map(str, symbols.where(symbols.notna(), names).to_numpy()))


def _chosen(table: Table, layer: str | None, *, counts: bool) -> str:
    """Return the name of the matrix to read; without X the one layer that holds counts."""
    if layer == "raw" and layer not in table.layers and RAW in table.matrices:
        return RAW
    if layer is not None:
        if layer not in table.layers:
            raise unknown("layer", layer, list(table.layers))
        return layer_name(layer)
    if table.matrices[X]() is not None:
        return X
    layers = {name: table.matrices[layer_name(name)]() for name in table.layers}
    usable = [name for name, one in layers.items() if not counts or looks_like_counts(one)]
    if len(usable) == 1:
        note(f"adata.X is empty: layer {usable[0]!r} is taken")
        return layer_name(usable[0])
    if usable:
        raise InputError(
            "adata.X is empty, and several layers hold counts: give a layer, one of "
            f"{listed(usable)}"
        )
    present = f"the layers {listed(layers)}" if layers else "no layers"
    raise InputError(f"adata.X is empty: expected counts there or in a layer; there are {present}")


def _counts(
    table: Table, where: str, settings: ScreenSettings
) -> tuple[sp.csr_matrix | StoredCounts, np.ndarray]:
    """Return a matrix as counts, `cell gene`, and their sums, `cell`; raise if it holds others."""
    matrix = table.matrices[where]()
    if not settings.in_memory:
        matrix = rows_in_file(matrix, where)
    try:
        if not settings.in_memory:
            return StoredCounts.checked(matrix, counts=settings.counts)
        counts = to_counts(matrix, where, counts=settings.counts)
        return counts, np.asarray(counts.sum(1), np.float64).ravel()
    except InputError as error:
        if not settings.counts:
            raise
        raise InputError(f"{error}; {_hint(table, matrix, where)}") from None


def _hint(table: Table, matrix: Any, where: str) -> str:
    """Return where counts are, if a matrix does not hold them."""
    others = (name for name in table.matrices if name != where)
    matrices = {name: table.matrices[name]() for name in others}
    usable = [name for name, one in matrices.items() if one is not None and looks_like_counts(one)]
    if X in usable:
        return "adata.X looks like counts: leave layer out"
    layer = next((name for name in table.layers if layer_name(name) in usable), None)
    if layer is not None:
        return f"{layer_name(layer)} looks like counts: give layer={layer!r}"
    if usable:
        return "adata.raw looks like counts: give layer='raw'"
    if looks_normalised(matrix):
        argument = "" if where == X else f", layer={where.removeprefix('layer ')}"
        return (
            "they are normalised counts that can be turned back exactly: take "
            f"samsvae.counts_from_normalised(adata{argument}) first"
        )
    return "no layer looks like counts (counts=False takes real values as they are)"


def _kept(
    is_labelled: np.ndarray, is_used: np.ndarray, total: np.ndarray, settings: ScreenSettings
) -> np.ndarray:
    """Return `cell`: whether it has a label, and counts; report how many of the used have not."""
    has_counts = (total > 0) | ~is_used if settings.counts else np.ones(len(total), bool)
    if not (has_counts.all() or settings.drop_empty_cells):
        raise InputError(
            f"{(~has_counts).sum()} of {len(total)} cells have no counts: leave them out with "
            "drop_empty_cells=True (--drop-empty-cells), or filter the data"
        )
    n_dropped = {
        "without counts": (~has_counts).sum(),
        "without a label": (is_used & ~is_labelled).sum(),
    }
    dropped = " and ".join(f"{n:,} {what}" for what, n in n_dropped.items() if n)
    is_kept = has_counts & is_labelled
    if dropped:
        note(f"{dropped} of {len(total):,} cells are left out, {is_kept.sum():,} are kept")
    return is_kept


def _library_size(table: Table, key: str, counted: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Return the total counts of the kept cells, at least those `counted` in the file."""
    text, counted = _text(table, key, "library size")[is_kept], counted[is_kept]
    is_missing = np.array([one is None for one in text], bool)
    if is_missing.any():
        raise InputError(
            f"obs[{key!r}] lacks the library size of {int(is_missing.sum())} of {len(text)} cells: "
            "fill it in, or leave those cells out"
        )
    size = pd.to_numeric(pd.Series(text), errors="coerce").to_numpy(np.float64)
    is_valid = (size > 0) & (size <= 2.0**31)  # nan is not
    if not is_valid.all():
        raise InputError(
            f"obs[{key!r}] is not a positive number of at most 2^31 for {int((~is_valid).sum())} "
            f"cells, {text[~is_valid][0]!r} for one: expected total counts"
        )
    is_below = size < counted * (1 - 1e-6)
    if is_below.any():
        raise InputError(
            f"obs[{key!r}] is below the cell's counts in the file for {int(is_below.sum())} cells, "
            f"{size[is_below][0]:g} against {counted[is_below][0]:g} for one: expected total "
            "counts, not size factors"
        )
    return size
