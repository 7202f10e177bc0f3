"""Bernoulli draws with a gradient."""

from __future__ import annotations

from torch import Tensor


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
    hard = (relaxed > 0.5).to(relaxed.dtype)
    return hard.detach() + (relaxed - relaxed.detach())
