"""Expression of cells on a scale, its means over groups of cells, and statistics of counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.labels import control_hint
from samsvae.data.screen import Screen
from samsvae.data.source import StoredCounts
from samsvae.errors import InputError
from samsvae.types import SCALE_SIZE, Scale

Block: TypeAlias = tuple[slice, sp.csr_matrix]
"""Consecutive cells, and their values, `cell gene`."""


class Expression:
    """Values of cells, `cell gene`: in memory, or counts in a file, put on `scale` at each use.

    `weight` is the weight of each cell in sums, by default 1.
    """

    def __init__(
        self,
        values: sp.csr_matrix | StoredCounts,
        scale: Scale = "mean",
        *,
        weight: np.ndarray | None = None,
    ) -> None:
        self._values, self._scale, self.weight = values, scale, weight
        self.shape = values.shape

    def __getitem__(self, rows: np.ndarray | slice) -> sp.csr_matrix:
        """Return some cells, by position."""
        if isinstance(self._values, StoredCounts):
            return normalised(self._values[rows].to_memory(), self._scale)
        return self._values[rows]

    def at(self, rows: np.ndarray) -> Expression:
        """Return the expression of some cells, by position, without reading it yet."""
        weight = None if self.weight is None else self.weight[rows]
        return Expression(self._values[rows], self._scale, weight=weight)

    def blocks(self) -> Iterator[Block]:
        """Yield all cells in order: at once, or, from a file, some at a time."""
        if isinstance(self._values, StoredCounts):
            for cells, counts in self._values.blocks():
                yield cells, normalised(counts, self._scale)
        else:
            yield slice(0, self.shape[0]), self._values

    def sums(self, group: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of values and of squares over the cells of groups, `group gene`."""
        total, square = np.zeros((2, n_groups, self.shape[1]))
        for cells, values in self.blocks():
            squares = self._squares if values is self._values else values.multiply(values)
            weight = None if self.weight is None else self.weight[cells]
            member = membership(group[cells], n_groups, weight)
            total += (member @ values).toarray()
            square += (member @ squares).toarray()
        return total, square

    @cached_property
    def _squares(self) -> sp.csr_matrix:
        values: Any = self._values
        return values.multiply(values).tocsr()


def expression(
    screen: Screen, scale: Scale = "log", *, weight: np.ndarray | None = None
) -> Expression:
    """Return the expression of a screen's cells on a scale, see `normalised`."""
    is_stored = isinstance(screen.counts, StoredCounts)
    values = screen.counts if is_stored else normalised(screen.counts, scale)
    return Expression(values, scale, weight=weight)


def normalised(counts: sp.csr_matrix, scale: Scale) -> sp.csr_matrix:
    """Return counts on a scale, `cell gene`, sparse.

    "normalized": 1e4 x / sum x, the sum over these genes; "log": log2(1 + 1e4 x / sum x); "mean":
    x as it is.

    >>> counts = sp.csr_matrix([[1, 3]])
    >>> normalised(counts, "normalized").toarray()
    array([[2500., 7500.]])
    """
    if scale == "lfc":
        raise ValueError("a fold change is of groups of cells: see samsvae.data.fold_changes")
    values = counts.astype(np.float64)
    if scale == "mean":
        return values
    total = np.maximum(np.asarray(values.sum(1)).ravel(), 1)
    values.data *= SCALE_SIZE / np.repeat(total, np.diff(values.indptr))
    if scale == "log":
        values.data = np.log2(1 + values.data)
    return values


