"""The negative binomial log density from the decoder's last hidden layer, by C code.

Plain definition: `negative_binomial.log_prob_of_hidden`. What depends on the counts and theta alone
is looked up in tables, once per cell; the rest is one pass over `particle cell gene` for value and
gradient together, in blocks of rows, so that no large matrix is ever held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from samsvae.ops import native

_TABLE = 16
"""Rows of the tables of negative_binomial.c."""
_CHEAPER = 4
"""What is looked up costs so many times less than what is computed."""
_ELEMENTS = 6_000_000
"""Largest number of logits held at once: 24 MB, which the allocator keeps for the next block."""


class LogProb(Function):
    """log p(counts), `particle cell`; see `negative_binomial.log_prob_of_hidden`.

    The gradient is taken on the way forward, when every logit is at hand, for what a training step
    descends: minus the mean over all rows. For other weights of the rows (an importance weighted
    objective) it is taken again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        log_theta: Tensor,
        counts: Tensor,
        library_size: Tensor,
        with_gradient: bool,
    ) -> Tensor:
        half = torch.is_autocast_enabled("cpu")
        ctx.products = torch.get_autocast_dtype("cpu") if half else torch.float32
        given = hidden, weight, bias, log_theta, counts.contiguous(), library_size.contiguous()
        ctx.save_for_backward(*given)
        n_rows = hidden.shape[:-1].numel()
        equal = torch.full((n_rows,), -1 / n_rows) if with_gradient else None
        value, ctx.gradients = _evaluated(_Given(*given), equal, ctx.products)
        return value.view(hidden.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        shape, weights = weights.shape, weights.flatten()
        # Handed over, not shared: autograd then takes them as they are.
        gradients, ctx.gradients = ctx.gradients, None
        scale = float(-weights[0] * len(weights))
        if gradients is None or not torch.equal(weights, weights[0].expand_as(weights)):
            given, scale = _Given(*ctx.saved_tensors), 1.0
            gradients = _evaluated(given, weights.contiguous(), ctx.products)[1]
        if scale != 1:
            gradients = [gradient * scale for gradient in gradients]
        to_hidden, *others = gradients
        return to_hidden.view(*shape, -1), *others, None, None, None


class _Given(NamedTuple):
    """What the density is taken of, as in `LogProb`."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    log_theta: Tensor
    counts: Tensor
    library_size: Tensor


def _evaluated(
    given: _Given, weights: Tensor | None, products: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """Return the density of each row, and the gradients of its sum with these weights.

    The gradients are those to hidden (`row hidden`), weight, bias and log_theta; none without
    weights. Products are taken in the type `products`, everything else in float32.
    """
    _, _, bias, log_theta, counts, library_size = given
    hidden, weight = given.hidden.flatten(0, -2).to(products), given.weight.to(products)
    n_cells, n_genes = counts.shape
    n_rows, n_categories = len(hidden), len(bias)
    theta, inverse = log_theta.exp(), (-log_theta).exp()
    n_blocks = -(-n_rows * n_categories // _ELEMENTS)
    n_threads = native.threads(n_rows * n_categories)
    out = torch.empty(n_rows)
    work = torch.empty(n_threads, 2, n_categories)
    to_bias, to_theta = torch.zeros(n_threads, n_categories), torch.zeros(n_threads, n_genes)
    if weights is not None:
        to_hidden, to_weight = (torch.empty(x.shape) for x in (hidden, weight))
    constant = _constant(given, theta, weights, to_theta)
    n_block = -(-n_rows // n_blocks)
    block = torch.empty(n_block, n_categories)
    for first in range(0, n_rows, n_block):
        rows = slice(first, first + n_block)
        logits = block[: len(out[rows])]
        _multiply(hidden[rows], weight.T, logits)
        native.call(
            "nb_rows",
            *(logits, bias, counts, library_size, theta, inverse, log_theta),
            *(None if weights is None else weights[rows], out[rows], to_bias, to_theta, work),
            *(first, len(logits), n_cells, n_genes, n_categories, n_threads),
        )
        if weights is not None:
            to_logits = logits.to(products)
            _multiply(to_logits, weight, to_hidden[rows])
            _multiply(to_logits.T, hidden[rows], to_weight, keep=first > 0)
    out = (out.view(-1, n_cells) + constant).flatten()
    if weights is None:
        return out, []
    return out, [to_hidden, to_weight, to_bias.sum(0), to_theta.sum(0)]


def _multiply(a: Tensor, b: Tensor, out: Tensor, *, keep: bool = False) -> None:
    """Write a @ b to `out`, or add it to what stands there."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=float(keep))
    else:
        out.add_(a @ b) if keep else out.copy_(a @ b)


def _constant(given: _Given, theta: Tensor, weights: Tensor | None, to_theta: Tensor) -> Tensor:
    """Return what does not depend on the mean, `cell`; its gradient is added to `to_theta`."""
    counts = given.counts
    n_cells, n_genes = counts.shape
    values, slopes = theta.new_empty(2, _TABLE, n_genes)
    native.call("nb_tables", theta, values, slopes, n_genes)
    of_cells = torch.zeros(n_cells) if weights is None else weights.view(-1, n_cells).sum(0)
    out, n_threads = torch.empty(n_cells), native.threads(counts.numel() // _CHEAPER)
    native.call(
        "nb_constant",
        *(counts, theta, values, slopes, of_cells, out, to_theta),
        *(n_cells, n_genes, n_threads),
    )
    return out
