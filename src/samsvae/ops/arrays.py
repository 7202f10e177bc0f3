"""Small loops over arrays, each with a plain form and one in C."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from samsvae.ops import native

_COST_OF_DIFFERENCE = 4
"""How many times cheaper an element is than one of a density: for the number of threads."""
_COST_OF_STANDARDISED = 4
_COST_OF_DISTANCE = 32
_PAIRED_ROWS = 4
"""Rows that the C code of distances takes at once."""


def difference_sums(values: Tensor, origin: Tensor, *, fast: bool = True) -> tuple[Tensor, Tensor]:
    """Return the sums of values - origin and its squares over rows, `column`, float64."""
    wanted = torch.is_grad_enabled() and (values.requires_grad or origin.requires_grad)
    if fast and not wanted and native.serves(values, origin):
        total, square = torch.zeros(2, values.shape[-1], dtype=torch.float64)
        n_threads = native.threads(values.numel() // _COST_OF_DIFFERENCE)
        sizes = values.shape[:-1].numel(), values.shape[-1], n_threads
        native.call(
            "difference_sums", values.contiguous(), origin.contiguous(), total, square, *sizes
        )
        return total, square
    difference = (values - origin).flatten(0, -2)
    return difference.sum(0, dtype=torch.float64), difference.square().sum(0, dtype=torch.float64)


def product_sums(
    values: Tensor, other: Tensor, *, fast: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of values, of their squares, and of values * other over rows, float64.

    `column` each. Where `other` is `values`, the last two are equal to the last digit.
    """
    if fast and native.serves(values, other) and not (values.requires_grad or other.requires_grad):
        sums = torch.zeros(3, values.shape[-1], dtype=torch.float64)
        n_threads = native.threads(values.numel() // _COST_OF_DIFFERENCE)
        sizes = values.shape[:-1].numel(), values.shape[-1], n_threads
        native.call("product_sums", values.contiguous(), other.contiguous(), *sums, *sizes)
        total, square, product = sums
        return total, square, product
    a, b = values.double().flatten(0, -2), other.double().flatten(0, -2)
    return a.sum(0), (a * a).sum(0), (a * b).sum(0)


def manhattan(a: np.ndarray, b: np.ndarray, *, fast: bool = True) -> np.ndarray:
    """Return sum_g |a_pg - b_qg|, `row row`, float64. `fast` uses the C code, if there is any."""
    left, right = (np.ascontiguousarray(x, np.float64) for x in (a, b))
    if not fast or native.library() is None:
        plain = torch.cdist(torch.from_numpy(left), torch.from_numpy(right), p=1)
        return np.asarray(plain)
    missing = -len(left) % _PAIRED_ROWS
    left = np.pad(left, ((0, missing), (0, 0)))
    distance = np.zeros((len(left), len(right)))
    n_threads = native.threads(left.size * len(right) // _COST_OF_DISTANCE)
    sizes = len(left), len(right), left.shape[1], n_threads
    native.call("manhattan", left, right, distance, *sizes)
    return distance[: len(a)]


def standardised(
    values: Tensor, center: Tensor, scale: Tensor, *, log1p: bool, fast: bool = True
) -> Tensor:
    """Return (log1p(values) - center) / scale, `cell gene`; in C, if `fast`, without a gradient."""
    if fast and native.serves(values, center, scale) and not values.requires_grad:
        values, out = (
            values.contiguous(),
            torch.empty_like(values, memory_format=torch.contiguous_format),
        )
        sizes = *values.shape, int(log1p), native.threads(values.numel() // _COST_OF_STANDARDISED)
        native.call("standardised", values, center, scale, out, *sizes)
        return out
    return ((values.log1p() if log1p else values) - center) / scale


def single(values: Tensor) -> Tensor:
    """Return bfloat16 values in single precision, for densities, and any others as they are."""
    return values.float() if values.dtype == torch.bfloat16 else values


_COMPILED_TYPES = ("uint8", "uint16", "uint32", "float32")
"""Types of values that the C code reads; columns are int32 or int64."""


def dense_rows(matrix: Any, rows: np.ndarray | slice, *, fast: bool = True) -> Tensor:
    """Return some rows of a scipy CSR matrix, dense in float32; by the C code where `fast` can."""
    if isinstance(rows, slice):
        rows = np.arange(matrix.shape[0])[rows]
    if not fast or matrix.dtype.name not in _COMPILED_TYPES or native.library() is None:
        return torch.from_numpy(matrix[rows].toarray().astype(np.float32, copy=False))
    if len(rows) > 0 and not 0 <= rows.min() <= rows.max() < matrix.shape[0]:
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {matrix.shape[0]}")
    out = torch.empty(len(rows), matrix.shape[1])
    starts = matrix.indptr.astype(matrix.indices.dtype, copy=False)
    parts = matrix.data, matrix.indices, starts, rows.astype(np.int64, copy=False)
    native.call(
        f"rows_{matrix.dtype.name}_{matrix.indices.dtype.name}",
        *(np.ascontiguousarray(part) for part in parts),
        *(out, *out.shape, native.threads(out.numel())),
    )
    return out
