"""From a table to the parts of a screen, checking everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data import columns, dosage, labels, matrices
from samsvae.data.notation import Notation, written
from samsvae.data.stored import StoredCounts
from samsvae.data.table import Table
from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError, note
from samsvae.settings.conventions import convention
from samsvae.settings.screen import ScreenSettings


class Parts(NamedTuple):
    """The parts of a screen, as `samsvae.Screen` holds them."""

    vocabulary: Vocabulary
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
    notation = Notation.of(given.controls, given.separator or "")
    label = columns.column(table, given.perturbation_key, "perturbation")
    label = _known(label, notation)
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
    if not columns.has_control(table, given.perturbation_key, label[labelled], notation):
        note(
            f"no cell is control ({notation.control!r}): a trained model can score these cells; "
            "nothing else can be asked of them"
        )
    asked = [written(name) for name in given.controls]
    if notation.control not in asked and any(
        notation.control in notation.split(text) for text in present
    ):
        raise InputError(
            f"{notation.control!r} is what control is written as here, and a label that is not "
            f"among control={asked}: add it (--control, once for each)"
        )
    labels.check_separator(present, notation)
    label[~labelled] = notation.control
    conditions, condition = columns.conditions(
        notation, label, columns.doses(table, given.dosage_key)
    )
    perturbations = sorted({name for received in conditions for name in received})
    labels.note_controls(perturbations, notation)

    held, matrix, where = matrices.chosen(table, given.layer, real=not given.counts)
    counts, total = matrices.counts(
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
    vocabulary = Vocabulary(
        genes,
        tuple(perturbations),
        batches,
        notation,
        counts=given.counts,
        own_library_size=given.library_size_key is None,
        symbols=columns.symbols(held, given.gene_key),
    )
    parts = Parts(
        vocabulary,
        pd.Index(table.cells.names.astype(str)),
        counts,
        total,
        dosage.rows(conditions, perturbations)[condition],
        tuple(notation.write(received) for received in conditions),
        condition,
        code,
        _sgrna(table, given.sgrna_key),
    )
    return Taken(parts, split, kept)


def _known(label: np.ndarray, notation: Notation) -> np.ndarray:
    """Return labels; where control goes by a text for missing ones, these are control."""
    given = notation.control if notation.control in labels.MISSING else None
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
