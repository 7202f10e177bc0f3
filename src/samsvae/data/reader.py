"""Which matrix of a file holds the counts.

From a table to the parts of a screen, checking everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data import columns, labels
from samsvae.data.conditions import ConditionParser, dosage_rows, written
from samsvae.data.counts import looks_like_counts, to_counts
from samsvae.data.files.anndata_files import Table
from samsvae.data.names import NameRegistry
from samsvae.data.normalised import looks_normalised
from samsvae.data.source import StoredCounts, left_in_file, rows_in_file
from samsvae.errors import InputError, listed, note, unknown
from samsvae.settings.conventions import convention
from samsvae.settings.screen import ScreenSettings

RAW = "raw"
"""The name under which `.raw` is asked for, where no layer is called so."""


def chosen(table: Table, layer: str | None, *, real: bool) -> tuple[Table, Any, str]:
    """Return the table (that of `.raw`, where it is asked for), its matrix, and what it is called.

    Without X the one layer that holds counts is taken, with a note.

    Raises
    ------
    InputError
        If there is no such layer, or nothing to take.
    """
    if layer == RAW and RAW not in table.layers:
        raw = table.raw()
        if raw is None:
            raise unknown("layer", layer, list(table.layers))
        return raw, raw.x, "adata.raw"
    if layer is not None:
        if layer not in table.layers:
            raise unknown("layer", layer, list(table.layers))
        return table, table.layers[layer], f"layer {layer!r}"
    if table.x is not None:
        return table, table.x, "adata.X"
    held = [name for name in table.layers if real or looks_like_counts(table.layers[name])]
    if len(held) == 1:
        note(f"adata.X is empty: layer {held[0]!r} is taken")
        return table, table.layers[held[0]], f"layer {held[0]!r}"
    if held:
        raise InputError(
            f"adata.X is empty, and several layers hold counts: give a layer, one of {listed(held)}"
        )
    raise InputError(
        f"adata.X is empty: expected counts there or in a layer; there are {_named(table)}"
    )


def counts_of(
    table: Table, matrix: Any, where: str, *, real: bool, in_memory: bool
) -> tuple[sp.csr_matrix | StoredCounts, np.ndarray]:
    """Return a matrix as counts, `cell gene`, and their sums, `cell`; `real` admits real values.

    Raises
    ------
    InputError
        If it does not hold counts, with where they may be instead.
    """
    if not in_memory:
        matrix = rows_in_file(matrix, where)
    try:
        if not in_memory:
            return left_in_file(matrix, where, counts=not real)
        found = to_counts(matrix, where, counts=not real)
        return found, np.asarray(found.sum(1), np.float64).ravel()
    except InputError as error:
        if real:
            raise
        raise InputError(f"{error}; {_hint(table, matrix, where)}") from None


def places(table: Table) -> Mapping[str, Any]:
    """Return all matrices of a table by what they are called; None for one that is empty."""
    raw = table.raw()
    found: dict[str, Any] = {"adata.X": table.x}
    found |= {f"layer {name!r}": table.layers[name] for name in table.layers}
    return found if raw is None else {**found, "adata.raw": raw.x}


def _hint(table: Table, matrix: Any, where: str) -> str:
    alike = [
        name
        for name, other in places(table).items()
        if name != where and other is not None and looks_like_counts(other)
    ]
    if "adata.X" in alike:
        return "adata.X looks like counts: leave layer out"
    layers = [name.removeprefix("layer ") for name in alike if name.startswith("layer ")]
    if layers:
        return f"layer {layers[0]} looks like counts: give layer={layers[0]}"
    if alike:
        return "adata.raw looks like counts: give layer='raw'"
    if looks_normalised(matrix):
        given = "" if where == "adata.X" else f", layer={where.removeprefix('layer ')}"
        return (
            "they are normalised counts that can be turned back exactly: take "
            f"samsvae.counts_from_normalised(adata{given}) first"
        )
    return "no layer looks like counts (counts=False takes real values as they are)"


def _named(table: Table) -> str:
    return f"the layers {listed(table.layers)}" if len(table.layers) else "no layers"


class Parts(NamedTuple):
    """The parts of a screen, as `samsvae.Screen` holds them."""

    registry: NameRegistry
    cells: pd.Index
    counts: sp.csr_matrix | StoredCounts
    library_size: np.ndarray
    dosage: sp.csr_matrix
    condition_names: tuple[str, ...]
    condition: np.ndarray
    batch: np.ndarray
    sgrna: pd.Categorical | None


class Taken(NamedTuple):
    """What was taken from a table."""

    parts: Parts
    """Of all cells."""
    split: np.ndarray | None
    """`cell`: as the column says."""
    kept: np.ndarray
    """`cell`: whether it is to be kept."""


def take(table: Table, given: ScreenSettings) -> Taken:
    """Take the parts of a screen from wherever its columns and matrices are.

    Raises
    ------
    InputError
        If anything cannot be used.
    """
    given = replace(given, **given.found(list(table.cells.columns), list(table.layers)))
    layout = None if given.convention is None else convention(given.convention)
    columns.genes(table)  # empty data and repeated names are told first
    columns.check_perturbation_key(table, given.perturbation_key)
    parser = ConditionParser.of(given.controls, given.separator or "")
    label = columns.column(table, given.perturbation_key, "perturbation")
    label = _known(label, parser)
    batch_columns = {
        (key, "batch"): columns.column(table, key, "batch") for key in given.batch_keys
    }
    named = {(given.perturbation_key, "perturbation"): label, **batch_columns}
    split = None
    if given.split_key is not None:
        split = named[given.split_key, "split"] = columns.column(table, given.split_key, "split")
    labelled = labels.labelled(named, drop=given.drop_unlabelled)
    if layout is not None:
        label = np.array([None if text is None else layout.label(text) for text in label], object)
        split = None if split is None else _renamed(split, layout.splits)

    present = [str(text) for text in pd.unique(label[labelled])]
    if not columns.has_control(table, given.perturbation_key, label[labelled], parser):
        note(
            f"no cell is control ({parser.control!r}): a trained model can score these cells; "
            "nothing else can be asked of them"
        )
    asked = [written(name) for name in given.controls]
    if parser.control not in asked and any(
        parser.control in parser.split(text) for text in present
    ):
        raise InputError(
            f"{parser.control!r} is what control is written as here, and a label that is not "
            f"among control={asked}: add it (--control, once for each)"
        )
    labels.check_separator(present, parser)
    label[~labelled] = parser.control
    conditions, condition = columns.conditions(
        parser, label, columns.doses(table, given.dosage_key)
    )
    perturbations = sorted({name for received in conditions for name in received})
    labels.note_controls(perturbations, parser)

    held, matrix, where = chosen(table, given.layer, real=not given.counts)
    counts, total = counts_of(
        table, matrix, where, real=not given.counts, in_memory=given.in_memory
    )
    genes = columns.genes(held)
    filled = total > 0 if given.counts else np.ones(len(total), bool)
    if not (filled.all() or given.drop_empty_cells):
        raise InputError(
            f"{(~filled).sum()} of {len(total)} cells have no counts: leave them out with "
            "drop_empty_cells=True (--drop-empty-cells), or filter the data"
        )
    kept = filled & labelled
    _note_left_out(labelled, filled)
    if given.library_size_key is not None:
        total[kept] = columns.library_size(table, given.library_size_key, total[kept], kept)
    batches, batch = columns.batches([column[labelled] for column in batch_columns.values()])
    code = np.zeros(len(label), np.int32)
    code[labelled] = batch if batch_columns else 0
    if given.gene_key is None:
        columns.note_symbols(held, genes, perturbations)
    registry = NameRegistry(
        genes,
        tuple(perturbations),
        batches,
        parser,
        counts=given.counts,
        own_library_size=given.library_size_key is None,
        symbols=columns.symbols(held, given.gene_key),
    )
    parts = Parts(
        registry,
        pd.Index(table.cells.names.astype(str)),
        counts,
        total,
        dosage_rows(conditions, perturbations)[condition],
        tuple(parser.write(received) for received in conditions),
        condition,
        code,
        _sgrna(table, given.sgrna_key),
    )
    return Taken(parts, split, kept)


def _known(label: np.ndarray, parser: ConditionParser) -> np.ndarray:
    """Return labels; where control goes by a text for missing ones, these are control."""
    given = parser.control if parser.control in labels.MISSING else None
    return np.array([given if text is None else text for text in label], object)


def _renamed(split: np.ndarray, names: Mapping[str, str]) -> np.ndarray:
    """Return splits by other names, where all that have one occur."""
    if not set(names) <= set(pd.unique(split)):
        return split
    return np.array([names.get(name, name) for name in split], object)


def _sgrna(table: Table, key: str | None) -> pd.Categorical | None:
    if key is None:
        return None
    return pd.Categorical(columns.column(table, key, "sgRNA"))


def _note_left_out(labelled: np.ndarray, filled: np.ndarray) -> None:
    left_out = {
        "without counts": int((~filled).sum()),
        "without a label": int((~labelled).sum()),
    }
    told = [f"{n:,} {what}" for what, n in left_out.items() if n]
    if told:
        kept = int((filled & labelled).sum())
        note(f"{' and '.join(told)} of {len(filled):,} cells are left out, {kept:,} are kept")
