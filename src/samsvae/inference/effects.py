"""Average treatment effects: what conditions do to expression, and how sure the model is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from rich.progress import track

from samsvae.inference.arms import Arm, ArmCells, Control, Effect, Paired
from samsvae.inference.parallel import side_by_side
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.effects import EffectSettings


def average_effects(
    model: PerturbationVAE,
    received: sp.csr_matrix,
    settings: EffectSettings,
    cells: ArmCells,
) -> list[Effect]:
    """Return the ATE of each condition: mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), ...].

    Both arms share the draws of the basal state, of the globals, and the noise of the counts. All
    conditions share the control arm, and each has its own stream of draws that starts from the same
    seed: its numbers do not depend on the others.

    Parameters
    ----------
    model
        In evaluation.
    received
        `condition perturbation`: what the conditions receive.
    settings, cells
        How, on a scale that the likelihood has, and in which cells.
    """
    device = next(model.parameters()).device
    of_basal, of_condition = np.random.SeedSequence(settings.seed).generate_state(2)
    control = Control(model, settings, cells, torch.Generator(device).manual_seed(int(of_basal)))
    arms = [
        Arm(control, row, sizes, torch.Generator(device).manual_seed(int(of_condition)))
        for row, sizes in zip(received, cells.condition_sizes, strict=True)
    ]
    # torch draws counts in one thread: so conditions are what threads share.
    work = (done for shared in control.blocks() for done in side_by_side(_add(shared), arms))
    n_steps = len(control.sizes_of_blocks) * len(arms)
    list(track(work, "effects", total=n_steps, disable=not settings.progress))
    if settings.n_draws < 2 or not model.mechanism.variables:
        return [arm.effect(None) for arm in arms]
    shared = control.paired(max(25, settings.n_particles // 25)).crossed()
    answers = side_by_side(lambda arm: arm.effect(shared), arms)
    return list(track(answers, "intervals", total=len(arms), disable=not settings.progress))


def _add(shared: Paired) -> Callable[[Arm], None]:
    """Return what adds a block of particles to an arm."""
    return lambda arm: arm.add(shared)
