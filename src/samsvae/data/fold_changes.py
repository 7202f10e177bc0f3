"""Differences of conditions from control: log2 fold changes, with standard errors, and others.

Fold changes are of expected expression: that of a gene in a group of cells is its share of all
their counts, not a mean of logarithms over cells. So they depend neither on depth nor on
dispersion. With x_i the count and l_i the library size of cell i, and r_b the share of the gene in
the control cells of batch b,

    lfc = log2 (sum_i x_i + 1/2) / (sum_i e_i + 1/2),    e_i = l_i r_b(i),

over the cells of the group. The standard error is that of a ratio (sandwich): from the squared
deviations of cells from what is expected of them, whatever their distribution. Few cells tell
little about dispersion, so these squares are moderated by those expected from control's dispersion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.conditions import Conditions
from samsvae.data.expression import check_control, differences_from_control, expression, membership
from samsvae.data.replicates import Replicates
from samsvae.data.screen import Screen
from samsvae.errors import unknown
from samsvae.settings.arguments import checked
from samsvae.types import Reference, Scale

_LOG_2 = np.log(2)
_HALF = 0.5
"""A count that is added to observed and to expected counts, and to the variance of both."""
_FEW_COUNTS = 4.0
"""Expected counts of a gene in a group, below which its own say little about their error."""
_PRIOR_CELLS = 8.0
"""Cells that control's dispersion stands for in the variance of a group."""
_UNEQUAL = 0.1
"""Standard deviation of fold changes of unchanged genes: no gene counts more than 1 / 0.1^2."""
_RARE, _FEWEST = 0.3, 20
"""Variance beyond which half counts pin a gene near no change, so that it does not count; and how
many genes count all the same, or one in fifty."""
_REJECTED = 4.5
"""Standard deviations from the typical fold change beyond which a gene does not count."""
_LIMIT = 0.05
"""Variance of log2 fold changes, which limits the weight of a gene in scores."""
_MAX_ROUNDS, _TOLERANCE = 100, 1e-8


class FoldChanges(NamedTuple):
    """Log2 fold changes of groups of cells against control."""

    difference: np.ndarray
    """`group gene`, log2; NaN for a group without cells in batches with control cells."""
    variance: np.ndarray
    """`group gene`: the squared standard error; infinite for a single cell."""
    n_cells: np.ndarray
    """`group`; where cells have weights, the sum of these."""
    control_variance: np.ndarray
    """`group gene`: the part of the variance that is of control cells, which groups share."""
    between: np.ndarray
    """`group gene`: the part of the variance that is between replicates; 0 if they are unknown."""
    expected_variance: np.ndarray
    """`group gene`: the variance without the margin that keeps a sum that is low by chance from
    looking sure: what squared errors are on average, rather than what is safe for one of them.
    Infinite where few counts are expected: cells without a count would show a fold change of 0,
    surely."""

    @property
    def typical(self) -> TypicalGene:
        """The fold change that the unchanged genes of each group share.

        Of a group of a single cell nothing is known about errors: its genes weigh alike.
        """
        # A gene that is high by chance has a small error: as high as expected, it would weigh less.
        with np.errstate(invalid="ignore", over="ignore"):
            of_cells = (self.variance - self.between) * 2 ** (self.difference / 2)
            share = min(1.0, max(_FEWEST / of_cells.shape[1], 0.02))
            limit = np.maximum(_RARE, np.quantile(of_cells, share, axis=1, keepdims=True))
            variance = np.where(of_cells <= limit, of_cells + self.between, np.inf)
        typical = typical_gene(self.difference, variance)
        unknown = ~np.isfinite(typical.shift)
        if not unknown.any():
            return typical
        shift, variance = typical.shift.copy(), np.where(unknown, 0, typical.variance)
        shift[unknown] = typical_gene(self.difference[unknown]).shift
        return typical._replace(shift=shift, variance=variance)

    @property
    def from_typical_gene(self) -> tuple[FoldChanges, np.ndarray]:
        """The fold changes relative to the typical gene, and that of the typical gene, `group`."""
        typical = self.typical
        change = self._replace(
            difference=self.difference - typical.shift[:, None],
            variance=self.variance + typical.variance[:, None],
            expected_variance=self.expected_variance + typical.variance[:, None],
        )
        return change, typical.shift


