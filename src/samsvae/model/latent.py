"""What every latent variable does: weigh its draws by its prior and its posterior."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence


def log_ratio(
    prior: Distribution, posterior: Distribution, value: Tensor, *, closed_form: bool
) -> Tensor:
    """Return log p - log q of draws, summed over the last axis, nats.

    With `closed_form` its expectation under q instead, -KL(q || p): less noisy where only the mean
    over draws is wanted (the ELBO); importance weights need the draws themselves.
    """
    if closed_form:
        ratio = -kl_divergence(posterior, prior)
    else:
        ratio = prior.log_prob(value) - posterior.log_prob(value)
    return ratio.expand_as(value).sum(-1)


def standard_normal(like: Tensor) -> Normal:
    """Return N(0, 1) of the type and on the device of a tensor."""
    zero = like.new_zeros(())
    return Normal(zero, zero + 1, validate_args=False)
