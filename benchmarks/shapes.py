"""The shapes that are timed: the paper's two screens, simulated. Needs torch and numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

import bare  # noqa: F401  before samsvae
from samsvae.data.resident import ResidentCells, ResidentCounts
from samsvae.model.embedding import MaskedEmbedding
from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import NegativeBinomialLikelihood
from samsvae.model.mask import BernoulliMask, MaskPrior
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.networks import MLP
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, Dosage

WIDTH = 400
"""Of the hidden layers of encoder and decoder."""


class Shape(NamedTuple):
    """A screen and the network that the paper fits to it."""

    n_genes: int
    n_perturbations: int
    n_latent: int
    n_layers_embedding: int
    width_embedding: int
    nonzero: float
    """Share of the counts that are not 0."""

    def model(self, seed: int = 0) -> PerturbationVAE:
        """Return SAMS-VAE, correlated z_basal and E."""
        torch.manual_seed(seed)
        mask = BernoulliMask(self.n_perturbations, self.n_latent, MaskPrior(prob=0.001))
        embedding = MaskedEmbedding(
            self.n_perturbations,
            self.n_latent,
            scale=1.0,
            width=self.width_embedding,
            n_layers=self.n_layers_embedding,
        )
        return PerturbationVAE(
            AdditiveShift(mask, embedding),
            Encoder(
                self.n_genes, 0, self.n_latent, n_context=self.n_latent, width=WIDTH, n_layers=1
            ),
            MLP((self.n_latent, 0), WIDTH, 1),
            NegativeBinomialLikelihood(WIDTH, self.n_genes),
        )

    def batch(self, n_cells: int = 512, seed: int = 0) -> Batch:
        """Return cells that received one perturbation each."""
        rng = torch.Generator().manual_seed(seed)
        rate = -torch.log1p(torch.tensor(-self.nonzero))
        spread = torch.rand(n_cells, self.n_genes, generator=rng) + 0.5
        counts = torch.poisson(rate * spread, generator=rng)
        received = torch.randint(self.n_perturbations, (n_cells,), generator=rng)
        perturbations, position = torch.unique(received, return_inverse=True)
        return Batch(
            counts,
            counts.sum(1).clamp(min=1),
            torch.zeros(n_cells, 0),
            Dosage(perturbations, position[:, None], torch.ones(n_cells, 1)),
            torch.full((len(perturbations),), 150.0),
        )

    def resident(self, n_cells: int, device: torch.device) -> ResidentCells:
        """Return cells whose data lie on a device."""
        batch = self.batch(n_cells)
        counts = batch.counts.numpy().astype(np.uint8)
        starts = np.concatenate([[0], np.count_nonzero(counts, 1).cumsum()])
        values = ResidentCounts(
            counts[counts > 0], np.nonzero(counts)[1], starts, self.n_genes, device
        )
        dosage = Dosage(*(part if part is None else part.to(device) for part in batch.dosage))
        n_t = torch.full((self.n_perturbations,), 150.0, device=device)
        return ResidentCells(
            values, batch.library_size.to(device), batch.covariates.to(device), dosage, n_t
        )


SHAPES = {
    "replogle": Shape(1187, 722, 100, 2, 200, 0.45),
    "norman": Shape(5000, 105, 200, 4, 400, 0.19),
}
