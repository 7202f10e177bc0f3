"""What predictions are compared with: effects in the held-out cells, and records of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr
from scipy.stats import false_discovery_control

from samsvae.benchmark.metrics.populations import CellPopulations
from samsvae.data.expression import Control, Moments
from samsvae.data.fold_changes import FoldChanges, precision

N_TOP = 20
"""Genes of a condition with the largest observed effects, which the `top20` metrics score."""


@dataclass(frozen=True, eq=False)
class Observed:
    """Effects of some conditions in the scored cells, on one scale, `condition gene`."""

    conditions: tuple[str, ...]
    """Without control."""
    genes: tuple[str, ...]
    n_cells: np.ndarray
    """`condition`: scored cells of each."""
    effect: np.ndarray
    """Mean of the condition's cells - mean of control cells, within batches (DE); NaN for a
    condition that shares no batch with control."""
    standard_error: np.ndarray
    """Of `effect`, see `error_within`; infinite for fold changes that tell nothing."""
    p_control: np.ndarray
    """Two-sided p value of a test against control cells, see `welch`."""
    t_rest: np.ndarray
    """t of the difference from all other scored cells, of other conditions and control, in
    standard errors of `pooled_error`."""
    perturbation_mean: np.ndarray
    """`gene`: mean effect of perturbed training conditions: the mean predictor."""
    targets: tuple[tuple[int, ...], ...]
    """By condition: positions among `genes` of the genes that it perturbs."""
    weight: np.ndarray
    """`condition gene`, in means over genes: 1, or the precision of a fold change."""

    @classmethod
    def of(
        cls,
        conditions: Sequence[str],
        sums: Moments,
        control: Control,
        rest: Moments,
        *,
        genes: Sequence[str],
        perturbation_mean: np.ndarray,
        targets: Sequence[Sequence[int]],
    ) -> Observed:
        """Compare conditions with control: arguments as `within_batches` returns them."""
        with np.errstate(invalid="ignore", divide="ignore"):
            t_rest = (sums.mean - rest.mean) / pooled_error(sums, rest)
        return cls(
            tuple(conditions),
            tuple(genes),
            sums.n_cells,
            sums.mean - control.mean,
            error_within(sums, control),
            welch(sums, control)[1],
            np.nan_to_num(t_rest),  # a gene that varies nowhere
            perturbation_mean,
            tuple(map(tuple, targets)),
            np.ones_like(t_rest),
        )

    def as_fold_changes(self, change: FoldChanges) -> Observed:
        """Return log2 fold changes and their standard errors in place of differences.

        Genes are weighted by their precision; a gene differs from control by a test of its fold
        change. Both allow a margin; what errors are compared with has none, since intervals would
        look too wide.
        """
        with np.errstate(invalid="ignore"):
            z = change.difference / np.sqrt(change.variance)
        return replace(
            self,
            effect=change.difference,
            standard_error=np.sqrt(change.expected_variance),
            p_control=np.nan_to_num(2 * ndtr(-np.abs(z)), nan=1.0),
            weight=precision(change.variance),
        )

    def with_more_variance(self, between: np.ndarray) -> Observed:
        """Return the same effects with a variance between replicates added to their errors.

        Where it is not 0, a gene differs from control by a test that includes it.
        """
        error = np.sqrt(self.standard_error**2 + between)
        with np.errstate(invalid="ignore", divide="ignore"):
            p_control = np.nan_to_num(2 * ndtr(-np.abs(self.effect / error)), nan=1.0)
        p_control = np.maximum(p_control, self.p_control)
        return replace(self, standard_error=error, p_control=p_control)

    def among(self, conditions: np.ndarray) -> Observed:
        """Return the effects of some conditions, a boolean per condition."""
        return replace(
            self,
            conditions=tuple(compress(self.conditions, conditions)),
            targets=tuple(compress(self.targets, conditions)),
            n_cells=self.n_cells[conditions],
            effect=self.effect[conditions],
            standard_error=self.standard_error[conditions],
            p_control=self.p_control[conditions],
            t_rest=self.t_rest[conditions],
            weight=self.weight[conditions],
        )

    @cached_property
    def top(self) -> np.ndarray:
        """`condition top`: positions of each condition's genes of the largest |effect| (in units
        of its error, for fold changes)."""
        return most_changed(self.effect * np.sqrt(self.weight))

    @cached_property
    def significant(self) -> np.ndarray:
        """`condition gene`: which genes differ from control at a false discovery rate of 5 %."""
        return significant(self.p_control)

    @cached_property
    def specificity(self) -> np.ndarray:
        """`condition gene`: how specific a gene's change is to the condition; each sums to 1.

        w_pg ~ ((|t_pg| - min_g |t_pg|) / (max_g |t_pg| - min_g |t_pg|))^2, t_pg being `t_rest`;
        uniform where all |t| are equal. In Mejia, Miller et al., Diversity by Design, 2025, t is
        Welch's, against the cells of other perturbations, without control.
        """
        t = np.abs(self.t_rest)
        above = t - t.min(1, keepdims=True)
        span = above.max(1, keepdims=True)
        weights = np.where(span > 0, above / np.where(span > 0, span, 1), 1) ** 2
        return weights / weights.sum(1, keepdims=True)


def most_changed(effect: np.ndarray, n: int = N_TOP) -> np.ndarray:
    """Return the positions of each condition's genes of the largest |effect|, `condition top`."""
    return np.argsort(-np.abs(effect), axis=1, kind="stable")[:, :n]


