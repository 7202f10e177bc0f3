"""What the cells of conditions show: what predictions are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from samsvae.metrics.moments import Control, Moments, error_within, pooled_error, welch

N_TOP = 20
"""Genes of a condition with the largest observed effects: those that the `top20` metrics score."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What the scored cells of some conditions show, on one scale: what effects are held against.

    Arrays are `condition gene`, in the order of `conditions` and `genes`.
    """

    conditions: tuple[str, ...]
    """Without control."""
    genes: tuple[str, ...]
    n_cells: np.ndarray
    """`condition`: scored cells of each."""
    effect: np.ndarray
    """Mean of the condition's cells - mean of control cells, within batches (DE); NaN for a
    condition that shares no batch with control."""
    standard_error: np.ndarray
    """Of `effect`, see `error_within`."""
    p_control: np.ndarray
    """Two-sided p value of a test against control cells, see `welch`."""
    t_rest: np.ndarray
    """t of the difference from all other scored cells, of other conditions and control, in
    standard errors of `pooled_error`."""
    perturbation_mean: np.ndarray
    """`gene`: mean over perturbed training conditions of their effect: the mean predictor."""
    targets: tuple[tuple[int, ...], ...]
    """By condition: positions among `genes` of the genes that it perturbs."""

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
        """Compare conditions with control.

        Parameters
        ----------
        conditions
            Names, in the order of `sums`.
        sums
            Of the scored cells of each condition.
        control
            As these are compared with it.
        rest
            Of all other scored cells, and control.
        genes, perturbation_mean, targets
            As the fields.
        """
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
        )

    def among(self, conditions: np.ndarray) -> Observed:
        """Return that of some conditions, a boolean per condition."""
        rows = np.flatnonzero(conditions)
        return replace(
            self,
            conditions=tuple(self.conditions[i] for i in rows),
            targets=tuple(self.targets[i] for i in rows),
            **{
                name: getattr(self, name)[rows]
                for name in ("n_cells", "effect", "standard_error", "p_control", "t_rest")
            },
        )

    @cached_property
    def top(self) -> np.ndarray:
        """`condition top`: positions of each condition's genes of the largest |effect|."""
        return most_changed(self.effect)

    @cached_property
    def significant(self) -> np.ndarray:
        """`condition gene`: which genes differ from control at a false discovery rate of 5 %."""
        return discovered(self.p_control)

    @cached_property
    def specificity(self) -> np.ndarray:
        """`condition gene`: how specific a gene's change is to the condition; each sums to 1.

        w_pg ~ ((|t_pg| - min_g |t_pg|) / (max_g |t_pg| - min_g |t_pg|))^2, t_pg being `t_rest`;
        uniform where all |t| are equal.

        References
        ----------
        Mejia, Miller et al.: Diversity by Design: Addressing Mode Collapse Improves scRNA-seq
        Perturbation Modeling on Well-Calibrated Metrics, 2025 (there t is against the cells of
        other perturbations, without control, and Welch's).
        """
        t = np.abs(self.t_rest)
        above = t - t.min(1, keepdims=True)
        span = above.max(1, keepdims=True)
        weights = np.where(span > 0, above / np.where(span > 0, span, 1), 1) ** 2
        return weights / weights.sum(1, keepdims=True)


def most_changed(effect: np.ndarray, n: int = N_TOP) -> np.ndarray:
    """Return the positions of each condition's genes of the largest |effect|, `condition top`."""
    return np.argsort(-np.abs(effect), axis=1, kind="stable")[:, :n]


def discovered(p_values: np.ndarray, rate: float = 0.05) -> np.ndarray:
    """Return which genes pass at a false discovery rate, `condition gene`.

    Benjamini and Hochberg's: p_g <= the largest p_(k) that is at most rate k / G, p_(k) being the
    condition's k-th smallest p value.
    """
    ordered = np.sort(p_values, axis=1)
    n_genes = ordered.shape[1]
    passes = ordered <= rate * np.arange(1, n_genes + 1) / n_genes
    passing: np.ndarray = p_values <= np.max(
        ordered, axis=1, where=passes, initial=-1, keepdims=True
    )
    return passing
