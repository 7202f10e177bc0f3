"""Where perturbations move cells in latent space."""

from __future__ import annotations

import torch
from torch import Tensor

from samsvae.model.mechanism import AdditiveShift


@torch.no_grad()
def embedding_means(mechanism: AdditiveShift) -> Tensor:
    """Return the posterior mean of each embedding given its most probable mask."""
    mask = (mechanism.mask.probability() > 0.5).float()
    everyone = torch.arange(len(mask), device=mask.device)
    return mechanism.embedding.mean(everyone, mask)