def significant(p_values: np.ndarray, fdr: float = 0.05) -> np.ndarray:
    """Return which genes pass at a false discovery rate within a condition, `condition gene`."""
    if not p_values.size:
        return np.zeros(p_values.shape, bool)
    return false_discovery_control(p_values, axis=1) <= fdr


def error_within(sums: Moments, control: Control) -> np.ndarray:
    """Return the standard error of a difference from control, `group gene`; see `pooled_error`."""
    n, m = sums.n_cells, control.n_cells
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (sums.squares + control.squares) / (n + m - 2 * control.n_batches)[:, None]
        return np.sqrt(variance * (1 / n + control.inverse)[:, None])


def pooled_error(a: Moments, b: Moments) -> np.ndarray:
    """Return the standard error of a difference of means, `group gene`, one variance for both.

    A gene may be 0 in all cells of a small group, whose own variance would suggest no error.
    """
    n, m = a.n_cells[:, None], b.n_cells[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (a.squares + b.squares) / (n + m - 2)
        return np.sqrt(variance * (1 / n + 1 / m))


def welch(a: Moments, b: Control) -> tuple[np.ndarray, np.ndarray]:
    """Return Welch's t of a difference from control, and its two-sided p value, `group gene`.

    The variance of a is at least that of b, control: otherwise a gene that is 0 in all of few cells
    is significant (84 of 299 genes for 20 control cells of Papalexi et al. against the others). A
    gene that varies in neither group, or a group of one cell, has t 0 and p 1.
    """
    free_a, free_b = ((x.n_cells - b.n_batches)[:, None] for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        variance_a, variance_b = a.squares / free_a, b.squares / free_b
        part_a = np.maximum(variance_a, variance_b) / a.n_cells[:, None]
        part_b = variance_b * b.inverse[:, None]
        square = part_a + part_b
        t = (a.mean - b.mean) / np.sqrt(square)
        freedom = square**2 / (part_a**2 / free_a + part_b**2 / free_b)
    usable = np.isfinite(t) & np.isfinite(freedom)
    t = np.where(usable, t, 0.0)
    p = np.where(usable, 2 * stdtr(np.where(usable, freedom, 1.0), -np.abs(t)), 1.0)
    return t, p


class Intervals(NamedTuple):
    """Central posterior intervals of effects."""

    ate: np.ndarray
    """`condition gene`: the effects they are of."""
    ends: dict[float, tuple[np.ndarray, np.ndarray]]
    """By level, lower and upper ends, `condition gene`."""


class Observation(NamedTuple):
    """What the scored cells of some conditions show."""

    observed: Observed
    combinations: np.ndarray
    """`combination`: which of the conditions are combinations whose parts have cells, too."""
    interaction: np.ndarray
    """`combination gene`: what these do beyond the sum of their parts."""
    populations: CellPopulations | None
    """None: distributions of cells are not compared."""


class Prediction(NamedTuple):
    """What is predicted for the same conditions; effects are NaN where there is no prediction."""

    effects: dict[str, np.ndarray]
    """`condition gene`: by library size, "fixed" (1e4) or "observed"."""
    interactions: dict[str, np.ndarray]
    """`combination gene`: by library size."""
    intervals: Intervals | None
    """At observed library sizes; None without a posterior."""
    populations: CellPopulations | None
    likelihood: np.ndarray | None = None
    """`condition 2`: sum of the IWELBO over the condition's cells, nats, and how many these are;
    control may come last. None without a likelihood."""
