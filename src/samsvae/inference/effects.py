"""Average treatment effects: arms of control and of each condition, on draws that they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from rich.progress import track
from torch import Tensor

from samsvae.data.contamination import Contamination
from samsvae.data.fold_changes import typical_gene
from samsvae.data.loader import encode, on_device
from samsvae.inference.latent import BasalPosterior, Batches, draw_shifts
from samsvae.model.vae import PerturbationVAE
from samsvae.ops.arrays import difference_sums, product_sums
from samsvae.ops.parallel import side_by_side
from samsvae.settings.questions import EffectSettings
from samsvae.types import SCALE_SIZE, Batch, CountDraw, Dosage, Shifts

_ELEMENTS = 2**21
"""Largest number of (particle, gene) elements that are held at once."""
LEVELS = (0.9, 0.5)
"""Levels of the posterior intervals."""


class Effect(NamedTuple):
    """The ATE of one condition, `gene` each."""

    ate: np.ndarray
    mc_se: np.ndarray
    """Monte Carlo standard error of the ATE."""
    intervals: np.ndarray
    """`level end gene`: lower and upper end of the central posterior interval of each of `LEVELS`;
    NaN without draws for it."""
    composition: float
    """The log2 fold change of the typical gene, which was subtracted; NaN on other scales."""
    growth: np.ndarray
    """`gene`: how much errors grew as counts of other cells were taken off."""


class ArmCells(NamedTuple):
    """Library sizes, batches and basal states of the cells of the arms."""

    condition_sizes: Sequence[np.ndarray]
    """By condition, the library sizes that its arm draws from, counts."""
    control_sizes: np.ndarray
    """Those of the control arm."""
    batches: Batches
    """The batches that cells are drawn from."""
    basal: BasalPosterior | None = None
    """Where basal states come from; None: the prior."""
    own_batches: bool = False
    """Whether these basal states stay in their own batches."""
    contamination: Contamination | None = None
    """Counts of other cells, which are taken off fold changes."""


@dataclass(frozen=True)
class SharedDraws:
    """Draws of basal states that all arms share, and the control arm that they give.

    An arm's expression has the axes `globals basal gene`. Each basal state has a draw of the
    globals of its own (axes `draw 1`), or, `crossed`, is combined with each of them (`1 draw`).
    """

    state: Tensor
    """`... latent`."""
    covariates: Tensor
    """`... covariate`."""
    quantile: Tensor
    """`...`: of the library sizes of each arm."""
    counts: list[CountDraw]
    """Of the control arm, `... gene`, per count draw; none on a scale with a closed form."""
    control: Tensor
    """`... gene`: the control arm on the scale."""

    def crossed(self) -> SharedDraws:
        """Return the same basal states, to be combined with every draw of the globals."""

        def swapped(values: Tensor | None) -> Any:
            return None if values is None else values.transpose(0, 1)

        fields = (self.state, self.covariates, self.quantile, self.control)
        state, covariates, quantile, control = map(swapped, fields)
        counts = [CountDraw(*map(swapped, drawn)) for drawn in self.counts]
        return SharedDraws(state, covariates, quantile, counts, control)


class Control:
    """The control arm, and the draws that all arms share."""

    def __init__(
        self,
        model: PerturbationVAE,
        settings: EffectSettings,
        cells: ArmCells,
        generator: torch.Generator,
    ) -> None:
        self.model, self.settings, self.generator = model, settings, generator
        self.sizes = _tensor(np.sort(cells.control_sizes), generator.device)
        self.batches = cells.batches
        self.posterior, self.own_batches = cells.basal, cells.own_batches
        self.contamination = cells.contamination
        self.is_ratio = settings.scale == "lfc"
        self.total, self.square = np.zeros((2, model.likelihood.n_genes))

    @property
    def sizes_of_blocks(self) -> list[int]:
        """Particles of each block."""
        n, block = self.settings.n_particles, max(1, _ELEMENTS // self.model.likelihood.n_genes)
        return [min(block, n - start) for start in range(0, n, block)]

    def blocks(self) -> Iterator[SharedDraws]:
        """Draw what the arms share, block by block; sum the control arm, for ratios."""
        for shared in map(self.paired, self.sizes_of_blocks):
            if self.is_ratio:
                total, square, _ = product_sums(shared.control, shared.control)
                self.total += total.cpu().numpy()
                self.square += square.cpu().numpy()
            yield shared

    @torch.no_grad()
    def paired(self, n: int) -> SharedDraws:
        """Draw what the arms share, and answer for the control arm."""
        state, covariates = self._states(n)
        quantile = torch.rand(n, 1, generator=self.generator, device=self.generator.device)
        nothing = on_device(encode(sp.csr_matrix((1, 1)), 1), self.generator.device)
        shifts = draw_shifts(self.model, nothing.columns, 1, self.generator)
        hidden = self.hidden(nothing, shifts, state, covariates)
        likelihood = self.model.likelihood
        counts: list[CountDraw] = []
        if self.settings.scale == "log":
            size = self.library_size(self.sizes, quantile)
            counts = [
                likelihood.draw(hidden, size, self.generator, panel=self.panel)
                for _ in range(self.settings.n_count_draws)
            ]
            control = _mean(_log(drawn.counts) for drawn in counts)
        else:
            control = likelihood.expectation(hidden)
        return SharedDraws(state, covariates, quantile, counts, control)

    def hidden(self, dosage: Dosage, shifts: Shifts, basal: Tensor, covariates: Tensor) -> Tensor:
        """Return the decoder's last layer, `globals basal hidden`."""
        return self.model.hidden(Batch.without_data(dosage, covariates), shifts, basal)

    @property
    def panel(self) -> bool:
        """Whether library sizes count these genes alone."""
        return self.settings.library_size != "observed"

    def library_size(self, sizes: Tensor, quantile: Tensor) -> Tensor:
        """Return sizes, shaped as `quantile`: as asked, or that of each arm's (sorted) sizes."""
        if self.settings.library_size != "observed":
            return torch.full_like(quantile, self.settings.library_size)
        return sizes[(quantile * len(sizes)).long().clamp(max=len(sizes) - 1)]

    def _states(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw the basal state and batch of each particle, `particle 1 ...`."""
        if self.posterior is None:
            state = self.model.encoder.draw_prior(1, n, self.generator)
        else:
            state, own = self.posterior.draw(n, self.generator)
            if self.own_batches:
                return state, own
        return state, self.batches.draw(n, self.generator)


class Arm:
    """The arm of one condition, and its difference from the control arm so far."""

    def __init__(
        self,
        control: Control,
        received: sp.csr_matrix,
        sizes: np.ndarray,
        generator: torch.Generator,
    ) -> None:
        self.control, self.generator = control, generator
        self.sizes = _tensor(np.sort(sizes), generator.device)
        self.dosage = on_device(encode(received, max(1, received.nnz)), generator.device)
        self.total, self.square, self.product = np.zeros((3, control.model.likelihood.n_genes))

    def add(self, shared: SharedDraws) -> None:
        """Add a block of particles, each with a draw of the globals to itself.

        The sums are of this arm, for ratios, otherwise of its difference from the control arm.
        """
        expression = self.expression(self.shifts(len(shared.state)), shared)
        if self.control.is_ratio:
            total, square, product = product_sums(expression, shared.control)
            self.product += product.cpu().numpy()
        else:
            total, square = difference_sums(expression, shared.control)
        self.total += total.cpu().numpy()
        self.square += square.cpu().numpy()

    def shifts(self, n: int) -> Shifts:
        """Draw the globals of the condition's perturbations."""
        return draw_shifts(self.control.model, self.dosage.columns, n, self.generator)

    @torch.no_grad()
    def expression(self, shifts: Shifts, shared: SharedDraws) -> Tensor:
        """Return the condition's arm on the scale, `globals basal gene`."""
        control = self.control
        likelihood = control.model.likelihood
        hidden = control.hidden(self.dosage, shifts, shared.state, shared.covariates)
        if control.settings.scale != "log":
            return likelihood.expectation(hidden)
        size = control.library_size(self.sizes, shared.quantile)
        arms = (
            likelihood.redraw(drawn, hidden, size, self.generator, panel=control.panel)
            for drawn in shared.counts
        )
        return _mean(map(_log, arms))

    def effect(self, shared: SharedDraws | None) -> Effect:
        """Return the effect, with its interval over these crossed draws, if they are given."""
        n = self.control.settings.n_particles
        if self.control.is_ratio:
            mean, of_control = self.total / n, self.control.total / n
            ate = np.log2(mean / of_control)
            # The delta method: of e_k / mean e - c_k / mean c, whose mean is 0.
            square = (
                self.square / mean**2
                - 2 * self.product / (mean * of_control)
                + self.control.square / of_control**2
            )
            variance = square / n / math.log(2) ** 2
        else:
            ate = self.total / n
            variance = self.square / n - ate**2
        growth = np.ones(len(ate))
        if self.control.contamination is not None:
            ate, growth = self.control.contamination.removed(ate)
        mc_se = growth * np.sqrt(np.maximum(variance, 0) / (n - 1))
        typical = None
        if self.control.settings.relative_to == "typical gene" and self.control.is_ratio:
            # Genes weigh as in cells: by the counts that control cells have of them.
            share = of_control / of_control.sum()
            counts = share * float(self.control.sizes.double().sum())
            typical = typical_gene(ate[None], 1 / (math.log(2) ** 2 * counts))
        intervals = np.full((len(LEVELS), 2, len(ate)), np.nan)
        if shared is not None:
            weight = None if typical is None else typical.weight[0]
            intervals = self._ends(ate, shared, weight, growth)
        if typical is None:
            return Effect(ate, mc_se, intervals, np.nan, growth)
        return Effect(ate - typical.shift, mc_se, intervals, float(typical.shift[0]), growth)

    def _ends(
        self,
        ate: np.ndarray,
        shared: SharedDraws,
        typical: np.ndarray | None,
        growth: np.ndarray,
    ) -> np.ndarray:
        """Return the ends of the intervals of ATE(E, M), whose mean is `ate`, `level end gene`.

        With the weights `typical` of genes, effects are relative to the typical gene; `growth`
        multiplies differences from their mean.

        Each of R draws r of (E, M) is averaged over the same S basal draws s. In the two-way layout
        d_rs = mean + A_r + B_s + e_rs, what is wanted is the spread of A_r; the mean over s still
        holds e_rs / sqrt(S), whose variance is estimated from the residuals of the layout and taken
        off, by shrinking the deviations: the sum of (d_rs - mean_s d_rs)^2, less R times that of
        the squares of its means over r, which are of B_s. A draw whose masks are all closed has no
        effect at all, and no noise: it stays 0.
        """
        n_draws, n_basal = self.control.settings.n_draws, shared.state.shape[1]
        together = max(1, _ELEMENTS // (n_basal * len(self.total)))
        by_draw = np.zeros((n_draws, len(self.total)))
        by_basal = shared.control.new_zeros(shared.control.shape[1:])
        square = np.zeros(len(self.total))
        for start in range(0, n_draws, together):
            rows = slice(start, min(start + together, n_draws))
            shifts = self.shifts(rows.stop - start)
            own, around = self._differences(self.expression(shifts, shared), shared.control)
            own, around = own * growth, around.mul_(around.new_tensor(growth))
            if typical is not None:
                own -= (own @ typical)[:, None]
                around -= (around @ around.new_tensor(typical))[..., None]
            by_draw[rows] = own
            by_basal += around.sum(0) / n_draws
            square += _squares(around, (0, 1))
        deviation = by_draw - by_draw.mean(0)
        residual = square - n_draws * _squares(by_basal, (0,))
        noise = np.maximum(residual, 0) / ((n_draws - 1) * (n_basal - 1)) / n_basal
        observed = np.square(deviation).sum(0) / (n_draws - 1)
        # The estimate of the noise has an error of its own: no interval is narrower than that.
        resolved = np.maximum(observed - noise, noise * np.sqrt(2 / (n_draws - 1)))
        kept = np.sqrt(np.minimum(resolved / np.maximum(observed, 1e-300), 1))
        ends = [((1 - level) / 2, (1 + level) / 2) for level in LEVELS]
        # Of R draws the k-th smallest is the quantile k / (R + 1): others leave intervals narrow.
        if typical is not None:
            ate = ate - ate @ typical
        effects = np.where(by_draw == 0, 0, ate + deviation * kept)
        quantiles: np.ndarray = np.quantile(effects, ends, axis=0, method="weibull")
        return quantiles

    def _differences(self, expression: Tensor, of_control: Tensor) -> tuple[np.ndarray, Tensor]:
        """Return the difference from control, `draw gene`, and that of basal draws about it.

        The latter are `draw basal gene`, with mean 0 over `basal`; `expression` is written over. Of
        logarithms of means, for ratios, each basal draw is an influence on that of its mean.
        """
        if not self.control.is_ratio:
            difference = expression.sub_(of_control)
            mean = difference.mean(1, keepdim=True, dtype=torch.float64)
            return np.asarray(mean[:, 0].cpu().numpy()), difference.sub_(mean.to(difference.dtype))
        mean, base = (
            x.mean(1, keepdim=True, dtype=torch.float64) for x in (expression, of_control)
        )
        log_2 = math.log(2)
        around = expression.mul_((1 / (log_2 * mean)).to(expression.dtype))
        around.sub_(of_control * (1 / (log_2 * base)).to(expression.dtype))
        return np.asarray(torch.log2(mean / base)[:, 0].cpu().numpy()), around


def _squares(values: Tensor, axes: tuple[int, ...]) -> np.ndarray:
    """Return the sum of squares over some axes, in float64."""
    norm = torch.linalg.vector_norm(values, dim=axes)
    return np.asarray(norm.double().square().cpu().numpy())


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).to(device)


def _log(counts: Tensor) -> Tensor:
    """Return log2(1 + 1e4 x / sum x), `particle gene`."""
    share = SCALE_SIZE / counts.sum(-1, keepdim=True).clamp(min=1)
    return (counts * share).log1p_().div_(math.log(2))


def _mean(arms: Iterable[Tensor]) -> Tensor:
    """Return the mean of tensors that nobody else needs: the first is written over."""
    rest = iter(arms)
    total, n = next(rest), 1
    for arm in rest:
        total += arm
        n += 1
    return total.div_(n)


def average_effects(
    model: PerturbationVAE,
    received: sp.csr_matrix,
    settings: EffectSettings,
    cells: ArmCells,
) -> list[Effect]:
    """Return the ATE of each condition: mean_k [E x | do(d), z_k, E_k, M_k] - [E x | do(0), ...].

    `received` is `condition column`. Both arms share all draws and the noise of the counts, all
    conditions the control arm; a condition's numbers do not depend on the others.
    """
    device = next(model.parameters()).device
    of_basal, of_condition = np.random.SeedSequence(settings.seed).generate_state(2)
    control = Control(model, settings, cells, torch.Generator(device).manual_seed(int(of_basal)))
    arms = [
        Arm(control, row, sizes, torch.Generator(device).manual_seed(int(of_condition)))
        for row, sizes in zip(received, cells.condition_sizes, strict=True)
    ]
    # torch draws counts in one thread: so conditions are what threads share.
    blocks = control.blocks()
    work = (
        done for shared in blocks for done in side_by_side(partial(Arm.add, shared=shared), arms)
    )
    n_steps = len(control.sizes_of_blocks) * len(arms)
    list(track(work, "effects", total=n_steps, disable=not settings.progress))
    if settings.n_draws < 2 or not model.mechanism.variables:
        return [arm.effect(None) for arm in arms]
    shared = control.paired(max(25, settings.n_particles // 25)).crossed()
    answers = side_by_side(lambda arm: arm.effect(shared), arms)
    return list(track(answers, "intervals", total=len(arms), disable=not settings.progress))
