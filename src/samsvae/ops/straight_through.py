"""Bernoulli draws with a gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


def bernoulli(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw m in {0, 1} with probability sigmoid(logits), gradient of the relaxed draw.

    relaxed = sigmoid(logits + log u - log(1 - u)), m = [relaxed > 1/2], dm := d relaxed: the
    Gumbel-softmax straight-through estimator at temperature 1.

    Parameters
    ----------
    logits
        Any shape that broadcasts with `uniform`.
    uniform
        u, strictly between 0 and 1.

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
