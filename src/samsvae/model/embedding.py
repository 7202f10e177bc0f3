"""Embeddings E: how far a perturbation shifts each latent dimension that its mask lets through.

An embedding owns its prior and its posterior, and says in `variable` which latent variable pays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from samsvae.model.latent import gaussian_draw, standard_normal
from samsvae.model.networks import GaussianNetwork, OneHot
from samsvae.ops.noise import normal
from samsvae.types import Draw


class Evidence(NamedTuple):
    """What the data say of each entry of an embedding, `perturbation latent` each."""

    mean: Tensor
    scale: Tensor
    """Standard deviation of the posterior."""
    log_bayes_factor: Tensor
    """Of an entry drawn from the prior against one that is 0, nats."""
    unit: Tensor
    """Standard deviation of the prior, one for all."""

    @classmethod
    def of(cls, posterior: Normal, prior: Normal) -> Evidence:
        """Return the evidence of a Gaussian posterior, given all other entries.

        log p(e = 0) - log q(e = 0): the Savage-Dickey density ratio.

        References
        ----------
        Dickey: The weighted likelihood ratio, linear hypotheses on normal location parameters,
        Annals of Mathematical Statistics 1971.
        """
        zero = torch.zeros_like(posterior.loc)
        ratio = prior.log_prob(zero) - posterior.log_prob(zero)
        return cls(posterior.loc, posterior.scale, ratio, prior.scale)


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

    @abstractmethod
    def rotate(self, matrix: Tensor) -> None:
        """Answer for e Q in place of e, given that all masks are open."""

    @abstractmethod
    def move(self, offset: Tensor) -> None:
        """Answer for e - c in place of e."""

    @abstractmethod
    def evidence(self, information: Tensor) -> Evidence:
        """Return what a posterior given open masks says of each entry.

        Parameters
        ----------
        information
            `perturbation latent`: what the cells tell of an entry, as the precision of its
            estimate; of account where the posterior is a point.
        """


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

    def evidence(self, information: Tensor) -> Evidence:
        everyone = torch.arange(len(information), device=information.device)
        return Evidence.of(self.posterior(everyone, torch.ones_like(information)), self.prior())

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

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        """Rotate the mean; take the precision of each new axis given the others.

        That is the diagonal Gaussian nearest to the rotated one, by KL(q || rotated).
        """
        precision = (self.log_scale.exp() + 1e-4) ** -2 @ matrix.square()
        self.loc.copy_(self.loc @ matrix)
        self.log_scale.copy_((precision.rsqrt() - 1e-4).clamp(min=1e-4).log())

    @torch.no_grad()
    def move(self, offset: Tensor) -> None:
        self.loc.sub_(offset)


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

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        """Rotate the network's answer to open masks; make it the answer to all masks.

        How it is to answer to others it has not learned yet.
        """
        self.network.rotate(matrix)
        first = self.network.hidden.first
        seen = first.part(0)
        assert seen is not None
        first.bias.add_(seen.sum(0))
        seen.zero_()

    def move(self, offset: Tensor) -> None:
        self.network.move(offset)


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

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        self.loc.copy_(self.loc @ matrix)

    @torch.no_grad()
    def move(self, offset: Tensor) -> None:
        self.loc.sub_(offset)

    def evidence(self, information: Tensor) -> Evidence:
        """Take the point for the mean of a posterior, and N(0, 1) for its prior."""
        posterior = Normal(self.loc.detach(), (1 + information).rsqrt(), validate_args=False)
        return Evidence.of(posterior, standard_normal(self.loc))
