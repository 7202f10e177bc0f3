"""The predictive ELBO of validation cells, and the model that has the best of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.model.mechanism import of_batch
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings
from samsvae.train.processes import Processes, SingleProcess

PRECISE = 0.02
"""Monte Carlo standard error, nats per cell, at which there are enough draws."""
_PAIRS = 2**14
"""Largest number of (particle, cell) pairs of an evaluation that takes more than the minimum of
draws: it costs about as much as ten steps, however many cells there are."""
_ROWS = 2**13
"""Largest number of (particle, cell) rows that are held at once."""
_FREEDOM = 5
"""Minimum degrees of freedom of the variance between draws: with fewer it may be low by chance."""


class ValidElbo(NamedTuple):
    """The predictive ELBO of validation cells, nats per cell."""

    elbo: float
    mc_se: float
    """Monte Carlo standard error, of the draws for these cells."""


def valid_elbo(
    model: PerturbationVAE,
    loader: Loader,
    settings: TrainSettings,
    processes: Processes | None = None,
) -> ValidElbo:
    """Return the predictive ELBO of a loader's cells, always with the same noise.

    E log p(x | z) + log p(z_basal) - log q(z_basal): the globals are drawn from their posterior and
    not scored, as in `predictive_iwelbo`. Their KL term is a cost of the training cells: divided by
    the cells of a small validation split it would outweigh the likelihood of all of them, and the
    step with the smallest KL would be kept instead of the one that predicts best.

    Particles are drawn until the standard error is at most 0.02 nats: two on large screens, more
    where cells are few, up to 16,384 (particle, cell) pairs. The cells of a batch share the draws
    of the globals and batches share none, so with S_kb the sum over the cells of batch b

    ELBO = 1/N sum_b mean_k S_kb,    mc_se^2 = 1/N^2 sum_b var_k(S_kb) / K.

    The basal states' log ratio is drawn, not a closed form: its noise cancels much of the
    likelihood's. Each of several processes takes some of the batches, with the same noise.
    """
    processes = processes or SingleProcess()
    generator = torch.Generator(loader.device).manual_seed(settings.seed)
    n_cells = len(loader.screen)
    size = min(settings.batch_size, n_cells)
    n_batches = math.ceil(n_cells / size)
    n_draws = 1 + math.ceil(_FREEDOM / n_batches)
    max_draws, chunk = max(n_draws, _PAIRS // n_cells), max(2, _ROWS // size)
    sums = torch.zeros(0, n_batches, dtype=torch.float64, device=loader.device)
    mc_se = math.nan
    while len(sums) < n_draws:
        n_particles = min(n_draws - len(sums), chunk)
        more = _sums(model, loader, size, n_particles, generator, processes)
        sums = torch.cat([sums, more])
        mc_se = (sums.var(0).sum() / len(sums)).sqrt().item() / n_cells
        if mc_se > PRECISE:
            n_draws = min(max_draws, max(n_draws, math.ceil(len(sums) * (mc_se / PRECISE) ** 2)))
    return ValidElbo(sums.mean(0).sum().item() / n_cells, mc_se)


@torch.no_grad()
def _sums(
    model: PerturbationVAE,
    loader: Loader,
    size: int,
    n_particles: int,
    generator: torch.Generator,
    processes: Processes,
) -> Tensor:
    """Return the sum of log weights over the cells of each batch, `particle batch`, nats."""
    n_cells = len(loader.screen)
    starts = range(0, n_cells, size)
    mine = set(range(len(starts))[processes.part])
    sums = torch.zeros(n_particles, len(starts), dtype=torch.float64, device=loader.device)
    for i, start in enumerate(starts):
        rows = slice(start, min(start + size, n_cells))
        columns = loader.columns_of(rows)
        shift_noise = model.mechanism.noise(columns, n_particles, generator)
        basal_noise = model.encoder.noise(rows.stop - start, n_particles, generator)
        if i in mine:
            batch, drawn = loader.batch(rows), model.mechanism.draw(columns, shift_noise)
            shifts = of_batch(drawn, columns, batch.dosage)
            weights = objective.predictive_log_weights(model(batch, shifts, basal_noise))
            sums[:, i] = weights.double().sum(1)
    processes.sum([sums])
    return sums


class Validator:
    """Evaluates the validation cells (NaN without any), and keeps the best parameters."""

    def __init__(
        self,
        model: PerturbationVAE,
        loader: Loader,
        settings: TrainSettings,
        processes: Processes,
        patience: float = math.inf,
    ) -> None:
        self.model, self.loader, self.settings = model, loader, settings
        self.processes, self.patience = processes, patience
        self.forget()

    def forget(self) -> None:
        """Start anew: models of before are not compared with those that follow."""
        self.best: dict[str, Tensor] | None = None
        self.best_elbo = -math.inf
        self.since_best = 0
        """Evaluations since the best one."""
        self.risen_elbo = -math.inf
        """That of the last rise by more than a standard error."""
        self.since_rise = 0
        """Evaluations since then."""

    def evaluate(self) -> ValidElbo:
        """Return the model's predictive ELBO, and keep its parameters if it is the best."""
        if not len(self.loader.screen):
            return ValidElbo(math.nan, math.nan)
        valid = valid_elbo(self.model, self.loader, self.settings, self.processes)
        if valid.elbo > self.best_elbo:
            self.best_elbo, self.since_best = valid.elbo, 0
            state = self.model.state_dict()
            self.best = {name: value.clone() for name, value in state.items()}
        else:
            self.since_best += 1
        if valid.elbo > self.risen_elbo + valid.mc_se:
            self.risen_elbo, self.since_rise = valid.elbo, 0
        else:
            self.since_rise += 1
        return valid

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation is the best."""
        return self.best is not None and self.since_best == 0

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last rise is too long ago for the phase to go on."""
        return self.since_rise >= self.patience

    def restore_best(self) -> None:
        """Give the model the parameters of its best evaluation, if there is one."""
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def header(self) -> dict[str, Any]:
        """Return what a checkpoint says of the best evaluation; its parameters are in `best`."""
        best, risen = (
            value if math.isfinite(value) else None for value in (self.best_elbo, self.risen_elbo)
        )
        since = {"since_best": self.since_best, "since_rise": self.since_rise}
        return {"best_elbo": best, "risen_elbo": risen, **since}

    def load(self, header: Mapping[str, Any], best: Mapping[str, Tensor]) -> None:
        """Take what `header` returned, and the parameters that were in `best`."""
        device = self.loader.device
        self.best = {name: value.to(device) for name, value in best.items()} or None
        for name in ("best_elbo", "risen_elbo"):
            value = header.get(name, header["best_elbo"])  # older checkpoints lack the second
            setattr(self, name, -math.inf if value is None else value)
        self.since_best = header["since_best"]
        self.since_rise = header.get("since_rise", self.since_best)
