"""Counts from any matrix that a file may hold; also from values normalised by a size per cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from samsvae.errors import InputError, note, quoted, unknown
from samsvae.settings.arguments import checked
from samsvae.storage.anndata_files import as_csr, by_rows

ROWS = 4096
"""Rows that are read and checked at once, which bounds the memory for any file."""
_FIRST_ROWS = 256
"""Rows from which the content of a matrix is guessed."""
_MAX_COUNT = 2**31
_ROUNDING = 1e-3
"""Largest deviation from an integer of counts that were computed, say by undoing a logarithm."""
_ZERO_ROUNDING = 1e-6
"""Largest deviation of a computed 0: shares of a cell's counts are larger."""


def to_counts(matrix: Any, where: str, *, counts: bool = True) -> sp.csr_matrix:
    """Return a matrix, `cell gene`, as CSR, checked: counts in the smallest unsigned type.

    Counts within 0.001 of an integer are rounded, with a note. Without `counts`, values are finite
    float32. `where` is what the matrix is called in messages.
    """
    if sp.issparse(matrix) and matrix.format in ("csr", "csc"):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise InputError(f"{where} is no sparse matrix: {error}") from error
    matrix = by_rows(matrix, where)
    starts = range(0, matrix.shape[0], ROWS)
    rows = (matrix[start : start + ROWS] for start in starts)
    blocks, deviations = zip(*(as_counts(one, where, counts=counts) for one in rows), strict=True)
    note_rounded(where, max(deviations))
    return sp.vstack(blocks, format="csr")


def as_counts(rows: Any, where: str, *, counts: bool) -> tuple[sp.csr_matrix, float]:
    """Return some rows as `to_counts` does, and their largest deviation from an integer."""
    if rows.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {rows.dtype} values: expected real numbers")
    block = as_csr(rows)
    block.sum_duplicates()
    values = block.data
    is_finite = np.isfinite(values)
    if not is_finite.all():
        raise InputError(
            f"{where} holds values that are not finite, {values[~is_finite][0]} for one: "
            "remove the cells or genes that have them"
        )
    if not counts:
        block.eliminate_zeros()
        return block.astype(np.float32), 0.0
    if (values < -_ZERO_ROUNDING).any():
        raise InputError(
            f"{where} holds negative values, {values.min():g} for one: expected counts"
        )
    is_whole = _is_whole(values)
    if not is_whole.all():
        raise InputError(
            f"{where} holds values that are not whole numbers, {values[~is_whole][0]:g} for one: "
            "expected counts, not normalised or log-transformed values"
        )
    if (values > _MAX_COUNT).any():
        raise InputError(f"{where} holds values above 2^31, {values.max():g} for one")
    deviation = 0.0
    if values.dtype.kind == "f":
        block.data = np.rint(values)
        deviation = float(np.abs(values - block.data).max(initial=0))
    block.eliminate_zeros()
    return block.astype(np.min_scalar_type(int(block.data.max(initial=0)))), deviation


def note_rounded(where: str, deviation: float) -> None:
    """Warn if counts were not integers."""
    if deviation:
        note(f"{where} holds values up to {deviation:.1g} from an integer: they are rounded")


def looks_like_counts(matrix: Any) -> bool:
    """Whether the first rows of a matrix hold counts, not all 0."""
    block = sp.csr_matrix(by_rows(matrix)[:_FIRST_ROWS])
    values = block.data[block.data != 0]
    if not len(values) or values.dtype.kind not in "fiub":
        return False
    in_range = values.min() > -_ZERO_ROUNDING and values.max() <= _MAX_COUNT
    return bool(in_range and _is_whole(values).all())


