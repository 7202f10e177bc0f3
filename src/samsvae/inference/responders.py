"""In which cells perturbations act, and how large their share is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from scipy.special import logsumexp

from samsvae.data.loader import Loader
from samsvae.inference.latent import draw_shifts, of_batch
from samsvae.model.mechanism import Responders
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.response_rates import Rates, response_rates

_ROWS = 2**13
"""Most (branch, particle, cell) rows that are held at once."""
_PARTICLES = 16
"""With which probabilities are settled."""
_ROUNDS = 10
"""Of probabilities, each given the others, where cells received several perturbations."""


class Evidence(NamedTuple):
    """What cells say of each set of perturbations that may be the one that acts in them."""

    acting: np.ndarray
    """w in {0, 1}, `branch slot`."""
    log_likelihood: np.ndarray
    """`branch cell`, nats."""
    perturbation: np.ndarray
    """`cell slot`: column of the model's dosage."""
    reagent: np.ndarray
    """`cell slot`."""
    received: np.ndarray
    """`cell slot`: False where a slot is empty."""

    def log_odds(self, log_odds: np.ndarray) -> np.ndarray:
        """Return the log Bayes factor for each perturbation acting, `cell slot`, nats.

        All sets of the cell's other perturbations are summed over, by their own probability.

        Parameters
        ----------
        log_odds
            logit of pi, `reagent`.
        """
        prior: np.ndarray = log_odds[self.reagent]
        log_p: np.ndarray = -np.logaddexp(0, -prior)
        log_rest: np.ndarray = -np.logaddexp(0, prior)
        found: np.ndarray = np.zeros_like(self.received, dtype=float)
        acting: np.ndarray = self.acting.astype(bool)
        for slot in range(found.shape[1]):
            others = [other for other in range(found.shape[1]) if other != slot]
            w: np.ndarray = acting[:, None, others]
            joint = self.log_likelihood + np.where(w, log_p[:, others], log_rest[:, others]).sum(-1)
            own = acting[:, slot]
            found[:, slot] = logsumexp(joint[own], axis=0) - logsumexp(joint[~own], axis=0)
        return found

    def rates(self, log_odds: np.ndarray, of: np.ndarray, n: int) -> Rates:
        """Return the share of cells that respond, by perturbation or by reagent.

        Parameters
        ----------
        log_odds
            logit of pi, `reagent`: of the cells' other perturbations.
        of
            `cell slot`: `perturbation` or `reagent`.
        n
            How many of these there are.
        """
        found = self.log_odds(log_odds)[self.received]
        return response_rates(found, of[self.received], n)


@torch.no_grad()
def branch_evidence(
    model: PerturbationVAE,
    loader: Loader,
    *,
    n_particles: int,
    generator: torch.Generator,
    progress: bool = False,
) -> Evidence:
    """Return log 1/K sum_k p(x, z_kw) / q(z_kw) of each cell and each w: its IWELBO given w.

    Draws of the globals are shared by all cells, those of basal states by the branches of a cell.
    """
    everyone = loader.present
    shifts = draw_shifts(model, everyone, n_particles, generator)
    size = max(1, _ROWS // (n_particles * 2**loader.n_slots))
    parts = []
    steps = range(0, len(loader.screen), size)
    batches = zip(steps, loader.in_order(size), strict=True)
    for _, batch in track(batches, "responders", total=len(steps), disable=not progress):
        dosage = batch.dosage
        noise = model.encoder.noise(len(batch.counts), n_particles, generator)
        found = model.branches(batch, of_batch(shifts, everyone, dosage), noise)
        weights = (found.likelihood + found.basal).double()
        assert model.mechanism.responders is not None
        parts.append(
            (
                (weights.logsumexp(1) - math.log(n_particles)).T,
                dosage.perturbations[dosage.position],
                model.mechanism.responders.reagent(dosage),
                dosage.dose != 0,
            )
        )
    columns = [torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)]
    log_likelihood, *others = columns
    return Evidence(found.acting.cpu().numpy(), log_likelihood.T, *others)


def settle_responders(model: PerturbationVAE, train: Loader) -> None:
    """Give every pi its posterior mean by the training cells, networks unchanged.

    That of a perturbation is of all of its cells, whatever their sgRNA: cells of an sgRNA that no
    training cell has are taken to respond as often.
    """
    responders = model.mechanism.responders
    assert responders is not None
    if model.not_finite():
        return
    generator = torch.Generator(train.device).manual_seed(0)
    evidence = branch_evidence(model, train, n_particles=_PARTICLES, generator=generator)
    log_odds = responders.logits.detach().double().cpu().numpy()
    for _ in range(_ROUNDS if train.n_slots > 1 else 1):
        log_odds = _settled(evidence, log_odds, len(train.cells_per_column))
    _fill(responders, log_odds)


def _settled(evidence: Evidence, log_odds: np.ndarray, n_perturbations: int) -> np.ndarray:
    """Return the logit of pi's posterior mean, `reagent`."""
    mean = evidence.rates(log_odds, evidence.reagent, len(log_odds)).mean
    pooled = evidence.rates(log_odds, evidence.perturbation, n_perturbations).mean
    mean[:n_perturbations] = pooled
    found: np.ndarray = np.log(mean) - np.log1p(-mean)
    return found


@torch.no_grad()
def _fill(responders: Responders, log_odds: np.ndarray) -> None:
    responders.logits.copy_(torch.from_numpy(log_odds))
