"""What every latent variable does: weigh its draws by its prior and its posterior."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from samsvae.types import Draw


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


def gaussian_draw(
    posterior: Normal, noise: Tensor, *, prior_scale: float = 1.0, closed_form: bool = False
) -> Draw:
    """Draw loc + scale * noise, weighed against the prior N(0, prior_scale^2 I).

    Written in the noise, log p - log q = (noise^2 - (value / s)^2) / 2 + log(scale / s): what
    `log_ratio` gives, in fewer passes.
    """
    value = posterior.loc + posterior.scale * noise
    log_scale = (posterior.scale / prior_scale).log()
    if closed_form:
        square = (posterior.loc / prior_scale).square() + (posterior.scale / prior_scale).square()
        ratio = (1 - square).div(2) + log_scale
    else:
        ratio = (noise.square() - (value / prior_scale).square()).div(2) + log_scale
    return Draw(value, ratio.expand_as(value).sum(-1))


def standard_normal(like: Tensor) -> Normal:
    """Return N(0, 1) of the type and on the device of a tensor."""
    zero = like.new_zeros(())
    return Normal(zero, zero + 1, validate_args=False)
