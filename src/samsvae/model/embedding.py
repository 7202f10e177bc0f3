"""Embeddings E: how far a perturbation shifts each latent dimension that its mask lets through.

An embedding owns its prior and its posterior, and says in `variable` which latent variable pays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from samsvae.model.latent import gaussian_draw
from samsvae.model.networks import GaussianNetwork, OneHot
from samsvae.ops.noise import normal
from samsvae.types import Draw


class Embedding(nn.Module, ABC):
    """An embedding of every perturbation in n_latent dimensions."""

    variable: ClassVar[str | None] = "embedding"
    """The latent variable that `log_ratio` of its draws belongs to; None: nothing is inferred."""

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent

    @abstractmethod
    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of `draw`, `particle perturbation ...`."""

    @abstractmethod
    def draw(
        self, perturbations: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        """Draw e of some perturbations, `particle perturbation latent`, given their mask."""

    @abstractmethod
    def mean(self, perturbations: Tensor, mask: Tensor) -> Tensor:
        """Return the posterior mean given a mask, `perturbation latent`."""


class GaussianEmbedding(Embedding):
    """What Gaussian embeddings share: the prior N(0, scale^2 I) and reparametrised draws."""

    def __init__(self, n_latent: int, *, scale: float) -> None:
        super().__init__(n_latent)
        self.scale = scale

    def prior(self) -> Normal:
        """Return p(e_tl), one for all perturbations: `[latent]`."""
        zero = next(self.parameters()).new_zeros(())
        return Normal(zero, zero + self.scale, validate_args=False)

    @abstractmethod
    def posterior(self, perturbations: Tensor, mask: Tensor) -> Normal:
        """Return q(e_t | m_t), `[particle] perturbation latent`."""

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise, `particle perturbation latent`."""
        shape = (n_particles, len(perturbations), self.n_latent)
        return normal(shape, next(self.parameters()), generator)

    def draw(
        self, perturbations: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        posterior = self.posterior(perturbations, mask)
        return gaussian_draw(posterior, noise, self.prior(), closed_form=closed_form)

    def mean(self, perturbations: Tensor, mask: Tensor) -> Tensor:
        return self.posterior(perturbations, mask).loc


class FreeEmbedding(GaussianEmbedding):
    """q(e_t) = N(mu_t, sigma_t^2) with free parameters; sigma = exp(log_sigma) + 1e-4."""

    def __init__(self, n_perturbations: int, n_latent: int, *, scale: float) -> None:
        super().__init__(n_latent, scale=scale)
        self.loc = nn.Parameter(torch.zeros(n_perturbations, n_latent))
        self.log_scale = nn.Parameter(torch.zeros(n_perturbations, n_latent))

    def posterior(self, perturbations: Tensor, mask: Tensor) -> Normal:
        scale = self.log_scale[perturbations].exp() + 1e-4
        return Normal(self.loc[perturbations], scale, validate_args=False)


class MaskedEmbedding(GaussianEmbedding):
    """q(e_t | m_t) = N(f_emb([m_t, one-hot t])): the embedding posterior sees the mask.

    Parameters
    ----------
    n_perturbations, n_latent
        T and L.
    scale
        Prior standard deviation s.
    width, n_layers
        Of the network f_emb.
    """

    def __init__(
        self, n_perturbations: int, n_latent: int, *, scale: float, width: int, n_layers: int
    ) -> None:
        super().__init__(n_latent, scale=scale)
        self.network = GaussianNetwork(
            (n_latent, OneHot(n_perturbations)), width, n_layers, n_latent
        )

    def posterior(self, perturbations: Tensor, mask: Tensor) -> Normal:
        return self.network(mask, perturbations)


class PointEmbedding(Embedding):
    """e_t = mu_t, a learned point without a prior; starts at 0.1 N(0, 1) (SVAE+)."""

    variable = None

    def __init__(self, n_perturbations: int, n_latent: int) -> None:
        super().__init__(n_latent)
        self.loc = nn.Parameter(0.1 * torch.randn(n_perturbations, n_latent))

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Return no noise, `particle perturbation 0`."""
        return self.loc.new_empty((n_particles, len(perturbations), 0))

    def draw(
        self, perturbations: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        value = self.loc[perturbations].expand(len(noise), -1, -1)
        return Draw(value, value.new_zeros(value.shape[:-1]))

    def mean(self, perturbations: Tensor, mask: Tensor) -> Tensor:
        return self.loc[perturbations]
