"""Means, variances and tests of groups of cells against control, within batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import stdtr

_AT_ONCE = 2**25
"""Most sums (of a group in a batch, and a gene) that are held at once."""


class Moments(NamedTuple):
    """Sums over the cells of groups: all that means, variances and tests need of them."""

    n_cells: np.ndarray
    """`group`; where cells have weights, the sum of these."""
    total: np.ndarray
    """`group gene`: sum over the cells."""
    square: np.ndarray
    """`group gene`: sum of squares."""

    def of(self, groups: Any) -> Moments:
        """Return those of some groups."""
        return Moments(*(values[groups] for values in self))

    def together(self) -> Moments:
        """Return those of all groups as one, `1 gene`."""
        return Moments(*(values.sum(0, keepdims=True) for values in self))

    def without(self, other: Moments) -> Moments:
        """Return those of the cells that are not in another group, which is part of this one."""
        return Moments(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def mean(self) -> np.ndarray:
        """`group gene`; NaN for an empty group."""
        with np.errstate(invalid="ignore"):  # 0 / 0
            mean: np.ndarray = self.total / self.n_cells[:, None]
        return mean

    @property
    def variance(self) -> np.ndarray:
        """`group gene`, with n - 1; NaN for a group of fewer than two cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance: np.ndarray = self.squares / (self.n_cells[:, None] - 1)
        return variance

    @property
    def squares(self) -> np.ndarray:
        """`group gene`: sum of squared deviations from the mean; NaN for an empty group."""
        with np.errstate(invalid="ignore"):
            squares = self.square - self.total**2 / self.n_cells[:, None]
        # What cancels to less than rounding is 0: a gene that is the same in all cells.
        return np.where(squares <= 1e-12 * self.square, 0 * squares, squares)


