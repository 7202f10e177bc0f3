"""Rows of a sparse matrix, written out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.ops import native

_VALUES = ("uint8", "uint16", "uint32", "float32")
"""What the C code reads; its columns are int32 or int64."""


def dense(matrix: sp.csr_matrix, rows: np.ndarray | slice, *, fast: bool = True) -> Tensor:
    """Return some rows, `row column`, in float32.

    Parameters
    ----------
    matrix
        Its rows can be taken: a CSR matrix.
    rows
        Their positions, none negative.
    fast
        Use the C code where it serves; else scipy, which makes a sparse matrix of them before.
    """
    if isinstance(rows, slice):
        rows = np.arange(matrix.shape[0])[rows]
    if not fast or matrix.dtype.name not in _VALUES or native.library() is None:
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
