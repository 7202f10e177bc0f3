"""Importance weighted likelihood of held-out cells, in memory bounded whatever K is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track

from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.inference.latent import draw_shifts
from samsvae.model.mechanism import of_batch
from samsvae.model.vae import PerturbationVAE

_GROUPS = 20
"""Particles are dealt to so many groups, whose spread gives the standard error of the mean."""
_PARTICLES = 120
"""Most particles that are drawn at once: enough that what is done once per cell costs little."""
_PAIRS = 2**17
"""Most (particle, perturbation) pairs that are drawn at once."""
_ROWS = 2**13
"""Most (particle, cell) rows that are held at once: their hidden layers then stay near the
processor."""


class Iwelbo(NamedTuple):
    """Predictive IWELBO of cells."""

    iwelbo: np.ndarray
    """`cell`, nats."""
    mc_se: np.ndarray
    """`cell`, nats: Monte Carlo standard error, by the delta method."""
    mean_mc_se: float
    """Nats: Monte Carlo standard error of the mean over cells. The cells share the draws of the
    globals, so this is more than independent cells would give."""
    joint: float
    """Nats, of all cells together: the globals scored too (eq. 6 and 7 as printed)."""


@torch.no_grad()
def predictive_iwelbo(
    model: PerturbationVAE,
    loader: Loader,
    *,
    n_particles: int,
    generator: torch.Generator,
    progress: bool = False,
) -> Iwelbo:
    """Return log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x) of each cell.

    The globals E and M are drawn from their posterior, one draw per particle shared by all cells,
    and are not scored, as in the published numbers. With the same draws,

    joint = log 1/K sum_k p(E_k, M_k) / q(E_k, M_k) prod_i p(x_i | z_ik) p(z_ik) / q(z_ik | x_i)

    scores them: a bound on the evidence of all cells together, loose unless K is huge, since one
    draw of the globals must serve every cell.
    """
    n_cells, everyone = len(loader.screen), loader.present
    # All at once, or a multiple of the number of groups.
    fitting = min(_PARTICLES, _PAIRS // max(1, len(everyone)))
    block = min(n_particles, max(1, fitting // _GROUPS) * _GROUPS)
    cells = max(1, _ROWS // block)
    n_groups = min(_GROUPS, n_particles)
    # log of sum of w by group, and of sum of w^2, over the particles seen so far
    log_sum = torch.full((n_groups, n_cells), -math.inf, dtype=torch.float64)
    log_square = torch.full((n_cells,), -math.inf, dtype=torch.float64)
    joint = torch.zeros(n_particles, dtype=torch.float64)
    blocks = range(0, n_particles, block)
    for first in track(blocks, "likelihood", disable=not progress):
        size = min(block, n_particles - first)
        shifts = draw_shifts(model, everyone, size, generator)
        joint_of_block = joint[first : first + size]
        for ratios in shifts.log_ratios.values():
            joint_of_block += ratios.double().sum(1).cpu()
        start = 0
        for batch in loader.in_order(cells):
            rows = slice(start, start := start + len(batch.counts))
            of_cells = of_batch(shifts, everyone, batch.dosage)
            basal_noise = model.encoder.noise(len(batch.counts), size, generator)
            weights = objective.predictive_log_weights(model(batch, of_cells, basal_noise))
            weights = weights.double().cpu()
            joint_of_block += weights.sum(1)
            absent = weights.new_full((-size % n_groups, weights.shape[1]), -math.inf)
            dealt = torch.cat([weights, absent]).unflatten(0, (-1, n_groups))
            log_sum[:, rows] = torch.logaddexp(log_sum[:, rows], dealt.logsumexp(0))
            new = torch.logsumexp(2 * weights, 0)
            log_square[rows] = torch.logaddexp(log_square[rows], new)
    total = torch.logsumexp(log_sum, 0)
    # var(mean w) / mean(w)^2 = (K sum w^2 / (sum w)^2 - 1) / (K - 1)
    ratio = (math.log(n_particles) + log_square - 2 * total).exp()
    mc_se = ((ratio - 1).clamp(min=0) / max(1, n_particles - 1)).sqrt()
    sizes = torch.arange(n_particles).remainder(n_groups).bincount().double()
    group_mean = (log_sum - total + math.log(n_particles)).exp() / sizes[:, None]
    deviation = (group_mean - 1).mean(1)  # of the mean over cells, by group of particles
    mean_mc_se = (deviation.square().sum() / max(1, n_groups * (n_groups - 1))).sqrt()
    if n_particles == 1:
        mc_se, mean_mc_se = torch.full_like(mc_se, math.nan), torch.tensor(math.nan)
    return Iwelbo(
        (total - math.log(n_particles)).numpy(),
        mc_se.numpy(),
        float(mean_mc_se),
        float(objective.iwelbo(joint)),
    )
