"""What every latent variable does: weigh its draws by its prior and its posterior."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from samsvae.ops import gaussian
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

    What `log_ratio` gives, in fewer passes.
    """
    value, ratio = gaussian.draw(
        posterior.loc, posterior.scale, noise, prior_scale=prior_scale, closed_form=closed_form
    )
    return Draw(value, ratio)


def standard_normal(like: Tensor) -> Normal:
    """Return N(0, 1) of the type and on the device of a tensor."""
    zero = like.new_zeros(())
    return Normal(zero, zero + 1, validate_args=False)
