"""In which cells perturbations act, and how large their share is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from scipy.special import logsumexp

from samsvae.data.loader import Loader
from samsvae.inference.latent import draw_shifts
from samsvae.model.mechanism import Responding, of_batch, with_presence
from samsvae.model.vae import PerturbationVAE

_ROWS = 2**13
"""Most (branch, particle, cell) rows that are held at once."""
_PARTICLES = 16
"""Draws with which the rates of responding are inferred."""
_ROUNDS = 10
"""Updates of the rates, each given the others, where cells received several perturbations."""
_GRID = 2001
"""Values of pi, equally far apart: finer than the posterior of any number of cells of a screen."""
_CHUNK = 1000
"""Cells at once."""


class Rates(NamedTuple):
    """The posterior of pi, `group` each."""

    mean: np.ndarray
    lower: np.ndarray
    """End of the central 90 % interval."""
    upper: np.ndarray
    log_bayes_factor: np.ndarray
    """Nats: for some cells responding, against none."""
    n_cells: np.ndarray


def response_rates(log_odds: np.ndarray, group: np.ndarray, n_groups: int) -> Rates:
    """Return the posterior of the share pi of cells that respond, for pi ~ Beta(1, 1), by group.

    p(pi | x) is proportional to prod_i (pi B_i + 1 - pi), B_i the Bayes factor of a cell
    (`log_odds`: log B_i, `cell`, nats): exact up to a grid of 2,001 values of pi. A group without
    cells keeps its prior.

    Examples
    --------
    >>> rates = response_rates(np.full(9, 50.0), np.zeros(9, int), 2)  # nine sure responders
    >>> rates.mean.round(3).tolist(), rates.n_cells.tolist()  # of Beta(10, 1), and of Beta(1, 1)
    ([0.909, 0.5], [9, 0])
    """
    pi = (np.arange(_GRID) + 0.5) / _GRID
    log_pi, log_rest = np.log(pi), np.log1p(-pi)
    log_density = np.zeros((n_groups, _GRID))
    order = np.argsort(group, kind="stable")
    n_cells = np.bincount(group, minlength=n_groups)
    for one, cells in enumerate(np.split(order, np.cumsum(n_cells)[:-1])):
        for start in range(0, len(cells), _CHUNK):
            odds = log_odds[cells[start : start + _CHUNK], None]
            log_density[one] += np.logaddexp(log_pi + odds, log_rest).sum(0)
    largest = log_density.max(1)
    share = np.exp(log_density - largest[:, None])
    total = largest + np.log(share.sum(1))
    share /= share.sum(1, keepdims=True)
    cumulative = np.cumsum(share, 1)
    lower, upper = (pi[np.argmax(cumulative >= level, axis=1)] for level in (0.05, 0.95))
    return Rates(share @ pi, lower, upper, total - np.log(_GRID), n_cells)


class BranchLikelihoods(NamedTuple):
    """Likelihoods of cells, given each subset of their perturbations that may act in them."""

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
    presence: np.ndarray
    """`cell slot`: prior probability that the cell received it at all."""

    def log_prior_odds(self, log_odds: np.ndarray) -> np.ndarray:
        """Return the prior log odds of each perturbation acting, `cell slot`, nats.

        logit(r pi), of log odds logit(pi), `reagent`, and the probability r of presence.
        """
        own, r = torch.from_numpy(log_odds[self.reagent]), torch.from_numpy(self.presence)
        prior: np.ndarray = with_presence(own, r).numpy()
        return prior

    def log_bayes_factors(self, log_odds: np.ndarray) -> np.ndarray:
        """Return the log Bayes factor for each perturbation acting, `cell slot`, nats.

        The subsets of the cell's others are summed, at log odds logit(pi), `reagent`.
        """
        prior = self.log_prior_odds(log_odds)
        log_p: np.ndarray = -np.logaddexp(0, -prior)
        log_rest: np.ndarray = -np.logaddexp(0, prior)
        factors: np.ndarray = np.zeros_like(self.received, dtype=float)
        acting: np.ndarray = self.acting.astype(bool)
        for slot in range(factors.shape[1]):
            others = [other for other in range(factors.shape[1]) if other != slot]
            w: np.ndarray = acting[:, None, others]
            joint = self.log_likelihood + np.where(w, log_p[:, others], log_rest[:, others]).sum(-1)
            own = acting[:, slot]
            factors[:, slot] = logsumexp(joint[own], axis=0) - logsumexp(joint[~own], axis=0)
        return factors

    def rates(self, log_odds: np.ndarray, of: np.ndarray, n: int) -> Rates:
        """Return the share of cells that respond, by perturbation or reagent (`of`, n of them).

        Of a cell that received it with probability r, B counts as r B + 1 - r.
        """
        factors = self.log_bayes_factors(log_odds)[self.received]
        r = self.presence[self.received]
        with np.errstate(divide="ignore"):
            factors = np.logaddexp(np.log(r) + factors, np.log1p(-r))
        return response_rates(factors, of[self.received], n)


@torch.no_grad()
def branch_likelihoods(
    model: PerturbationVAE,
    loader: Loader,
    *,
    n_particles: int,
    generator: torch.Generator,
    progress: bool = False,
) -> BranchLikelihoods:
    """Return log 1/K sum_k p(x, z_kw) / q(z_kw) of each cell and each w: its IWELBO given w."""
    mechanism, present = model.mechanism, loader.present
    assert isinstance(mechanism, Responding)
    shifts = draw_shifts(model, present, n_particles, generator)
    size = max(1, _ROWS // (n_particles * 2**loader.n_slots))
    parts = []
    steps = range(0, len(loader.screen), size)
    batches = zip(steps, loader.in_order(size), strict=True)
    for _, batch in track(batches, "responders", total=len(steps), disable=not progress):
        dosage = batch.dosage
        noise = model.encoder.noise(len(batch.counts), n_particles, generator)
        own = of_batch(shifts, present, dosage)
        branches = mechanism.branches(model.cell_terms, batch, own, noise)
        weights = (branches.likelihood + branches.basal).double()
        parts.append(
            (
                (weights.logsumexp(1) - math.log(n_particles)).T,
                dosage.columns[dosage.position],
                mechanism.reagent(dosage),
                dosage.dose != 0,
                (
                    torch.ones_like(dosage.dose) if dosage.presence is None else dosage.presence
                ).double(),
            )
        )
    columns = [torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True)]
    log_likelihood, *others = columns
    return BranchLikelihoods(branches.acting.cpu().numpy(), log_likelihood.T, *others)


def update_response_rates(model: PerturbationVAE, train: Loader) -> None:
    """Set every pi to its posterior mean by the training cells, networks unchanged.

    The rate of a perturbation is that of all its cells, whatever their sgRNA.
    """
    mechanism = model.mechanism
    if not isinstance(mechanism, Responding) or model.not_finite():
        return
    generator = torch.Generator(train.device).manual_seed(0)
    likelihoods = branch_likelihoods(model, train, n_particles=_PARTICLES, generator=generator)
    log_odds = mechanism.logits.detach().double().cpu().numpy()
    n_columns = len(train.cells_per_column)
    for _ in range(_ROUNDS if train.n_slots > 1 else 1):
        mean = likelihoods.rates(log_odds, likelihoods.reagent, len(log_odds)).mean
        mean[:n_columns] = likelihoods.rates(log_odds, likelihoods.perturbation, n_columns).mean
        log_odds = np.log(mean) - np.log1p(-mean)
    with torch.no_grad():
        mechanism.logits.copy_(torch.from_numpy(log_odds))
