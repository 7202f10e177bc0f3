"""Where perturbations move cells in latent space."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from samsvae.model.vae import PerturbationVAE


@torch.no_grad()
def program_of(
    model: PerturbationVAE, shifts: Tensor, dimension: int, *, sign: float, covariates: np.ndarray
) -> np.ndarray:
    """Return what moving along a latent dimension does to each gene, `gene`.

    The difference of log2(1 + 1e4 rho), or of the mean where there is no library size, between
    states half a unit to either side of the mean of some shifts.

    Parameters
    ----------
    model
        In evaluation.
    shifts
        `perturbation latent`.
    dimension
        Which.
    sign
        Direction, 1 or -1.
    covariates
        `covariate`: of the batches, in what parts.
    """
    weight = model.decoder.first.weights[0]
    state = shifts.to(weight).mean(0)
    ends = state.repeat(2, 1)
    ends[:, dimension] += sign * state.new_tensor([-0.5, 0.5])
    batches = torch.from_numpy(covariates).to(state).expand(2, -1)
    expected = model.likelihood.expectation(model.decoder(ends, batches)).double()
    if model.likelihood.has_library_size:
        expected = torch.log2(1 + expected)
    return (expected[1] - expected[0]).cpu().numpy()
