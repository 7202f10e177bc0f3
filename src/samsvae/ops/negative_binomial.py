"""The negative binomial distribution, by mean and inverse dispersion."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from samsvae.ops import native
from samsvae.ops.arrays import single
from samsvae.ops.native.negative_binomial import LogProb

_DRAW = 8
"""A draw costs as much as so many elements of a density."""
_LARGEST = 2.0**20
"""Largest rate that is drawn one count after the other."""
_LARGE = 16.0
"""Inverse dispersion from which Stirling's series is used (error below 1e-12)."""


def log_rising_factorial(counts: Tensor, log_theta: Tensor) -> Tensor:
    """Return log Gamma(x + theta) - log Gamma(theta), exact in float32 for any theta.

    The difference of two log-gamma functions loses all digits once theta is large (a gene with
    Poisson noise): there the difference of Stirling's series is taken instead.

    Parameters
    ----------
    counts
        x, `cell gene`, non-negative.
    log_theta
        log theta, `gene`.
    """
    theta = log_theta.exp()
    # Each branch sees only values it can bear, or the gradient of torch.where would be nan.
    small = theta.clamp(max=_LARGE)
    direct = torch.lgamma(counts + small) - torch.lgamma(small)
    large = theta.clamp(min=_LARGE)
    series = (
        (large - 0.5) * torch.log1p(counts / large)
        + counts * ((counts + large).log() - 1)
        + _stirling_rest(counts + large)
        - _stirling_rest(large)
    )
    return torch.where(theta < _LARGE, direct, series)


def _stirling_rest(a: Tensor) -> Tensor:
    """Return log Gamma(a) - [(a - 1/2) log a - a + log(2 pi)/2] for a >= 16."""
    inverse = 1 / a
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def log_prob(counts: Tensor, mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return the log density of counts, summed over genes.

    log p(x) = log Gamma(x + theta) - log Gamma(theta) - log Gamma(x + 1)
               - theta log(1 + mu/theta) + x log(mu / (mu + theta)),

    with variance mu + mu^2 / theta. With r = log(mu / theta) the second line is
    x r - (x + theta) softplus(r), which holds its digits for any theta. The gamma functions do
    not depend on the mean and are evaluated once per cell, whatever the number of particles.

    Parameters
    ----------
    counts
        x, `cell gene`.
    mean
        mu, `particle cell gene` (or `cell gene`), positive.
    log_theta
        Log of the inverse dispersion, `gene`.

    Returns
    -------
    `particle cell`, nats.
    """
    constant = (log_rising_factorial(counts, log_theta) - torch.lgamma(counts + 1)).sum(-1)
    ratio = mean.log() - log_theta
    rest = counts * ratio - (counts + log_theta.exp()) * F.softplus(ratio)
    return constant + rest.sum(-1)


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
    """Return the log density of counts with mean l softmax(W h + b) + 1e-4, over all genes.

    Parameters
    ----------
    counts
        x, `cell gene`.
    hidden
        h, `particle cell hidden`.
    weight
        W, `category hidden`: the genes, and after them what is never observed.
    bias
        b, `category`.
    library_size
        l, `cell`.
    log_theta
        Log of the inverse dispersion, `gene`.
    fast
        Use the C code where it serves; else what stands here, which is its definition.

    Returns
    -------
    `particle cell`, nats.
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
    least: float = 0.0,
    fast: bool = True,
) -> Tensor:
    """Return size softmax(W h + b) + least, `... category`.

    Parameters
    ----------
    hidden, weight, bias
        h, `... hidden`; W, `category hidden`; b, `category`.
    size
        `...`, or one number.
    least
        Added to each.
    fast
        Use the C code where it serves and no gradient is wanted; else what stands here.
    """
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden, weight, bias))
    if fast and not wanted and native.serves(hidden, weight, bias, size) and hidden.numel() > 0:
        means = F.linear(hidden.flatten(0, -2), weight)
        sizes, n_threads = size.expand(hidden.shape[:-1]).flatten(), native.threads(means.numel())
        work = means.new_empty(n_threads, len(bias))
        given = means, bias, sizes.contiguous(), work, float(least)
        native.call("nb_means", *given, *means.shape, n_threads)
        return means.view(*hidden.shape[:-1], len(bias))
    return size.unsqueeze(-1) * F.linear(hidden, weight, bias).softmax(-1) + least


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

    Where the rate falls the counts are thinned, where it rises the difference is added: the draw
    is exactly Poisson(new_rate), and equals `counts` where the rates are equal. Two arms of an
    effect drawn this way share their noise. `fast`: with the C code where it serves, one count
    after the other, for rates up to a million.
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
