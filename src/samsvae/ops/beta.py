"""The Beta distribution: density by the logarithms of p and 1 - p, and draws with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def log_prob(log_p: Tensor, log_not_p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the log density of p, by element.

    (a - 1) log p + (b - 1) log(1 - p) - log B(a, b), in nats.

    Parameters
    ----------
    log_p, log_not_p
        log p and log(1 - p): apart, so that neither loses digits where p is near 0 or 1.
    a, b
        Positive, of a shape that broadcasts with them.
    """
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * log_p + (b - 1) * log_not_p - log_beta


def draw_prob(a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
    """Draw p ~ Beta(a, b), strictly between 0 and 1, without a gradient."""
    with torch.no_grad():
        x = torch._standard_gamma(a, generator=generator)
        y = torch._standard_gamma(b, generator=generator)
        tiny = torch.finfo(x.dtype).eps
        return (x / (x + y)).nan_to_num(nan=0.5).clamp(tiny, 1 - tiny)


class _Reparametrised(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, p)
        return p.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, p = ctx.saved_tensors
        both = torch.stack([p, 1 - p], -1)
        concentration = torch.stack([a, b], -1).expand_as(both)
        total = concentration.sum(-1, True).expand_as(both)
        slope = torch._dirichlet_grad(both, concentration, total)
        # The gradient of (p, 1 - p) with respect to concentration j is slope_j (e_j - (p, 1 - p)).
        to_a = gradients[0] * slope[..., 0] * (1 - p)
        to_b = -gradients[0] * slope[..., 1] * p
        return to_a, to_b, None


def reparametrised(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Return p, drawn from Beta(a, b), with its gradient in a and b.

    dp/da = -(dF/da) / f at fixed quantile, F the distribution and f the density (implicit
    reparametrisation).

    References
    ----------
    Figurnov, Mohamed, Mnih: Implicit reparameterization gradients, NeurIPS 2018.
    """
    result: Tensor = _Reparametrised.apply(a.expand_as(p), b.expand_as(p), p)
    return result
