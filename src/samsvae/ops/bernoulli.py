"""Bernoulli draws with a gradient, and the Beta distribution of their probability."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


def straight_through(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw m in {0, 1} with probability sigmoid(logits), with the gradient of a relaxed draw.

    relaxed = sigmoid(logits + log u - log(1 - u)), m = [relaxed > 1/2], dm := d relaxed: the
    Gumbel-softmax straight-through estimator at temperature 1; u is uniform strictly between 0 and
    1.

    References
    ----------
    Jang, Gu, Poole: Categorical reparameterization with Gumbel-softmax, 2017, arXiv:1611.01144.
    """
    relaxed = (logits + uniform.logit()).sigmoid()
    drawn: Tensor = _Rounded.apply(relaxed)
    return drawn


class _Rounded(Function):
    """0 or 1, whichever is nearer; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, relaxed: Tensor) -> Tensor:
        return (relaxed > 0.5).to(relaxed.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def beta_log_prob(log_p: Tensor, log_not_p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return (a - 1) log p + (b - 1) log(1 - p) - log B(a, b) by element, nats.

    log p and log(1 - p) are separate arguments, so that neither loses digits where p is near 0 or
    1.
    """
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * log_p + (b - 1) * log_not_p - log_beta


class BetaNoise(NamedTuple):
    """The randomness of a Beta(a, b) draw, of the shape of the draw."""

    gamma_a: Tensor
    """Gamma(a + 1, 1)."""
    gamma_b: Tensor
    """Gamma(b + 1, 1)."""
    exponential_a: Tensor
    exponential_b: Tensor
    """Exponential(1)."""


def beta_noise(a: Tensor, b: Tensor, generator: torch.Generator) -> BetaNoise:
    """Draw the noise of Beta(a, b), which depends on a and b; `beta_logit` adds the gradient."""
    with torch.no_grad():
        gamma_a, gamma_b = (torch._standard_gamma(x + 1, generator=generator) for x in (a, b))
        exponential_a, exponential_b = (
            torch.empty_like(x).exponential_(generator=generator) for x in (a, b)
        )
        return BetaNoise(gamma_a, gamma_b, exponential_a, exponential_b)


def beta_logit(a: Tensor, b: Tensor, drawn: BetaNoise) -> Tensor:
    """Return log p - log(1 - p) of p ~ Beta(a, b), with its gradient in a and b.

    p = X / (X + Y) with X ~ Gamma(a, 1), Y ~ Gamma(b, 1), so its logit is log X - log Y, which
    is finite where p is too near 0 or 1 for a floating point number.
    """
    log_x = _LogGamma.apply(a.expand_as(drawn.gamma_a), drawn.gamma_a, drawn.exponential_a)
    log_y = _LogGamma.apply(b.expand_as(drawn.gamma_b), drawn.gamma_b, drawn.exponential_b)
    result: Tensor = log_x - log_y
    return result


class _LogGamma(Function):
    """log X of X = G u^(1/a) ~ Gamma(a, 1), from G ~ Gamma(a + 1, 1) and -log u ~ Exponential(1).

    For a small a, X itself underflows. The gradient of G is implicit (Figurnov, Mohamed, Mnih:
    Implicit reparameterization gradients, NeurIPS 2018).
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, gamma: Tensor, exponential: Tensor) -> Tensor:
        ctx.save_for_backward(a, gamma, exponential)
        return gamma.log() - exponential / a

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        a, gamma, exponential = ctx.saved_tensors
        slope = torch._standard_gamma_grad(a + 1, gamma) / gamma + exponential / a**2
        return gradients[0] * slope, None, None