def precision(variance: np.ndarray) -> np.ndarray:
    """Return the weights of fold changes in scores: those of rare genes are mostly noise.

    1 / (variance + 0.05), from their squared standard errors; 1 where there is no fold change.
    """
    weight: np.ndarray = np.nan_to_num(1 / (variance + _LIMIT), nan=1.0)
    return weight


class _Control(NamedTuple):
    """Shares of genes in control cells."""

    share: np.ndarray
    """`batch gene`; 0 without control cells."""
    variance: np.ndarray
    """`batch gene`: the squared standard error of the share."""
    expected_variance: np.ndarray
    """`batch gene`: the same without a margin."""
    dispersion: np.ndarray
    """`gene`: phi of variance = mean + phi mean^2, within batches."""
    has_cells: np.ndarray
    """`batch`."""


def fold_changes(
    screen: Screen,
    group: np.ndarray,
    control: np.ndarray,
    n_groups: int,
    weight: np.ndarray | None = None,
) -> FoldChanges:
    """Return the log2 fold changes of groups of cells, each against control in its own batches.

    By cell: its `group` (-1: none), whether it is `control`, and a `weight` (1 by default). Cells
    in batches without control cells are left out. Differences between the screen's replicates
    enter the variance, see `samsvae.data.replicates`.
    """
    weight = np.ones(len(screen), int) if weight is None else weight
    change = _from_cells(screen, group, control, n_groups, weight)
    if screen.replicate is None:
        return change
    mass = np.where(control, 1, weight) * screen.counted
    replicates = Replicates.of(screen.replicate, screen.batch, group, control, n_groups, mass)
    parts = replicates.of_cell, control, len(replicates.group), weight
    own = _from_cells(screen, *parts)
    of_group, of_control = replicates.between(own.difference, own.variance - own.control_variance)
    return change._replace(
        variance=change.variance + of_group + of_control,
        control_variance=change.control_variance + of_control,
        between=of_group + of_control,
        expected_variance=change.expected_variance + of_group + of_control,
    )


def _from_cells(
    screen: Screen, group: np.ndarray, control: np.ndarray, n_groups: int, weight: np.ndarray
) -> FoldChanges:
    """Return fold changes with the variance of independent cells."""
    size, batch = screen.counted.astype(float), screen.batch
    against = _of_control(screen, control, size)
    group = np.where(against.has_cells[batch], group, -1)
    first, second = (membership(group, n_groups, weight**power) for power in (1, 2))
    n_cells, cells_squared = (np.asarray(of.sum(1)).ravel() for of in (first, second))
    observed, square, product = np.zeros((3, n_groups, len(screen.genes)))
    for cells, counts in expression(screen, "mean").blocks():
        observed += (first[:, cells] @ counts).toarray()
        square += (second[:, cells] @ counts.multiply(counts)).toarray()
        expected = _times(counts, size[cells], against.share, batch[cells])
        product += (second[:, cells] @ expected).toarray()
    in_batch = sp.csr_matrix(
        (np.ones(len(batch)), (np.arange(len(batch)), batch)), (len(batch), len(against.share))
    )
    size_of = (first @ sp.diags(size) @ in_batch).toarray()
    expected = size_of @ against.share
    ratio = (observed + _HALF) / (expected + _HALF)
    expected_squares = (second @ sp.diags(size**2) @ in_batch).toarray() @ against.share**2
    squares = square - 2 * ratio * product + ratio**2 * expected_squares
    with np.errstate(invalid="ignore", divide="ignore"):  # groups without cells
        own, own_expected = _moderated(
            squares,
            observed + against.dispersion * ratio**2 * expected_squares,
            n_cells=(n_cells**2 / cells_squared)[:, None],
        )
        of_log, of_log_control = (
            (_LOG_2 * (counts + _HALF)) ** -2 for counts in (observed, expected)
        )
        of_control, of_control_expected = (
            size_of**2 @ variance * of_log_control
            for variance in (against.variance, against.expected_variance)
        )
    is_known = (n_cells > 1)[:, None]
    is_told = is_known & (expected >= _FEW_COUNTS)
    return FoldChanges(
        difference=np.where((n_cells > 0)[:, None], np.log2(ratio), np.nan),
        variance=np.where(is_known, own * of_log + of_control, np.inf),
        n_cells=n_cells,
        control_variance=of_control,
        between=np.zeros_like(observed),
        expected_variance=np.where(is_told, own_expected * of_log + of_control_expected, np.inf),
    )