class Values(Protocol):
    """Values of cells, `cell gene`, in memory or read at each use."""

    weight: np.ndarray | None
    """`cell`: as how many cells each counts; None: as one."""

    def sums(self, group: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of values and of their squares, `group gene`; -1: of no group."""

    def at(self, rows: np.ndarray) -> Values:
        """Return those of some cells, by position."""


def group_moments(values: Values, group: np.ndarray, n_groups: int) -> Moments:
    """Return the sums over the cells of each group.

    Parameters
    ----------
    values
        Of the cells.
    group
        `cell`: which group; -1: none.
    n_groups
        Number of groups.
    """
    return Moments(_n_cells(values, group, shape=(n_groups,)), *values.sums(group, n_groups))


def _n_cells(values: Values, *groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many cells there are of each group, or of each crossing of groups.

    Parameters
    ----------
    values
        Of the cells, with their weights.
    *groups
        `cell` each: which; a cell with -1 in one of them counts nowhere.
    shape
        How many of each there are.
    """
    known = np.all([group >= 0 for group in groups], axis=0)
    at = np.ravel_multi_index([group[known] for group in groups], shape)
    weight = None if values.weight is None else values.weight[known]
    counted: np.ndarray = np.bincount(at, weight, minlength=int(np.prod(shape)))
    return counted.reshape(shape)


class Control(NamedTuple):
    """Control cells as each group is compared with them: in its batches, weighted as its cells are.

    Means and sums are of batches with control cells alone.
    """

    n_batches: np.ndarray
    """`group`: batches that it has cells in."""
    n_cells: np.ndarray
    """`group`: control cells in these."""
    mean: np.ndarray
    """`group gene`: mean over batches of control's mean, weighted by the group's cells."""
    squares: np.ndarray
    """`group gene`: sum of squared deviations of control cells from the mean of their batch."""
    inverse: np.ndarray
    """`group`: sum over batches of weight^2 / control cells: 1 / n, were there one batch."""

    @classmethod
    def of_one_batch(cls, control: Moments, n_groups: int) -> Control:
        """Return the same control for all groups."""
        every = np.zeros(n_groups, int)
        with np.errstate(divide="ignore"):
            inverse = 1 / control.n_cells[every]
        return cls(
            np.ones(n_groups, int),
            control.n_cells[every],
            control.mean[every],
            control.squares[every],
            inverse,
        )


def within_batches(
    values: Values, group: np.ndarray, control: np.ndarray, batch: np.ndarray, n_groups: int
) -> tuple[Moments, Control, Moments]:
    """Return the sums over the cells of each group, their control, and sums over all other cells.

    Cells in batches without control cells are left out. The first sums of squares are about the
    group's means by batch.

    Parameters
    ----------
    values
        Of the cells.
    group
        `cell`: which group; -1: none.
    control
        `cell`: which are control.
    batch
        `cell`.
    n_groups
        Number of groups.
    """
    n_batches = int(batch.max(initial=0)) + 1
    of_batch = group_moments(values, np.where(control, batch, -1), n_batches)
    if n_batches == 1:
        sums = group_moments(values, group, n_groups)
        return sums, Control.of_one_batch(of_batch, n_groups), _rest(sums, of_batch)
    group = np.where(of_batch.n_cells[batch] > 0, group, -1)
    n_cells = _n_cells(values, group, batch, shape=(n_groups, n_batches))
    sums = group_moments(values, group, n_groups)
    squares = np.zeros_like(sums.total)
    for batches in _together(n_cells > 0, max(1, _AT_ONCE // sums.total.shape[1])):
        rows = np.flatnonzero(np.isin(batch, batches) & (group >= 0))
        pair = group[rows] * n_batches + batch[rows]
        pairs, place = np.unique(pair, return_inverse=True)
        of_pair = group_moments(values.at(rows), place, len(pairs)).squares
        np.add.at(squares, pairs // n_batches, of_pair)
    present = n_cells > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = n_cells / n_cells.sum(1, keepdims=True)
        inverse = np.where(present, weight**2 / of_batch.n_cells, 0).sum(1)
        about_mean = sums.total**2 / sums.n_cells[:, None]
    compared = Control(
        present.sum(1),
        present @ of_batch.n_cells,
        weight @ np.nan_to_num(of_batch.mean),
        present @ np.nan_to_num(of_batch.squares),
        inverse,
    )
    within = sums._replace(square=squares + np.nan_to_num(about_mean))
    return within, compared, _rest(sums, of_batch)


def _together(present: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield batches, as many as have at most so many groups in all (at least one batch).

    Each is one pass over the cells; `present` says which groups they have, `group batch`.
    """
    ends = np.cumsum(present.sum(0))
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield np.arange(first, last)
        first = last


def _rest(sums: Moments, control: Moments) -> Moments:
    """Return, of each group, the sums over the cells of all others and of control."""
    together = zip(sums.together(), control.together(), strict=True)
    return Moments(*(a + b for a, b in together)).without(sums)


def error_within(sums: Moments, control: Control) -> np.ndarray:
    """Return the standard error of a difference from control, `group gene`; see `pooled_error`."""
    n, m = sums.n_cells, control.n_cells
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (sums.squares + control.squares) / (n + m - 2 * control.n_batches)[:, None]
        error: np.ndarray = np.sqrt(variance * (1 / n + control.inverse)[:, None])
    return error


def pooled_error(a: Moments, b: Moments) -> np.ndarray:
    """Return the standard error of a difference of means, `group gene`, one variance for both.

    Counts are sparse: a gene may well be 0 in all cells of a small group. By that group's own
    variance it would be known without error; the other group's cells tell better.
    """
    n, m = a.n_cells[:, None], b.n_cells[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (a.squares + b.squares) / (n + m - 2)
        error: np.ndarray = np.sqrt(variance * (1 / n + 1 / m))
    return error


def welch(a: Moments, b: Control) -> tuple[np.ndarray, np.ndarray]:
    """Return Welch's t of a difference from control, and its two-sided p value, `group gene`.

    The variance of a is taken to be at least that of b, the larger group, control: else every gene
    that is 0 in all of few cells is significant (of 20 control cells of Papalexi et al. against the
    others, 84 of 299 genes at a false discovery rate of 5 %; so, none). A gene that varies in
    neither group has t 0 and p 1; so has a group of fewer than two cells.
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
