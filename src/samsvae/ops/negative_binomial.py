"""The negative binomial distribution, by mean and inverse dispersion: plain, and by C code."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from samsvae.ops import native
from samsvae.ops.arrays import single

_DRAW = 8
"""A draw costs as much as so many elements of a density."""
_LARGEST = 2.0**20
"""Largest rate that is drawn one count after the other."""
_SHIFT = 4
"""Steps by which the argument of the gamma function is raised before Stirling's series is used."""
_STIRLING = 1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360


def log_prob_at_counts(counts: Tensor, log_theta: Tensor) -> Tensor:
    """Return the log density of counts with the counts themselves as mean, `cell gene`, nats.

    log p(x | mu = x) = log(theta / (2 pi x (x + theta))) / 2 + s(x + theta) - s(theta) - s(x),

    and 0 for x = 0, with `stirling_error` s. No term grows with the counts: in float32 it holds for
    any count and theta.

    References
    ----------
    Loader: Fast and accurate computation of binomial probabilities, 2000.
    """
    theta, positive = log_theta.exp(), counts.clamp(min=1)
    total = positive + theta
    density = (log_theta - (2 * math.pi * positive).log() - total.log()) / 2
    density = density + stirling_error(total) - stirling_error(positive)
    # Of theta, which may be near 0, one step further down.
    of_theta = stirling_error(1 + theta) + (theta + 0.5) * torch.log1p(1 / theta) - 1
    return torch.where(counts > 0, density - of_theta, 0 * counts)  # 0 * counts: NaN stays


def stirling_error(a: Tensor) -> Tensor:
    """Return log Gamma(a) - [(a - 1/2) log a - a + log(2 pi) / 2] for a >= 1.

    About 1 / (12 a): by s(a) = s(a + 1) + (a + 1/2) log(1 + 1/a) - 1, four times, and Stirling's
    series (error below 1e-11). Less than the gamma function costs, most of all its gradient.
    """
    inverse = 1 / (a + _SHIFT)
    square = inverse * inverse
    series = torch.full_like(a, _STIRLING[-1])
    for coefficient in reversed(_STIRLING[:-1]):
        series = series * square + coefficient
    rest = inverse * series - _SHIFT
    for k in range(_SHIFT):
        rest = rest + (a + (k + 0.5)) * torch.log1p(1 / (a + k))
    return rest


