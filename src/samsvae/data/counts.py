"""Counts from any matrix an AnnData file may hold, as CSR of the smallest integer type."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from samsvae.data.files.anndata_files import as_csr, by_rows
from samsvae.errors import InputError, note

ROWS = 4096
"""Rows that are read and checked at once: bounds the memory, whatever the file."""
_RESIDUE = 1e-3
"""Counts that were computed, such as by undoing a logarithm, are whole but for so much."""
_NOTHING = 1e-6
"""A computed 0 is at most so far from it: shares of a cell's counts are larger."""
_LARGEST = 2**31
"""No count is as large."""


def to_counts(matrix: Any, where: str, *, counts: bool = True) -> sp.csr_matrix:
    """Return a matrix as CSR, checked: counts in the smallest unsigned type that holds them.

    Parameters
    ----------
    matrix
        Dense, CSR, CSC, or a backed array of an open file; `cell gene`.
    where
        What the matrix is called in messages.
    counts
        False admits any finite real values, kept as float32. Counts may miss whole numbers by
        1e-3: they are rounded, with a note.

    Raises
    ------
    InputError
        If a value is not finite or, for counts, negative, not whole or above 2^31.
    """
    if sp.issparse(matrix) and matrix.format in ("csr", "csc"):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise InputError(f"{where} is no sparse matrix: {error}") from error
    matrix = by_rows(matrix, where)
    blocks, residue = [], 0.0
    for start in range(0, matrix.shape[0], ROWS):
        block, missed = as_counts(matrix[start : start + ROWS], where, counts=counts)
        blocks.append(block)
        residue = max(residue, missed)
    note_rounded(where, residue)
    return sp.vstack(blocks, format="csr")


def as_counts(rows: Any, where: str, *, counts: bool) -> tuple[sp.csr_matrix, float]:
    """Return some rows as `to_counts` does, and by how much they missed whole numbers."""
    if rows.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {rows.dtype} values: expected real numbers")
    block = as_csr(rows)
    block.sum_duplicates()
    _check(block.data, where, counts=counts)
    residue = 0.0
    if counts and block.dtype.kind == "f":
        whole = np.rint(block.data)
        residue = float(np.abs(block.data - whole).max(initial=0))
        block.data = whole
    block.eliminate_zeros()
    kind = np.min_scalar_type(int(block.data.max(initial=0))) if counts else np.float32
    return block.astype(kind), residue


def note_rounded(where: str, residue: float) -> None:
    """Tell that counts were no whole numbers, if they were not."""
    if residue:
        note(f"{where} is whole but for {residue:.1g}: rounded to whole numbers")


def looks_like_counts(matrix: Any) -> bool:
    """Whether the first rows of a matrix hold counts, not all 0."""
    block = sp.csr_matrix(by_rows(matrix)[:256])
    values = block.data[block.data != 0]
    return (
        len(values) > 0
        and values.dtype.kind in "fiub"
        and bool(values.min() > -_NOTHING and _is_whole(values).all() and values.max() <= _LARGEST)
    )


def _is_whole(values: np.ndarray) -> np.ndarray:
    """Whether values are whole but for rounding; what rounds to 0 has to be hardly anything."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    whole = np.rint(values)
    return np.abs(values - whole) <= np.where(whole == 0, _NOTHING, _RESIDUE)


def _check(values: np.ndarray, where: str, *, counts: bool) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            f"{where} holds values that are not finite, {values[bad][0]} for one: "
            "remove the cells or genes that have them"
        )
    if not counts:
        return
    if (values < -_NOTHING).any():
        raise InputError(
            f"{where} holds negative values, {values.min():g} for one: expected counts"
        )
    whole = _is_whole(values)
    if not whole.all():
        raise InputError(
            f"{where} holds values that are not whole numbers, {values[~whole][0]:g} for one: "
            "expected counts, not normalised or log-transformed values"
        )
    if (values > _LARGEST).any():
        raise InputError(f"{where} holds values above 2^31, {values.max():g} for one")