def _is_whole(values: np.ndarray) -> np.ndarray:
    """Whether values are integers up to rounding errors, `value`."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    whole = np.rint(values)
    return np.abs(values - whole) <= np.where(whole == 0, _ZERO_ROUNDING, _ROUNDING)


_RELATIVE_ERROR = 1e-6
"""Up to which normalised values must be those of the counts."""
_MAX_SMALLEST_COUNT = 8
"""The smallest count of a cell is assumed to be at most this."""
_MAX_TELLING_COUNT = 500
"""Larger numbers often pass for whole ones: from 50,000 on all do, by logarithms up to 1e-6."""
_MAX_EXACT_COUNT = 2.0**24
"""Larger integers are not all distinct in single precision."""

Function = Callable[[np.ndarray], np.ndarray]
_TRANSFORMS: dict[str, tuple[Function, Function]] = {
    "log(1 + x)": (np.log1p, np.expm1),
    "log2(1 + x)": (lambda x: np.log1p(x) / np.log(2), lambda y: np.expm1(y * np.log(2))),
    "x": (lambda x: x, lambda y: y),
}
"""What may have been done to c / s, and its inverse."""


@checked
def counts_from_normalised(adata: AnnData, *, layer: str | None = None) -> AnnData:
    """Recover the counts from normalised values.

    For values c / s with one size s per cell (as `scanpy.pp.normalize_total` makes them), their
    log(1 + c / s) or log2(1 + c / s): the size of a cell is 1 in all of them, or is inferred from
    its smallest value. The counts must reproduce the values to a relative 1e-6.

    Parameters
    ----------
    adata
        Cells x genes, normalised.
    layer
        The layer that holds the values; by default `adata.X`.

    Returns
    -------
    A copy without layers and `.raw`, with sparse counts in `X`; `uns["turned_back"]` names the
    transformation that was undone. It is an error if values are scaled, corrected or smoothed.

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
    found = _transform(_rows(matrix, 0, _FIRST_ROWS))
    if found is None:
        raise InputError(
            f"{where} cannot be turned back into counts: no size per cell makes its values c / s "
            "or log(1 + c / s) of whole numbers c. They are scaled, corrected or smoothed, or "
            f"ambiguous: a cell has counts above {_MAX_SMALLEST_COUNT} of every gene. Ask for the "
            "counts that it was made of"
        )
    transform, of_size_1 = found
    blocks = []
    for start in range(0, matrix.shape[0], ROWS):
        rows = _rows(matrix, start, start + ROWS)
        blocks.append(_recovered(rows, transform, of_size_1=of_size_1))
        if blocks[-1] is None:
            raise InputError(
                f"{where} cannot be turned back into counts: the first cells are {transform} of "
                f"counts over a size, but some of cells {start} to {start + ROWS - 1} are not"
            )
    obs, var, uns = adata.obs.copy(), adata.var.copy(), {"turned_back": transform}
    return AnnData(sp.vstack(blocks, "csr"), obs=obs, var=var, uns=uns)


def looks_normalised(matrix: Any) -> bool:
    """Whether counts can be recovered from the first rows of a matrix."""
    return _transform(_rows(by_rows(matrix), 0, _FIRST_ROWS)) is not None


def _rows(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    block = sp.csr_matrix(matrix[start:stop], dtype=np.float64)
    block.eliminate_zeros()
    return block


def _transform(block: sp.csr_matrix) -> tuple[str, bool] | None:
    """Return the transformation that gives counts when it is undone, and whether all sizes are 1.

    Sizes of 1 are tried first: they need no small count.
    """
    if block.nnz == 0:
        return None
    tried = [("x", True), *((name, of_1) for name in _TRANSFORMS for of_1 in (True, False))]
    for name, of_size_1 in tried:
        counts = _recovered(block, name, of_size_1=of_size_1)
        if counts is not None and not (of_size_1 and _looks_scaled(counts)):
            return name, of_size_1
    return None


def _looks_scaled(counts: sp.csr_matrix) -> bool:
    """Whether counts have a common factor, or are the same in sum: then sizes are not 1.

    Or all are so large that other values would pass for whole numbers, too.
    """
    total = np.asarray(counts.sum(1)).ravel()
    is_same = len(total) > 1 and bool((total == total[0]).all())
    tells_nothing = bool(counts.data.min() > _MAX_TELLING_COUNT)
    return is_same or tells_nothing or int(np.gcd.reduce(counts.data.astype(np.int64))) > 1


def _recovered(block: sp.csr_matrix, transform: str, *, of_size_1: bool) -> sp.csr_matrix | None:
    """Return the counts of some cells; None if the values do not determine them."""
    forward, inverse = _TRANSFORMS[transform]
    if (block.data < 0).any() or not np.isfinite(block.data).all():
        return None
    with np.errstate(over="ignore"):
        linear = inverse(block.data)
    if not np.isfinite(linear).all():
        return None
    cell = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    smallest = np.full(block.shape[0], np.inf)
    np.minimum.at(smallest, cell, linear)
    counts = np.zeros(len(linear))
    is_open = np.diff(block.indptr) > 0
    for smallest_count in (1,) if of_size_1 else range(1, _MAX_SMALLEST_COUNT + 1):
        if of_size_1:
            whole, size = np.rint(linear), np.ones(len(smallest))
        else:
            whole = np.rint(linear * (smallest_count / smallest[cell]))
            # The size that fits all values of a cell best, not the smallest one's alone.
            size = np.bincount(cell, linear, len(smallest)) / np.maximum(
                np.bincount(cell, whole, len(smallest)), 1
            )
        error = np.abs(forward(whole * size[cell]) - block.data)
        wrong = error > _RELATIVE_ERROR * np.maximum(block.data, _RELATIVE_ERROR)
        wrong |= (whole > _MAX_EXACT_COUNT) | (whole < 1)
        fits = is_open & (np.bincount(cell, wrong, len(smallest)) == 0)
        counts = np.where(fits[cell], whole, counts)
        is_open &= ~fits
        if not is_open.any():
            break
    if is_open.any():
        return None
    return sp.csr_matrix(
        (counts.astype(np.float32), block.indices, block.indptr), shape=block.shape
    )