def shares_of_batches(group: np.ndarray, batch: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the share of each batch in the cells of each group, `group batch`; NaN without any."""
    n_cells = np.zeros((n_groups, int(batch.max(initial=0)) + 1))
    in_group = group >= 0
    np.add.at(n_cells, (group[in_group], batch[in_group]), 1)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return n_cells / n_cells.sum(1, keepdims=True)


def differences_from_control(
    blocks: Iterable[Block], condition: np.ndarray, batch: np.ndarray, n_conditions: int
) -> np.ndarray:
    """Return the mean of each condition's cells minus control's within batches, `condition gene`.

    The means of control cells in the batches of a condition are weighted by its cells in them.
    Cells in batches without control cells are left out; NaN for a condition that has no others.
    `blocks` are the cells' values, in order, read once; `condition` is 0 for control.
    """
    n_batches = int(batch.max(initial=0)) + 1
    control = condition == 0
    comparable = np.isin(batch, np.unique(batch[control]))
    # Control cells are summed by batch, others by condition: all in one pass.
    group = np.where(control, batch, n_batches - 1 + condition)
    group = np.where(comparable, group, -1)
    sums, n_cells = sums_of(blocks, group, n_batches + n_conditions - 1)
    of_batch = sums[:n_batches] / np.maximum(n_cells[:n_batches, None], 1)
    of_control = sums[:n_batches].sum(0), n_cells[:n_batches].sum()
    sums, n_cells = (
        np.concatenate([np.asarray(one)[None], rest[n_batches:]])
        for one, rest in zip(of_control, (sums, n_cells), strict=True)
    )
    shares = shares_of_batches(np.where(comparable, condition, -1), batch, n_conditions)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return sums / n_cells[:, None] - shares @ of_batch


def sums_of(
    blocks: Iterable[Block], group: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over the cells of groups, `group gene`, and their numbers of cells.

    `blocks` are the cells' values, in order, read once; `group` is that of each cell, -1 for none.
    """
    total: np.ndarray | float = 0.0
    for cells, values in blocks:
        total = total + (membership(group[cells], n_groups) @ values).toarray()
    return np.asarray(total), np.bincount(group[group >= 0], minlength=n_groups)


def rows_of(group: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Return the positions of the cells of each group, ascending; group -1 is none.

    >>> [rows.tolist() for rows in rows_of(np.array([1, -1, 0, 1]), 3)]
    [[2], [0, 3], []]
    """
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(n_groups + 1)))[1:-1]


def places_within(group: np.ndarray) -> np.ndarray:
    """Return how many earlier cells are of the same group, `cell`.

    >>> places_within(np.array([1, 0, 1, 1])).tolist()
    [0, 0, 1, 2]
    """
    place: np.ndarray = pd.Series(group).groupby(group).cumcount().to_numpy()
    return place


def membership(group: np.ndarray, n_groups: int, weight: np.ndarray | None = None) -> sp.csr_matrix:
    """Return the matrix that sums over the (weighted) cells of each group; group -1 is none.

    >>> membership(np.array([1, -1, 0, 1]), 2).toarray()
    array([[0., 0., 1., 0.],
           [1., 0., 0., 1.]])
    """
    rows = np.flatnonzero(group >= 0)
    weights = np.ones(len(rows)) if weight is None else weight[rows]
    return sp.csr_matrix((weights, (group[rows], rows)), (n_groups, len(group)))


def training_cells(screen: Screen) -> Screen:
    """Return a screen's training cells; raise unless there are control and perturbed cells."""
    train = screen.train
    if not len(train):
        raise InputError("the split leaves no training cells")
    check_control(screen, "in training")
    if not train.is_control.any():
        raise InputError(
            "no control cells in training: expected cells labelled "
            f"{screen.registry.parser.control!r} whose split is 'train'"
        )
    if train.is_control.all():
        raise InputError("no perturbed cells in training: all of them are controls")
    return train


def check_control(cells: Screen, where: str = "to compare with in these cells") -> None:
    """Raise if no cell is control; name the labels, and those that may be control."""
    if not cells.is_control.any():
        present = [name for name in cells.conditions if name != cells.condition_names[0]]
        hint = control_hint(present, cells.registry.parser.control)
        raise InputError(f"no control cells {where}: {hint}")


def control_cells(screen: Screen, scored: np.ndarray) -> np.ndarray:
    """Return `cell`: whether it is a control cell that conditions are compared with.

    Control cells among the scored ones or, without any (in a split of combinations, say), all.
    """
    check_control(screen)
    control = screen.is_control
    in_split = control & scored
    return in_split if in_split.any() else control


_MAX_SUMS = 2**25
"""Sums (of a group in a batch, and a gene) that are held in memory at once."""


class Moments(NamedTuple):
    """Sums over the cells of groups, from which means, variances and tests are computed."""

    n_cells: np.ndarray
    """`group`; where cells have weights, the sum of these."""
    total: np.ndarray
    """`group gene`: sum over the cells."""
    square: np.ndarray
    """`group gene`: sum of squares."""

    @property
    def mean(self) -> np.ndarray:
        """`group gene`; NaN for an empty group."""
        with np.errstate(invalid="ignore"):  # 0 / 0
            return self.total / self.n_cells[:, None]

    @property
    def variance(self) -> np.ndarray:
        """`group gene`, with n - 1; NaN for a group of fewer than two cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.squares / (self.n_cells[:, None] - 1)

    @property
    def squares(self) -> np.ndarray:
        """`group gene`: sum of squared deviations from the mean; NaN for an empty group."""
        with np.errstate(invalid="ignore"):
            squares = self.square - self.total**2 / self.n_cells[:, None]
        # What cancels to less than rounding is 0: a gene that is the same in all cells.
        return np.where(squares <= 1e-12 * self.square, 0 * squares, squares)


def group_moments(values: Expression, group: np.ndarray, n_groups: int) -> Moments:
    """Return the sums over the cells of each group; group -1 is none."""
    return Moments(_n_cells(values, group, shape=(n_groups,)), *values.sums(group, n_groups))


def _n_cells(values: Expression, *groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the number (or weight) of cells in each group, or in each crossing of groups."""
    in_group = np.all([group >= 0 for group in groups], axis=0)
    at = np.ravel_multi_index([group[in_group] for group in groups], shape)
    weight = None if values.weight is None else values.weight[in_group]
    n_cells: np.ndarray = np.bincount(at, weight, minlength=int(np.prod(shape)))
    return n_cells.reshape(shape)


class Control(NamedTuple):
    """Control cells in the batches of each group, weighted as its cells are distributed."""

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


def within_batches(
    values: Expression, group: np.ndarray, control: np.ndarray, batch: np.ndarray, n_groups: int
) -> tuple[Moments, Control, Moments]:
    """Return the sums over the cells of each group, their control, and sums over all other cells.

    As `differences_from_control`, with variances: cells in batches without control cells are left
    out, and the squares of the first sums are about the group's means by batch. `group` (-1: none),
    `control` (whether it is) and `batch` are by cell.
    """
    n_batches = int(batch.max(initial=0)) + 1
    of_batch = group_moments(values, np.where(control, batch, -1), n_batches)
    if n_batches == 1:
        sums = group_moments(values, group, n_groups)
        parts = of_batch.n_cells, of_batch.mean, of_batch.squares
        n_cells, mean, squares = (np.repeat(part, n_groups, axis=0) for part in parts)
        with np.errstate(divide="ignore"):
            compared = Control(np.ones(n_groups, int), n_cells, mean, squares, 1 / n_cells)
        return sums, compared, _all_others(sums, of_batch)
    group = np.where(of_batch.n_cells[batch] > 0, group, -1)
    n_cells = _n_cells(values, group, batch, shape=(n_groups, n_batches))
    sums, present = group_moments(values, group, n_groups), n_cells > 0
    squares = np.zeros_like(sums.total)
    for batches in _batches_at_once(present, max(1, _MAX_SUMS // sums.total.shape[1])):
        rows = np.flatnonzero(np.isin(batch, batches) & (group >= 0))
        pairs, place = np.unique(group[rows] * n_batches + batch[rows], return_inverse=True)
        of_pair = group_moments(values.at(rows), place, len(pairs)).squares
        np.add.at(squares, pairs // n_batches, of_pair)
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
    return within, compared, _all_others(sums, of_batch)


def _batches_at_once(present: np.ndarray, n_max: int) -> Iterator[np.ndarray]:
    """Yield batches with at most so many groups in all, or one batch: each is one pass over cells.

    `present` says which groups have cells in them, `group batch`.
    """
    ends, first = np.cumsum([0, *present.sum(0)]), 0
    while first < present.shape[1]:
        last = int(np.searchsorted(ends, ends[first] + n_max, side="right")) - 1
        yield np.arange(first, max(first + 1, last))
        first = max(first + 1, last)


def _all_others(sums: Moments, control: Moments) -> Moments:
    """Return, for each group, the sums over the cells of all others and of control."""
    pairs = zip(sums, control, strict=True)
    return Moments(*(a.sum(0, keepdims=True) + b.sum(0, keepdims=True) - a for a, b in pairs))
