"""What Gaussian latent variables do: weigh their draws by prior and posterior."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from samsvae.ops import gaussian
from samsvae.types import Draw


def gaussian_draw(
    posterior: Normal, noise: Tensor, prior: Normal, *, closed_form: bool = False
) -> Draw:
    """Draw loc + scale * noise, weighed against the prior.

    With `closed_form` the weight is its expectation, -KL(q || p): less noisy where only the mean
    over draws is wanted (the ELBO); importance weights need the draws themselves.
    """
    value, ratio = gaussian.draw(
        posterior.loc, posterior.scale, noise, prior.loc, prior.scale, closed_form=closed_form
    )
    return Draw(value, ratio)


def standard_normal(like: Tensor) -> Normal:
    """Return N(0, 1) of the type and on the device of a tensor."""
    zero = like.new_zeros(())
    return Normal(zero, zero + 1, validate_args=False)
