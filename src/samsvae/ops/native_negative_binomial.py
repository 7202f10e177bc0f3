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
        products = torch.get_autocast_dtype("cpu") if half else torch.float32
        given = _Given(
            hidden.detach().flatten(0, -2).to(products),
            weight.detach().to(products),
            bias.detach(),
            log_theta.detach(),
            counts.contiguous(),
            library_size.contiguous(),
        )
        n_rows = len(given.hidden)
        equal = torch.full((n_rows,), -1 / n_rows) if with_gradient else None
        value, gradients = _evaluated(given, equal)
        ctx.given, ctx.gradients = given, gradients
        return value.view(hidden.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        shape, weights = weights.shape, weights.flatten()
        # Handed over, not shared: autograd then takes them as they are.
        gradients, ctx.gradients = ctx.gradients, None
        scale = float(-weights[0] * len(weights))
        if gradients is None or not torch.equal(weights, weights[0].expand_as(weights)):
            gradients, scale = _evaluated(ctx.given, weights.contiguous())[1], 1.0
        if scale != 1:
            gradients = [gradient * scale for gradient in gradients]
        to_hidden, *others = gradients
        return to_hidden.view(*shape, -1), *others, None, None, None


class _Given(NamedTuple):
    """What the density is taken of: `hidden` is `row hidden`, the rest as in `LogProb`.

    Products are taken in the precision of hidden and weight, everything else in float32.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    log_theta: Tensor
    counts: Tensor
    library_size: Tensor


def _evaluated(given: _Given, weights: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Return the density of each row, and the gradients of its sum with these weights.

    The gradients are those to hidden, weight, bias and log_theta; none without weights.
    """
    hidden, weight, bias, log_theta, counts, library_size = given
    n_cells, n_genes = counts.shape
    n_rows, n_categories = len(hidden), len(bias)
    theta = log_theta.exp()
    n_blocks = -(-n_rows * n_categories // _ELEMENTS)
    n_threads = native.threads(n_rows * n_categories)
    out = torch.empty(n_rows)
    work = torch.empty(n_threads, 2, n_categories)
    to_bias, to_theta = torch.zeros(n_threads, n_categories), torch.zeros(n_threads, n_genes)
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
            *(logits, bias, counts, library_size, theta, 1 / theta, log_theta),
            *(None if weights is None else weights[rows], out[rows], to_bias, to_theta, work),
            *(first, len(logits), n_cells, n_genes, n_categories, n_threads),
        )
        if weights is not None:
            to_logits = logits.to(hidden.dtype)
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
    values, slopes = theta.new_empty(2, _TABLE * n_genes + 16)
    native.call("nb_tables", theta, values, slopes, n_genes)
    of_cells = torch.zeros(n_cells) if weights is None else weights.view(-1, n_cells).sum(0)
    out, n_threads = torch.empty(n_cells), native.threads(counts.numel() // _CHEAPER)
    native.call(
        "nb_constant",
        *(counts, theta, values, slopes, of_cells, out, to_theta),
        *(n_cells, n_genes, n_threads),
    )
    return out
