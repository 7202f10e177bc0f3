"""Columns and matrices that a screen is made of, checked."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.counts import looks_like_counts, to_counts
from samsvae.data.notation import Notation
from samsvae.data.table import Table
from samsvae.errors import InputError, listed, unknown


def genes(table: Table) -> tuple[str, ...]:
    """Return the names of the genes, refusing empty data and repeated names."""
    n_cells, n_genes = len(table.cells), len(table.genes)
    if n_cells == 0 or n_genes == 0:
        raise InputError(f"the data have {n_cells} cells and {n_genes} genes")
    names = pd.Index(table.genes.astype(str))
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise InputError(
            f"{len(twice)} gene names occur more than once, {listed(twice, 3)}: "
            "make them unique, say with adata.var_names_make_unique()"
        )
    return tuple(names)


def column(table: Table, key: str, what: str, kept: np.ndarray | None = None) -> np.ndarray:
    """Return a column of obs as text, refusing missing values; with `kept`, of some cells."""
    values = _of_obs(table, key, what)
    if kept is not None:
        values = values[kept]
    n_missing = int(values.isna().sum())
    if n_missing:
        raise InputError(
            f"obs[{key!r}] lacks the {what} of {n_missing} of {len(values)} cells: "
            "fill it in, or leave those cells out"
        )
    text = values.astype(str).to_numpy(dtype=object)
    trimmed = np.array([one.strip() for one in text], object)
    n_trimmed = int((trimmed != text).sum())
    if n_trimmed:
        warnings.warn(
            f"obs[{key!r}] has spaces around the {what} of {n_trimmed} cells: read without them",
            stacklevel=2,
        )
    return trimmed


def _of_obs(table: Table, key: str, what: str) -> pd.Series:
    if key not in table.columns:
        raise unknown(f"column for the {what} in adata.obs:", key, list(table.columns))
    return table.column(key)


def conditions(
    table: Table, notation: Notation, perturbation_key: str, dosage_key: str | None
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Return the conditions, control first, and which of them each cell received."""
    label = column(table, perturbation_key, "perturbation")
    present = set(pd.unique(label))
    if notation.control not in present:
        raise unknown(
            f"control label in obs[{perturbation_key!r}]:", notation.control, sorted(present)
        )
    doses: np.ndarray | list[None] = [None] * len(label)
    if dosage_key is not None:
        # Control cells need no dose: whatever stands there, they received nothing.
        doses = _of_obs(table, dosage_key, "dosage").astype(object).to_numpy()
    keyed: dict[tuple[str, object], str] = {}
    found: dict[str, dict[str, float]] = {notation.control: {}}
    names = []
    for key in zip(label, map(_hashable, doses), strict=True):
        if key not in keyed:
            condition = _condition(notation, *key, given=dosage_key is not None)
            keyed[key] = notation.write(condition)
            found[keyed[key]] = condition
        names.append(keyed[key])
    order = [notation.control, *sorted(found.keys() - {notation.control})]
    position = {name: i for i, name in enumerate(order)}
    return [found[name] for name in order], np.array([position[n] for n in names], np.int32)


def _hashable(dose: object) -> object:
    """Return one value for all missing doses: nan does not equal itself."""
    return None if pd.isna(dose) else dose


def _condition(notation: Notation, label: str, dose: object, *, given: bool) -> dict[str, float]:
    if not given or not notation.condition(label):
        return notation.condition(label)
    if dose is None:
        raise InputError(f"a cell with the label {label!r} has no dosage")
    return notation.condition(label, notation.doses(dose))


def counts(table: Table, layer: str | None, *, real: bool) -> sp.csr_matrix:
    """Return the counts of `adata.X` or a layer, `cell gene`; `real` admits real values."""
    if layer is not None and layer not in table.layers:
        raise unknown("layer", layer, list(table.layers))
    where = "adata.X" if layer is None else f"layer {layer!r}"
    matrix = table.x if layer is None else table.layers[layer]
    if matrix is None:
        raise InputError(f"adata.X is empty: give a layer, one of {listed(table.layers)}")
    try:
        return to_counts(matrix, where, counts=not real)
    except InputError as error:
        if real:
            raise
        others = [name for name in table.layers if name != layer]
        alike = [name for name in others if looks_like_counts(table.layers[name])]
        if alike:
            hint = f"layer {alike[0]!r} looks like counts: give layer={alike[0]!r}"
        elif layer is not None and table.x is not None and looks_like_counts(table.x):
            hint = "adata.X looks like counts: leave layer out"
        else:
            hint = "no layer looks like counts (counts=False takes real values as they are)"
        raise InputError(f"{error}; {hint}") from None


def library_size(table: Table, key: str, counted: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return a column of total counts, none below what is `counted` of the cell in the file.

    Both are of the cells that are `kept`.
    """
    text = column(table, key, "library size", kept)
    size = pd.to_numeric(pd.Series(text), errors="coerce").to_numpy(np.float64)
    wrong = ~((size > 0) & (size <= 2.0**31))  # nan is neither
    if wrong.any():
        raise InputError(
            f"obs[{key!r}] is not a positive number of at most 2^31 for {int(wrong.sum())} cells, "
            f"{text[wrong][0]!r} for one: expected total counts"
        )
    below = size < counted * (1 - 1e-6)
    if below.any():
        raise InputError(
            f"obs[{key!r}] is below the cell's counts in the file for {int(below.sum())} cells, "
            f"{size[below][0]:g} against {counted[below][0]:g} for one: expected total counts, "
            "not size factors"
        )
    return size


def batches(table: Table, key: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the batches and the batch of each cell; no names without a key."""
    if key is None:
        return (), np.zeros(len(table.cells), np.int32)
    names, codes = np.unique(column(table, key, "batch").astype(str), return_inverse=True)
    return tuple(map(str, names)), codes.astype(np.int32)
