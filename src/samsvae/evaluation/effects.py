"""Average treatment effects: what a condition does to expression, and how sure the model is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.loader import encode, on_device
from samsvae.evaluation.latent import draw_shifts
from samsvae.model.likelihood import SCALE_SIZE
from samsvae.model.vae import PerturbationVAE
from samsvae.types import CountDraw, Dosage, Shifts

_ELEMENTS = 2**21
"""Largest number of (particle, gene) elements that are held at once."""


class Effect(NamedTuple):
    """The ATE of one condition, `gene` each."""

    ate: np.ndarray
    mc_se: np.ndarray
    """Monte Carlo standard error of the ATE."""
    lower: np.ndarray
    upper: np.ndarray
    """90 % posterior interval of the ATE; NaN without draws for it."""


class EffectSettings(NamedTuple):
    """How effects are estimated; see `samsvae.SAMSVAE.effects`."""

    scale: str
    library_size: float | None
    """Counts of both arms; None: drawn from observed library sizes."""
    n_particles: int
    n_count_draws: int
    n_draws: int


class ArmCells(NamedTuple):
    """What else the cells of both arms are like."""

    condition_sizes: np.ndarray
    """Library sizes to draw from in the condition's arm, counts."""
    control_sizes: np.ndarray
    """The same in the control arm."""
    batch_shares: np.ndarray
    """`covariate`: share of the cells in each batch; empty where there are none."""