def _of_control(screen: Screen, control: np.ndarray, size: np.ndarray) -> _Control:
    """Return the shares of genes in control cells, by batch."""
    n_batches = int(screen.batch.max(initial=0)) + 1
    group = np.where(control, screen.batch, -1)
    total, square, product = np.zeros((3, n_batches, len(screen.genes)))
    member = membership(group, n_batches)
    for cells, counts in expression(screen, "mean").blocks():
        total += (member[:, cells] @ counts).toarray()
        square += (member[:, cells] @ counts.multiply(counts)).toarray()
        product += (member[:, cells] @ sp.diags(size[cells]) @ counts).toarray()
    n_cells, sizes, sizes_squared = ((member @ size**power)[:, None] for power in (0, 1, 2))
    share = total / np.maximum(sizes, 1)
    squares = square - 2 * share * product + share**2 * sizes_squared
    expected_squares = share**2 * sizes_squared
    several = n_cells.ravel() > 1  # a single cell shows no dispersion
    excess = (squares * n_cells / np.maximum(n_cells - 1, 1) - total)[several].sum(0)
    dispersion = np.maximum(excess, 0) / np.maximum(expected_squares[several].sum(0), 1e-12)
    predicted = total + dispersion * expected_squares
    variance, expected_variance = (
        of_sum / np.maximum(sizes, 1) ** 2
        for of_sum in _moderated(squares, predicted, n_cells=n_cells)
    )
    return _Control(share, variance, expected_variance, dispersion, n_cells.ravel() > 0)


