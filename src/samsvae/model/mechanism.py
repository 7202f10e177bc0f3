"""Mechanisms: how a perturbation acts on the state of a cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samsvae.model.embedding import GaussianEmbedding
from samsvae.model.mask import BernoulliMask
from samsvae.types import Dosage, ShiftNoise, Shifts


class AdditiveShift(nn.Module):
    """Each perturbation displaces the state by dose * mask * embedding (eq. 1 of the paper).

    Parameters
    ----------
    mask
        M, from `samsvae.model.mask`.
    embedding
        E, from `samsvae.model.embedding`.
    """

    def __init__(self, mask: BernoulliMask, embedding: GaussianEmbedding) -> None:
        super().__init__()
        self.mask = mask
        self.embedding = embedding
        self.n_context = embedding.n_latent
        """Width of `context`, which an encoder may see."""
        self.n_state = embedding.n_latent
        """Width of the state, which the decoder sees."""

    def noise(
        self, perturbations: Tensor, n_particles: int, generator: torch.Generator
    ) -> ShiftNoise:
        return ShiftNoise(
            self.mask.noise(perturbations, n_particles, generator),
            self.embedding.noise(perturbations, n_particles, generator),
        )

    def draw(self, perturbations: Tensor, noise: ShiftNoise) -> Shifts:
        """Draw the shifts of some perturbations only: the others cost nothing."""
        mask = self.mask.draw(perturbations, noise.mask)
        embedding = self.embedding.draw(perturbations, mask.value, noise.embedding)
        return Shifts(
            mask.value * embedding.value,
            {self.mask.name: mask.log_ratio, "embedding": embedding.log_ratio},
        )

    def context(self, dosage: Dosage, shifts: Shifts) -> Tensor:
        """Return D (M * E), `particle cell latent`: the displacement of each cell.

        `shifts` are those of `dosage.perturbations`, in that order.
        """
        n_cells, n_slots = dosage.position.shape
        value = shifts.value.index_select(1, dosage.position.flatten())
        value = value.unflatten(1, (n_cells, n_slots))
        return (value * dosage.dose.unsqueeze(-1)).sum(2)

    def metrics(self) -> dict[str, Tensor]:
        """Return what training reports: the share of inclusion probabilities of at most 1/2."""
        return {"mask_sparsity": (self.mask.probability() <= 0.5).double().mean()}

    def apply_to(self, basal: Tensor, context: Tensor) -> Tensor:
        """Return the state z = basal + context, `particle cell latent`."""
        return basal + context