def log_prob(counts: Tensor, mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return the log density of counts, summed over genes, `particle cell`, nats.

    log p(x | mu) = log p(x | mu = x) - D / 2, with the deviance

    D/2 = x log1p(theta (x - mu) / (mu (x + theta))) + theta log1p((mu - x) / (x + theta))

    and variance mu + mu^2 / theta; x is `cell gene`, mu `[particle] cell gene`, theta `gene`. Terms
    of the size of the counts, which would cancel, do not occur. The gamma functions do not depend
    on the mean: they are evaluated once per cell, whatever the number of particles.
    """
    theta = log_theta.exp()
    total = counts + theta
    excess = counts - mean
    # A ratio near -1 belongs to a term that is 0 or negligible: it must only stay finite.
    less = 1 - 2 * torch.finfo(mean.dtype).eps
    of_counts = torch.log1p(excess / mean * (less * theta / total))
    of_theta = torch.log1p(excess * (-less / total))
    half_deviance = counts * of_counts + theta * of_theta
    return log_prob_at_counts(counts, log_theta).sum(-1) - half_deviance.sum(-1)


def log_prob_of_hidden(
    counts: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    library_size: Tensor,
    log_theta: Tensor,
    *,
    fast: bool = True,
) -> Tensor:
    """Return the log density of counts with mean l softmax(W h + b) + 1e-4, `particle cell`, nats.

    The categories of the softmax are the genes, followed by the unobserved rest of the library, if
    any. `hidden` is `particle cell hidden`, `weight` `category hidden`. `fast` uses the C code
    where it can; the code below is its definition.
    """
    leaves = hidden, weight, bias, log_theta
    fast = fast and hidden.dtype in (torch.float32, torch.bfloat16) and hidden.numel() > 0
    if fast and native.serves(*leaves[1:], counts, library_size):
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in leaves)
        result: Tensor = LogProb.apply(*leaves, counts, library_size, wanted)
        return result
    logits = single(F.linear(hidden, weight)) + bias
    share = logits.softmax(-1)[..., : counts.shape[-1]]
    return log_prob(counts, library_size.unsqueeze(-1) * share + 1e-4, log_theta)


def mean_of_hidden(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    size: Tensor,
    *,
    floor: float = 0.0,
    fast: bool = True,
) -> Tensor:
    """Return size softmax(W h + b) + floor, `... category`; by C, if `fast`, without a gradient."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden, weight, bias))
    if fast and not wanted and native.serves(hidden, weight, bias, size) and hidden.numel() > 0:
        means = F.linear(hidden.flatten(0, -2), weight)
        sizes, n_threads = size.expand(hidden.shape[:-1]).flatten(), native.threads(means.numel())
        work = means.new_empty(n_threads, len(bias))
        arguments = means, bias, sizes.contiguous(), work, float(floor)
        native.call("nb_means", *arguments, *means.shape, n_threads)
        return means.view(*hidden.shape[:-1], len(bias))
    return size.unsqueeze(-1) * F.linear(hidden, weight, bias).softmax(-1) + floor


def gamma_noise(log_theta: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw Gamma(theta, 1) / theta, `*shape gene`: the part of the noise that has mean 1."""
    theta = log_theta.exp().expand(*shape, -1).contiguous()
    return torch._standard_gamma(theta, generator=generator) / theta


def poisson_coupled(
    counts: Tensor,
    rate: Tensor,
    new_rate: Tensor,
    generator: torch.Generator,
    *,
    fast: bool = True,
) -> Tensor:
    """Draw Poisson(new_rate) given that `counts` was drawn from Poisson(rate).

    Where the rate falls, counts are thinned; where it rises, the difference is added. Equal rates
    give equal counts: two arms of an effect share their noise. `fast` uses the C code where it can.
    """
    counts, rate, new_rate = (
        x.contiguous() for x in torch.broadcast_tensors(counts, rate, new_rate)
    )
    served = fast and native.serves(counts, rate, new_rate)
    if served and all(bool(x.max() <= _LARGEST) for x in (counts, rate, new_rate)):  # nor is NaN
        seed = int(torch.randint(2**62, (1,), generator=generator))
        drawn = torch.empty_like(counts)
        n_genes = counts.shape[-1]
        n_threads = native.threads(_DRAW * counts.numel())
        sizes = seed, counts.numel() // n_genes, n_genes, n_threads
        native.call("poisson_coupled", counts, rate, new_rate, drawn, *sizes)
        return drawn
    share = (new_rate / rate).nan_to_num(nan=1.0).clamp(max=1)  # 0 / 0: both rates are 0
    kept = torch.binomial(counts, share, generator=generator)
    return kept + torch.poisson((new_rate - rate).clamp(min=0), generator=generator)


_TABLE = 16
"""Rows of the tables of negative_binomial.c."""
_RELATIVE_COST = 4
"""What is looked up costs so many times less than what is computed."""
_ELEMENTS = 6_000_000
"""Largest number of logits held at once: 24 MB, which the allocator keeps for the next block."""


class LogProb(Function):
    """log p(counts), `particle cell`; see `log_prob_of_hidden`.

    The forward pass also takes the gradient of minus the mean over all rows, which training needs;
    for other weights of the rows the backward pass takes it again.
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
        arguments = hidden, weight, bias, log_theta, counts.contiguous(), library_size.contiguous()
        ctx.save_for_backward(*arguments)
        n_rows = hidden.shape[:-1].numel()
        equal = torch.full((n_rows,), -1 / n_rows) if with_gradient else None
        ctx.of_weight = ctx.needs_input_grad[1]
        value, ctx.gradients = _evaluated(arguments, equal, ctx.products, ctx.of_weight)
        return value.view(hidden.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        shape, weights = weights.shape, weights.flatten()
        # Handed over, not shared: autograd then takes them as they are.
        gradients, ctx.gradients = ctx.gradients, None
        scale = float(-weights[0] * len(weights))
        if gradients is None or not torch.equal(weights, weights[0].expand_as(weights)):
            scale = 1.0
            given = weights.contiguous(), ctx.products, ctx.of_weight
            gradients = _evaluated(ctx.saved_tensors, *given)[1]
        if scale != 1:
            gradients = [None if one is None else one * scale for one in gradients]
        to_hidden, *others = gradients
        return to_hidden.view(*shape, -1), *others, None, None, None


def _evaluated(
    arguments: tuple[Tensor, ...],
    weights: Tensor | None,
    products: torch.dtype,
    of_weight: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the density of each row, and the gradients of its weighted sum over rows.

    The arguments are those of `LogProb`, the gradients those of hidden (`row hidden`), weight, bias
    and log_theta; none without weights, that of weight, a large product, only if `of_weight`.
    Products are in the type `products`, the rest in float32.
    """
    hidden, weight, bias, log_theta, counts, library_size = arguments
    hidden, weight = hidden.flatten(0, -2).to(products), weight.to(products)
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
    constant = _constant(counts, theta, weights, to_theta)
    n_block = -(-n_rows // n_blocks)
    block = torch.empty(n_block, n_categories)
    for first in range(0, n_rows, n_block):
        rows = slice(first, first + n_block)
        logits = block[: len(out[rows])]
        _multiply(hidden[rows], weight.T, logits)
        native.call(
            "nb_rows",
            *(logits, bias, counts, library_size, theta, inverse),
            *(None if weights is None else weights[rows], out[rows], to_bias, to_theta, work),
            *(first, len(logits), n_cells, n_genes, n_categories, n_threads),
        )
        if weights is not None:
            to_logits = logits.to(products)
            _multiply(to_logits, weight, to_hidden[rows])
            if of_weight:
                _multiply(to_logits.T, hidden[rows], to_weight, keep=first > 0)
    out = (out.view(-1, n_cells) + constant).flatten()
    if weights is None:
        return out, []
    return out, [to_hidden, to_weight if of_weight else None, to_bias.sum(0), to_theta.sum(0)]


def _multiply(a: Tensor, b: Tensor, out: Tensor, *, keep: bool = False) -> None:
    """Write a @ b to `out`, or add it."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=float(keep))
    else:
        out.add_(a @ b) if keep else out.copy_(a @ b)


def _constant(counts: Tensor, theta: Tensor, weights: Tensor | None, to_theta: Tensor) -> Tensor:
    """Return the terms that do not depend on the mean, `cell`; add their gradient to `to_theta`."""
    n_cells, n_genes = counts.shape
    values, slopes = theta.new_empty(2, _TABLE, n_genes)
    native.call("nb_tables", theta, values, slopes, n_genes)
    of_cells = torch.zeros(n_cells) if weights is None else weights.view(-1, n_cells).sum(0)
    out, n_threads = torch.empty(n_cells), native.threads(counts.numel() // _RELATIVE_COST)
    native.call(
        "nb_constant",
        *(counts, theta, values, slopes, of_cells, out, to_theta),
        *(n_cells, n_genes, n_threads),
    )
    return out