def _moderated(
    squares: np.ndarray, predicted: np.ndarray, *, n_cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return variances of the sum of a group's counts: of its own squares, and those predicted.

    A sum that is low by chance also has small squares: the first variance is at least half of what
    is predicted, plus half a count. The second has no such margin.
    """
    own, n_effective = n_cells * squares, np.maximum(n_cells - 1 + _PRIOR_CELLS, 1)
    without, moderated = (
        (own + _PRIOR_CELLS * (predicted + half)) / n_effective for half in (0, _HALF)
    )
    return np.maximum(moderated, (moderated + predicted + _HALF) / 2) + _HALF, without


def _times(
    counts: sp.csr_matrix, size: np.ndarray, share: np.ndarray, batch: np.ndarray
) -> sp.csr_matrix:
    """Return counts times what is expected of them, l_i r_b(i), `cell gene`."""
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    values = counts.data * size[row] * share[batch[row], counts.indices]
    return sp.csr_matrix((values, counts.indices, counts.indptr), counts.shape)


class TypicalGene(NamedTuple):
    """The fold change that the unchanged genes of each group share."""

    shift: np.ndarray
    """`group`, log2; NaN for a group without fold changes."""
    variance: np.ndarray
    """`group`: its squared standard error."""
    weight: np.ndarray
    """`group gene`: of each gene in `shift`; the sum over genes is 1."""


def typical_gene(difference: np.ndarray, variance: np.ndarray | float = 0.0) -> TypicalGene:
    """Return the fold change that the unchanged genes of each group share.

    Shares sum to 1: where some genes rise, all others fall. As medians of ratios (DESeq2) and
    trimmed means (edgeR) do, this finds by how much: Tukey's biweight of the log2 fold changes,
    `group gene`, from the middle of the shortest interval that holds half of the genes, each
    weighted by its precision.

    >>> difference = np.array([[0.3, 0.3, 0.3, 0.3, -2.0, -2.1, 1.0]])
    >>> typical_gene(difference, 0.01).shift.round(3)
    array([0.3])
    """
    variance = np.broadcast_to(variance, difference.shape)
    known = np.isfinite(difference) & np.isfinite(variance)
    values, total = np.where(known, difference, 0), np.where(known, variance, 0) + _UNEQUAL**2
    shift = _middle_of_shortest_half(np.where(known, difference, np.inf), total)
    for _ in range(_MAX_ROUNDS):
        score = (values - shift[:, None]) / (_REJECTED * np.sqrt(total))
        weight = np.where(known & (np.abs(score) < 1), (1 - score**2) ** 2, 0) / total
        # Where all genes are far from each other, none is typical: each counts.
        weight = np.where(weight.any(1, keepdims=True), weight, known / total)
        with np.errstate(invalid="ignore"):  # groups without fold changes
            weight /= weight.sum(1, keepdims=True)
        former, shift = shift, (weight * values).sum(1)
        if not (np.abs(shift - former) > _TOLERANCE).any():
            break
    own = np.where(known, variance, 0)
    squares = (own + (values - shift[:, None]) ** 2) / 2  # as stated, and as genes scatter
    return TypicalGene(shift, (weight**2 * squares).sum(1), weight)


def _middle_of_shortest_half(difference: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the middle of the shortest interval that holds half of the weight, `group`."""
    middle = np.full(len(difference), np.nan)
    order = np.argsort(difference, axis=1)
    for row, (own, place) in enumerate(zip(difference, order, strict=True)):
        ascending = own[place][np.isfinite(own[place])]
        if not len(ascending):
            continue
        weight = total[row, place[: len(ascending)]] ** -0.5
        below = np.cumsum(weight)
        last = np.searchsorted(below, below - weight + below[-1] / 2 - 1e-9)
        first = np.flatnonzero(last < len(ascending))
        shortest = first[np.argmin(ascending[last[first]] - ascending[first])]
        middle[row] = (ascending[shortest] + ascending[last[shortest]]) / 2
    return middle


def condition_effects(
    screen: Screen, scale: Scale | None, relative_to: Reference = "typical gene"
) -> np.ndarray:
    """Return the difference of each condition of a screen from control, `condition gene`.

    NaN for a condition without cells in batches with control cells; 0 for control.
    """
    scale = scale or screen.registry.scales[0]
    if scale == "lfc":
        return condition_fold_changes(screen, relative_to).difference
    blocks, n_conditions = expression(screen, scale).blocks(), len(screen.condition_names)
    return differences_from_control(blocks, screen.condition, screen.batch, n_conditions)


def condition_fold_changes(screen: Screen, relative_to: Reference = "typical gene") -> FoldChanges:
    """Return the log2 fold change of each condition of a screen against control; 0 for control."""
    control = np.asarray(screen.is_control)
    group = np.where(control, -1, screen.condition)
    change = fold_changes(screen, group, control, len(screen.condition_names))
    if relative_to == "typical gene":
        change, _ = change.from_typical_gene
    change.difference[0] = 0
    return change


@checked
def differential_expression(
    screen: Screen,
    conditions: Conditions | None = None,
    *,
    scale: Scale | None = None,
    relative_to: Reference = "typical gene",
) -> pd.DataFrame:
    """Return the difference of expression between conditions and control.

    Within batches: control cells are weighted as the condition's cells are distributed over
    batches, and cells in batches without control are left out.

    Parameters
    ----------
    screen
        The cells, say `screen.test`; it is an error if there are no control cells among them.
    conditions
        Named in any way ("B+A", ("A", "B")); by default all in these cells but control.
    scale
        "lfc": log2 fold change of the sums over cells; "log": of the mean over cells of
        log2(1 + 1e4 x / sum x); "normalized": of counts per 10,000; "mean": of x as it is. By
        default "lfc" for counts, "mean" for real values.
    relative_to
        Of fold changes: the "typical gene" or the "library", as for effects.

    Returns
    -------
    Conditions (as given) x genes, on the scale. A condition of the screen without cells among
    these is a row of NaN.

    Examples
    --------
    >>> table = differential_expression(screen, ["G01", "G02+G03"])
    >>> table.shape, list(table.index)
    ((2, 20), ['G01', 'G02+G03'])
    """
    labels = screen.registry.parser.labels(screen.conditions if conditions is None else conditions)
    positions = {name: position_of(screen, name) for name in labels}
    perturbed = {name: position for name, position in positions.items() if position > 0}
    check_control(screen)
    change = condition_effects(screen, scale, relative_to)
    index, genes = pd.Index(list(perturbed), name="condition"), pd.Index(screen.genes, name="gene")
    return pd.DataFrame(change[list(perturbed.values())], index, genes)


def position_of(screen: Screen, condition: object) -> int:
    """Return the position of a condition in `screen.condition_names`; control is 0."""
    stored = screen.registry.stored(condition)
    position = screen.position_of_condition.get(stored)
    if position is None:
        raise unknown("condition", stored, screen.condition_names)
    return position
