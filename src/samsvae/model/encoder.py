"""The basal state of a cell: its prior N(0, I) and its amortised posterior q(z_basal | x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from samsvae.model.networks import GaussianNetwork, OneHot, gaussian_draw, standard_normal
from samsvae.ops.arrays import standardised
from samsvae.ops.draws import normal
from samsvae.types import Batch, Context, Draw


class Encoder(nn.Module):
    """q(z_basal | x[, context][, batch covariates]), a Gaussian given by a network.

    The network sees log1p(counts) (real values without `log1p`), standardised per gene by the
    training cells. Where library sizes count more than these genes (`unobserved`), the rest is one
    more input: the panel's counts alone do not show its share in the library. `n_context` is the
    width of the context that the posterior sees; 0: none (mean field).
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        n_genes: int,
        n_covariates: int,
        n_latent: int,
        *,
        n_context: int,
        width: int,
        n_layers: int,
        log1p: bool = True,
        unobserved: bool = False,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.log1p = log1p
        self.unobserved = unobserved
        n_inputs = n_genes + unobserved
        self.register_buffer("center", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(n_inputs))
        self.network = GaussianNetwork(
            (n_inputs, n_context, OneHot(n_covariates)), width, n_layers, n_latent
        )

    def standardise_with(self, center: Tensor, scale: Tensor) -> None:
        """Set the statistics of the training cells' input, `gene` (and the rest) each."""
        self.center.copy_(center)
        self.scale.copy_(scale)

    def prior(self) -> Normal:
        """Return p(z_basal), the same for all cells: `[latent]`."""
        return standard_normal(self.center)

    def posterior(self, batch: Batch, context: Context) -> Normal:
        """Return q(z_basal | x, ...), `[particle] cell latent`."""
        counts = batch.counts
        if self.unobserved:
            rest = (batch.library_size - counts.sum(-1)).clamp(min=0)
            counts = torch.cat([counts, rest.unsqueeze(-1)], -1)
        x = standardised(counts, self.center, self.scale, log1p=self.log1p)
        return self.network(x, context, batch.covariates)

    def rotate(self, matrix: Tensor) -> None:
        """Represent basal states z Q in place of z, given contexts rotated alike."""
        first = self.network.hidden.first
        if first.in_features[1] == self.n_latent:  # else it is a dosage, which has no axes
            first.rotate(1, matrix)
        self.network.rotate(matrix)

    def translate(self, offset: Tensor) -> None:
        """Give the same posteriors for contexts from which an offset was subtracted."""
        first = self.network.hidden.first
        if first.in_features[1] == self.n_latent:
            first.translate(1, offset)

    def noise(self, n_cells: int, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise, `particle cell latent`."""
        shape = (n_particles, n_cells, self.n_latent)
        return normal(shape, self.center, generator)

    def draw_prior(self, n_cells: int, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw basal states from their prior, `particle cell latent`."""
        prior, noise = self.prior(), self.noise(n_cells, n_particles, generator)
        return prior.loc + prior.scale * noise

    def draw(
        self,
        batch: Batch,
        context: Context,
        noise: Tensor,
        *,
        closed_form: bool = False,
    ) -> Draw:
        return gaussian_draw(
            self.posterior(batch, context), noise, self.prior(), closed_form=closed_form
        )


class StateEncoder(Encoder):
    """q(z | x) of z = basal + shift, as a posterior of the basal state: minus the shift (SVAE+)."""

    def posterior(self, batch: Batch, context: Context) -> Normal:
        assert isinstance(context, Tensor)
        state = super().posterior(batch, context)
        return Normal(state.loc - context, state.scale, validate_args=False)

    def translate(self, offset: Tensor) -> None:
        """Represent states z - c in place of z."""
        self.network.translate(offset)
