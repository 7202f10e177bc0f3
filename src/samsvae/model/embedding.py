"""Embeddings E: how far a column of dosage shifts each latent dimension that its mask opens.

An embedding owns its prior and its posterior; `variable` names the latent variable whose KL term
it contributes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from samsvae.model.networks import GaussianNetwork, OneHot, gaussian_draw, standard_normal
from samsvae.ops.draws import normal
from samsvae.types import Draw


class BayesFactors(NamedTuple):
    """Evidence that the entries of an embedding differ from 0, `column latent` each."""

    mean: Tensor
    """Posterior mean."""
    scale: Tensor
    """Posterior standard deviation."""
    log_bayes_factor: Tensor
    """Log Bayes factor of an entry drawn from the prior against one that is 0, nats."""
    unit: Tensor
    """Standard deviation of the prior, the same for all entries."""

    @classmethod
    def of(cls, posterior: Normal, prior: Normal) -> BayesFactors:
        """Return the Savage-Dickey density ratio of each entry, log p(e = 0) - log q(e = 0).

        Dickey: The weighted likelihood ratio, linear hypotheses on normal location parameters,
        Annals of Mathematical Statistics 1971.
        """
        zero = torch.zeros_like(posterior.loc)
        ratio = prior.log_prob(zero) - posterior.log_prob(zero)
        return cls(posterior.loc, posterior.scale, ratio, prior.scale)


class Estimates(NamedTuple):
    """Estimates of shifts from cells, `column latent` each; NaN without any."""

    value: Tensor
    variance: Tensor


class Embedding(nn.Module, ABC):
    """An embedding of every column of dosage in n_latent dimensions."""

    variable: ClassVar[str | None] = "embedding"
    """The latent variable whose log ratio its draws give; None: nothing is inferred."""

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent

    @abstractmethod
    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of `draw`, `particle column ...`."""

    @abstractmethod
    def draw(
        self, columns: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        """Draw e of some columns, `particle column latent`, given their mask."""

    @abstractmethod
    def mean(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Return the posterior mean given a mask, `column latent`."""

    @abstractmethod
    def rotate(self, matrix: Tensor) -> None:
        """Represent e Q in place of e, given that all masks are one."""

    @abstractmethod
    def translate(self, offset: Tensor) -> None:
        """Represent e - c in place of e."""

    @abstractmethod
    def bayes_factors(self, information: Tensor) -> BayesFactors:
        """Return the Bayes factors given masks of ones; points use the Fisher information."""

    @abstractmethod
    def update(self, mask: Tensor, probability: Tensor, estimates: Estimates) -> None:
        """Set the posterior of entries from estimates; those without one stay as given `mask`.

        Where masks have a probability p, the closed-form optimum is N(p s / (v h), 1 / h) with
        h = p / v + 1 / scale^2, s the estimate and v its variance.
        """


class GaussianEmbedding(Embedding):
    """Base of Gaussian embeddings: the prior N(0, scale^2 I) and reparametrised draws.

    With `kinds` of columns (`column`, int64) every kind but the first learns a scale of its own.
    """

    def __init__(self, n_latent: int, *, scale: float, kinds: Tensor | None = None) -> None:
        super().__init__(n_latent)
        self.scale = scale
        self.register_buffer("kinds", kinds, persistent=False)
        n_more = 0 if kinds is None else int(kinds.max())
        first = torch.full((n_more,), math.log(scale))
        self.log_kind_scale = nn.Parameter(first) if n_more else None

    kinds: Tensor | None

    def prior(self, columns: Tensor | slice = slice(None)) -> Normal:
        """Return p(e_tl) of some columns, the same for all of a kind: `[column 1]`."""
        zero = next(self.parameters()).new_zeros(())
        scale = zero + self.scale
        if self.log_kind_scale is not None and self.kinds is not None:
            scales = torch.cat([scale.view(1), self.log_kind_scale.exp()])
            scale = scales[self.kinds[columns]].unsqueeze(1)
        return Normal(zero, scale, validate_args=False)

    @torch.no_grad()
    def without_cells(self, mask: Tensor, columns: Tensor) -> None:
        """Set the posterior of columns that no cells received (`column`, bool) to the prior."""
        old = self.posterior(torch.arange(len(mask), device=mask.device), mask)
        scale = self.prior().scale.expand_as(old.scale)
        loc = torch.where(columns[:, None], 0.0, old.loc)
        self._set(mask, loc, torch.where(columns[:, None], scale, old.scale))

    def _shared(self, offset: Tensor) -> Tensor:
        """Return an offset, `latent`, that only shared columns have, `[column] latent`."""
        return offset if self.kinds is None else (self.kinds == 0)[:, None] * offset

    @abstractmethod
    def posterior(self, columns: Tensor, mask: Tensor) -> Normal:
        """Return q(e_t | m_t), `[particle] column latent`."""

    def bayes_factors(self, information: Tensor) -> BayesFactors:
        columns = torch.arange(len(information), device=information.device)
        found = BayesFactors.of(self.posterior(columns, torch.ones_like(information)), self.prior())
        return found._replace(unit=found.mean.new_tensor(self.scale))

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        shape = (n_particles, len(columns), self.n_latent)
        return normal(shape, next(self.parameters()), generator)

    def draw(
        self, columns: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        posterior = self.posterior(columns, mask)
        return gaussian_draw(posterior, noise, self.prior(columns), closed_form=closed_form)

    def mean(self, columns: Tensor, mask: Tensor) -> Tensor:
        return self.posterior(columns, mask).loc

    @torch.no_grad()
    def update(self, mask: Tensor, probability: Tensor, estimates: Estimates) -> None:
        old = self.posterior(torch.arange(len(mask), device=mask.device), mask)
        own = self.scale if self.log_kind_scale is None else self.prior().scale
        precision = probability / estimates.variance + own**-2
        mean = probability * estimates.value / estimates.variance / precision
        kept = estimates.value.isnan()
        loc = torch.where(kept, old.loc, mean)
        scale = torch.where(kept, old.scale, precision.rsqrt())
        self._set((probability > 0.5).to(mask), loc, scale)

    @abstractmethod
    def _set(self, mask: Tensor, loc: Tensor, scale: Tensor) -> None:
        """Make the posterior given a mask N(loc, scale^2), `column latent` each."""


class FreeEmbedding(GaussianEmbedding):
    """q(e_t) = N(mu_t, sigma_t^2) with free parameters; sigma = exp(log_sigma) + 1e-4."""

    def __init__(
        self, n_columns: int, n_latent: int, *, scale: float, kinds: Tensor | None = None
    ) -> None:
        super().__init__(n_latent, scale=scale, kinds=kinds)
        self.loc = nn.Parameter(torch.zeros(n_columns, n_latent))
        self.log_scale = nn.Parameter(torch.zeros(n_columns, n_latent))

    def posterior(self, columns: Tensor, mask: Tensor) -> Normal:
        scale = self.log_scale[columns].exp() + 1e-4
        return Normal(self.loc[columns], scale, validate_args=False)

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        """Rotate the mean; precisions are of the diagonal Gaussian with least KL(q || rotated)."""
        precision = (self.log_scale.exp() + 1e-4) ** -2 @ matrix.square()
        self.loc.copy_(self.loc @ matrix)
        self.log_scale.copy_((precision.rsqrt() - 1e-4).clamp(min=1e-4).log())

    @torch.no_grad()
    def translate(self, offset: Tensor) -> None:
        self.loc.sub_(self._shared(offset))

    def _set(self, mask: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.loc.copy_(loc)
        self.log_scale.copy_((scale - 1e-4).clamp(min=1e-4).log())


class MaskedEmbedding(GaussianEmbedding):
    """q(e_t | m_t) = N(f_emb([m_t, one-hot t])); `width` and `n_layers` are those of f_emb.

    When training has ended, what the closed-form update adds to the output stands in a table.
    """

    def __init__(
        self,
        n_columns: int,
        n_latent: int,
        *,
        scale: float,
        width: int,
        n_layers: int,
        kinds: Tensor | None = None,
    ) -> None:
        super().__init__(n_latent, scale=scale, kinds=kinds)
        self.network = GaussianNetwork((n_latent, OneHot(n_columns)), width, n_layers, n_latent)
        self.register_buffer("updated", torch.zeros(n_columns, 2 * n_latent))

    updated: Tensor

    def posterior(self, columns: Tensor, mask: Tensor) -> Normal:
        return self.network(mask, columns, plus=self.updated[columns])

    def _set(self, mask: Tensor, loc: Tensor, scale: Tensor) -> None:
        columns = torch.arange(len(mask), device=mask.device)
        self.updated.copy_(self.network.missing(loc, scale, mask, columns))

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        """Rotate the output for masks of ones, and make it that for all: others are not learned."""
        self.network.rotate(matrix)
        first = self.network.hidden.first
        weight = first.part(0)  # of the mask
        assert weight is not None
        first.bias.add_(weight.sum(0))
        weight.zero_()

    @torch.no_grad()
    def translate(self, offset: Tensor) -> None:
        self.network.translate(offset)
        self.updated[:, : self.n_latent].add_(offset - self._shared(offset))


class PointEmbedding(Embedding):
    """e_t = mu_t, a learned point without a prior; starts at 0.1 N(0, 1) (SVAE+)."""

    variable = None

    def __init__(self, n_columns: int, n_latent: int) -> None:
        super().__init__(n_latent)
        self.loc = nn.Parameter(0.1 * torch.randn(n_columns, n_latent))

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Return no noise, `particle column 0`."""
        return self.loc.new_empty((n_particles, len(columns), 0))

    def draw(
        self, columns: Tensor, mask: Tensor, noise: Tensor, *, closed_form: bool = False
    ) -> Draw:
        value = self.loc[columns].expand(len(noise), -1, -1)
        return Draw(value, value.new_zeros(value.shape[:-1]))

    def mean(self, columns: Tensor, mask: Tensor) -> Tensor:
        return self.loc[columns]

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        self.loc.copy_(self.loc @ matrix)

    @torch.no_grad()
    def translate(self, offset: Tensor) -> None:
        self.loc.sub_(offset)

    def bayes_factors(self, information: Tensor) -> BayesFactors:
        """Treat the point as the mean of a posterior, with the prior N(0, 1)."""
        posterior = Normal(self.loc.detach(), (1 + information).rsqrt(), validate_args=False)
        return BayesFactors.of(posterior, standard_normal(self.loc))

    @torch.no_grad()
    def update(self, mask: Tensor, probability: Tensor, estimates: Estimates) -> None:
        """Set points to the estimates themselves: they have no prior."""
        self.loc.copy_(torch.where(estimates.value.isnan(), self.loc, estimates.value))