def effect(
    model: PerturbationVAE,
    received: sp.csr_matrix,
    settings: EffectSettings,
    cells: ArmCells,
    generator: torch.Generator,
) -> Effect:
    """Return the ATE of one condition: mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), ...].

    Both arms share the draws of the basal state (from its prior), of the globals, and the noise
    of the counts.

    Parameters
    ----------
    model
        In evaluation.
    received
        `1 perturbation`: what the condition receives.
    settings, cells
        How, and in which cells.
    generator
        Source of the draws.
    """
    arms = _Arms(model, received, settings, cells, generator)
    n_genes = model.likelihood.n_genes
    total = np.zeros(n_genes)
    square = np.zeros(n_genes)
    block = max(1, _ELEMENTS // n_genes)
    for start in range(0, settings.n_particles, block):
        size = min(block, settings.n_particles - start)
        difference = arms.difference(arms.shifts(size), arms.basal(size))
        total += difference.sum(0).cpu().numpy()
        square += difference.square().sum(0).cpu().numpy()
    n = settings.n_particles
    ate = total / n
    with np.errstate(invalid="ignore", divide="ignore"):
        mc_se = np.sqrt(np.maximum(square / n - ate**2, 0) / np.float64(n - 1))
    deviation = _posterior_deviation(arms, settings)
    return Effect(ate, mc_se, ate + deviation[0], ate + deviation[1])


def _posterior_deviation(arms: _Arms, settings: EffectSettings) -> np.ndarray:
    """Return the 5 % and 95 % quantiles of ATE(E, M) - its mean, `2 gene`.

    Each of R draws r of (E, M) is averaged over the same S basal draws s. In the two-way layout
    d_rs = mean + A_r + B_s + e_rs, what is wanted is the spread of A_r; the mean over s still
    holds e_rs / sqrt(S), whose variance is estimated from the residuals of the layout and taken
    off, by shrinking the deviations.
    """
    n_draws, n_basal = settings.n_draws, max(25, settings.n_particles // 25)
    n_genes = arms.model.likelihood.n_genes
    if n_draws < 2 or not arms.has_globals:
        return np.full((2, n_genes), np.nan)
    basal = arms.basal(n_basal)
    all_shifts = arms.shifts(n_draws)
    by_draw = np.zeros((n_draws, n_genes))
    by_basal = np.zeros((n_basal, n_genes))
    square = np.zeros(n_genes)
    for r in range(n_draws):
        shifts = Shifts(all_shifts.value[r : r + 1], {})
        difference = arms.difference(shifts, basal).double().cpu().numpy()
        by_draw[r] = difference.mean(0)
        by_basal += difference / n_draws
        square += np.square(difference).sum(0)
    mean = by_draw.mean(0)
    between = np.square(by_draw - mean).sum(0)
    residual = (
        square
        - n_basal * between
        - n_draws * np.square(by_basal - mean).sum(0)
        - n_draws * n_basal * mean**2
    )
    noise = np.maximum(residual, 0) / ((n_draws - 1) * (n_basal - 1)) / n_basal
    observed = between / (n_draws - 1)
    # The estimate of the noise has an error of its own: no interval is narrower than that.
    resolved = np.maximum(observed - noise, noise * np.sqrt(2 / (n_draws - 1)))
    kept = np.sqrt(np.minimum(resolved / np.maximum(observed, 1e-300), 1))
    return np.quantile((by_draw - mean) * kept, [0.05, 0.95], axis=0)


class _Basal(NamedTuple):
    """Draws that both arms share, and the control arm they give."""

    state: Tensor  # particle 1 latent
    covariates: Tensor  # particle 1 covariate
    library_size: tuple[Tensor, Tensor]  # particle: of the condition's arm, of the control arm
    draws: list[CountDraw]
    """Of the control arm, `particle gene`, per count draw; none on a scale with a closed form."""
    control: Tensor  # particle gene: the control arm on the scale


class _Arms:
    """The two arms of one effect."""

    def __init__(
        self,
        model: PerturbationVAE,
        received: sp.csr_matrix,
        settings: EffectSettings,
        cells: ArmCells,
        generator: torch.Generator,
    ) -> None:
        self.model, self.settings, self.generator = model, settings, generator
        self.device = generator.device
        both = (cells.condition_sizes, cells.control_sizes)
        self.sizes = [self._tensor(np.sort(sizes)) for sizes in both]
        self.batch_shares = self._tensor(cells.batch_shares)
        self.dosage = on_device(encode(received, max(1, received.nnz)), self.device)
        self.control = self.dosage._replace(dose=torch.zeros_like(self.dosage.dose))
        self.has_globals = bool(self.shifts(1).log_ratios)

    def shifts(self, n: int) -> Shifts:
        """Draw the globals of the condition's perturbations."""
        return draw_shifts(self.model, self.dosage.perturbations, n, self.generator)

    @torch.no_grad()
    def basal(self, n: int) -> _Basal:
        """Draw what both arms share, and answer for the control arm."""
        state = self.model.encoder.noise(1, n, self.generator)  # the prior is N(0, I)
        sizes = self._library_sizes(n)
        covariates = self._covariates(n)
        hidden = self._hidden(self.control, self.shifts(1), state, covariates)
        likelihood, panel = self.model.likelihood, self.settings.library_size is not None
        draws: list[CountDraw] = []
        if self.settings.scale == "log":
            draws = [
                likelihood.draw(hidden, sizes[1], self.generator, panel=panel)
                for _ in range(self.settings.n_count_draws)
            ]
            control = torch.stack([_log(drawn.counts) for drawn in draws]).mean(0)
        else:
            control = likelihood.expectation(hidden)
        return _Basal(state, covariates, sizes, draws, control)

    @torch.no_grad()
    def difference(self, shifts: Shifts, basal: _Basal) -> Tensor:
        """Return the condition's arm minus the control arm, `particle gene`, on the scale."""
        hidden = self._hidden(self.dosage, shifts, basal.state, basal.covariates)
        likelihood, panel = self.model.likelihood, self.settings.library_size is not None
        if self.settings.scale != "log":
            return likelihood.expectation(hidden) - basal.control
        size = basal.library_size[0]
        arms = [
            _log(likelihood.redraw(drawn, hidden, size, self.generator, panel=panel))
            for drawn in basal.draws
        ]
        return torch.stack(arms).mean(0) - basal.control

    def _hidden(self, dosage: Dosage, shifts: Shifts, basal: Tensor, covariates: Tensor) -> Tensor:
        context = self.model.mechanism.context(dosage, shifts)
        state = self.model.mechanism.apply_to(basal, context)
        return self.model.decoder(*state, covariates).squeeze(1)

    def _library_sizes(self, n: int) -> tuple[Tensor, Tensor]:
        if self.settings.library_size is not None:
            size = torch.full((n,), self.settings.library_size, device=self.device)
            return size, size
        # One uniform number picks the same quantile in both arms: the sizes are sorted.
        uniform = torch.rand(n, generator=self.generator, device=self.device)
        own, control = (sizes[(uniform * len(sizes)).long()] for sizes in self.sizes)
        return own, control

    def _covariates(self, n: int) -> Tensor:
        """Draw the batch of each particle, `particle 1 covariate`."""
        if not len(self.batch_shares):
            return self.batch_shares.expand(n, 1, 0)
        drawn = torch.multinomial(self.batch_shares, n, True, generator=self.generator)
        return torch.eye(len(self.batch_shares), device=self.device)[drawn].unsqueeze(1)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)


def _log(counts: Tensor) -> Tensor:
    """Return log2(1 + 1e4 x / sum x), `particle gene`."""
    total = counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.log2(1 + SCALE_SIZE * counts / total)
