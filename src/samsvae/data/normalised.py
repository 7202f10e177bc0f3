"""Counts out of normalised values: c / s, or log(1 + c / s), with one s per cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.files.anndata_files import by_rows
from samsvae.errors import InputError, quoted, unknown
from samsvae.settings.arguments import checked

_ROWS = 4096
_EXACT = 1e-6
"""Relative error up to which the values are those of the counts."""
_SMALLEST = 8
"""The smallest count of a cell is tried up to it."""
_LARGEST = 2.0**24
"""Counts above it cannot be told from their neighbours in single precision."""

Inverse = Callable[[np.ndarray], np.ndarray]
_KINDS: dict[str, tuple[Inverse, Inverse]] = {
    "log(1 + x)": (np.log1p, np.expm1),
    "log2(1 + x)": (lambda x: np.log1p(x) / np.log(2), lambda y: np.expm1(y * np.log(2))),
    "x": (lambda x: x, lambda y: y),
}
"""What was done to normalised counts, and what undoes it."""


@checked
def counts_from_normalised(adata: AnnData, *, layer: str | None = None) -> AnnData:
    """Turn normalised values back into the counts they were made of.

    For values c / s with one size s per cell (as `scanpy.pp.normalize_total` makes them), their
    log(1 + c / s) or log2(1 + c / s): every cell's sizes are found from its smallest value, and the
    counts are checked to give the values back to a relative 1e-6.

    Parameters
    ----------
    adata
        Cells x genes, normalised.
    layer
        The layer that holds the values; by default `adata.X`.

    Returns
    -------
    A copy with the counts in `X`, sparse; layers and `.raw` are left out. `uns["turned_back"]`
    tells what was undone.

    Raises
    ------
    InputError
        If the values are not such: scaled, corrected or smoothed ones cannot be turned back.

    Examples
    --------
    >>> counts = np.array([[1, 0, 3], [2, 1, 0]])
    >>> adata = AnnData(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
    >>> counts_from_normalised(adata).X.toarray().astype(int)
    array([[1, 0, 3],
           [2, 1, 0]])
    """
    if layer is not None and layer not in adata.layers:
        raise unknown("layer", layer, list(adata.layers))
    where = "adata.X" if layer is None else f"layer {quoted(layer)}"
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise InputError(f"{where} is empty: expected normalised values")
    matrix = by_rows(matrix)
    kind = _kind(_block(matrix, 0, 256))
    if kind is None:
        raise InputError(
            f"{where} cannot be turned back into counts: no size per cell makes its values c / s "
            "or log(1 + c / s) of whole numbers c; ask for the counts that it was made of"
        )
    blocks = []
    for start in range(0, matrix.shape[0], _ROWS):
        block = _counts(_block(matrix, start, start + _ROWS), kind)
        if block is None:
            raise InputError(
                f"{where} cannot be turned back into counts: the first cells are {kind} of counts "
                f"over a size, but some of cells {start} to {start + _ROWS - 1} are not"
            )
        blocks.append(block)
    return AnnData(
        sp.vstack(blocks, "csr"),
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns={"turned_back": kind},
    )


def looks_normalised(matrix: Any) -> bool:
    """Whether the first rows of a matrix can be turned back into counts."""
    return _kind(_block(by_rows(matrix), 0, 256)) is not None


def _block(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    block = sp.csr_matrix(matrix[start:stop], dtype=np.float64)
    block.eliminate_zeros()
    return block


def _kind(block: sp.csr_matrix) -> str | None:
    if block.nnz == 0 or not np.isfinite(block.data).all() or (block.data < 0).any():
        return None
    return next((kind for kind in _KINDS if _counts(block, kind) is not None), None)


def _counts(block: sp.csr_matrix, kind: str) -> sp.csr_matrix | None:
    """Return the counts of some cells; None if they cannot be turned back."""
    forward, back = _KINDS[kind]
    if (block.data < 0).any() or not np.isfinite(block.data).all():
        return None
    with np.errstate(over="ignore"):
        linear = back(block.data)
    if not np.isfinite(linear).all():
        return None
    cell = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    smallest = np.full(block.shape[0], np.inf)
    np.minimum.at(smallest, cell, linear)
    found = np.zeros(len(linear))
    open_ = np.diff(block.indptr) > 0
    for least in range(1, _SMALLEST + 1):
        whole = np.rint(linear * (least / smallest[cell]))
        # The size that fits all values of a cell best, not the smallest one's alone.
        size = np.bincount(cell, linear, len(smallest)) / np.maximum(
            np.bincount(cell, whole, len(smallest)), 1
        )
        given = forward(whole * size[cell])
        wrong = np.abs(given - block.data) > _EXACT * np.maximum(block.data, _EXACT)
        wrong |= (whole > _LARGEST) | (whole < 1)
        fits = open_ & (np.bincount(cell, wrong, len(smallest)) == 0)
        found = np.where(fits[cell], whole, found)
        open_ &= ~fits
        if not open_.any():
            break
    if open_.any():
        return None
    return sp.csr_matrix((found.astype(np.float32), block.indices, block.indptr), shape=block.shape)
