"""Sums of differences and of their squares."""

from __future__ import annotations

import torch
from torch import Tensor

from samsvae.ops import native

_CHEAPER = 4
"""An element costs so many times less than one of a density."""


def difference_sums(values: Tensor, origin: Tensor, *, fast: bool = True) -> tuple[Tensor, Tensor]:
    """Return the sums of values - origin and of its squares over rows, `column`, float64.

    Parameters
    ----------
    values, origin
        `... column`, of one shape.
    fast
        Use the C code where it serves and no gradient is wanted: one pass instead of four; else
        what stands here, which is its definition.
    """
    wanted = torch.is_grad_enabled() and (values.requires_grad or origin.requires_grad)
    if fast and not wanted and native.serves(values, origin):
        total, square = torch.zeros(2, values.shape[-1], dtype=torch.float64)
        n_threads = native.threads(values.numel() // _CHEAPER)
        sizes = values.shape[:-1].numel(), values.shape[-1], n_threads
        native.call(
            "difference_sums", values.contiguous(), origin.contiguous(), total, square, *sizes
        )
        return total, square
    difference = (values - origin).flatten(0, -2)
    return difference.sum(0, dtype=torch.float64), difference.square().sum(0, dtype=torch.float64)
