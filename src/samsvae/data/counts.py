"""Counts from any matrix an AnnData file may hold, as CSR of the smallest integer type."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from samsvae.data.sparse import StoredRows
from samsvae.errors import InputError

_ROWS = 4096
"""Rows that are read and checked at once: bounds the memory, whatever the file."""


def to_counts(matrix: Any, where: str, *, counts: bool = True) -> sp.csr_matrix:
    """Return a matrix as CSR, checked: counts in the smallest unsigned type that holds them.

    Parameters
    ----------
    matrix
        Dense, CSR, CSC, or a backed array of an open file; `cell gene`.
    where
        What the matrix is called in messages.
    counts
        False admits any finite real values, kept as float32.

    Raises
    ------
    InputError
        If a value is not finite or, for counts, negative or not whole.
    """
    if hasattr(matrix, "group"):  # of a backed AnnData
        matrix = StoredRows(matrix.group, tuple(matrix.shape), where)
    if sp.issparse(matrix) and matrix.format in ("csr", "csc"):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise InputError(f"{where} is no sparse matrix: {error}") from error
    if sp.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    if getattr(matrix, "by_column", False):  # taking rows would read all of it each time
        matrix = matrix.to_memory().tocsr()
    if matrix.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {matrix.dtype} values: expected real numbers")
    blocks = []
    for start in range(0, matrix.shape[0], _ROWS):
        rows = matrix[start : start + _ROWS]
        block = sp.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)
        block.sum_duplicates()
        block.eliminate_zeros()
        _check(block.data, where, counts=counts)
        kind = np.min_scalar_type(int(block.data.max(initial=0))) if counts else np.float32
        blocks.append(block.astype(kind))
    return sp.vstack(blocks, format="csr")


def looks_like_counts(matrix: Any) -> bool:
    """Whether the first rows of a matrix hold non-negative whole numbers, not all 0."""
    if getattr(matrix, "by_column", False):
        matrix = matrix.to_memory().tocsr()
    block = sp.csr_matrix(matrix[:256])
    values = block.data[block.data != 0]
    return len(values) > 0 and bool(np.all(values > 0) and np.all(values == np.floor(values)))


def _check(values: np.ndarray, where: str, *, counts: bool) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            f"{where} holds values that are not finite, {values[bad][0]} for one: "
            "remove the cells or genes that have them"
        )
    if not counts:
        return
    if (values < 0).any():
        raise InputError(
            f"{where} holds negative values, {values.min():g} for one: expected counts"
        )
    whole = values == np.floor(values)
    if not whole.all():
        raise InputError(
            f"{where} holds values that are not whole numbers, {values[~whole][0]:g} for one: "
            "expected counts, not normalised or log-transformed values"
        )
