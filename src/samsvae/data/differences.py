"""Differences of groups of cells from control, and of groups from each other: one shared error.

Groups that are compared with the same control cells share these cells' sampling error. In a
difference of two groups in the same batches it cancels; of a combination and its n parts n - 1
times it is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from samsvae.data.contamination import Contamination
from samsvae.data.expression import Expression, shares_of_batches, within_batches
from samsvae.data.fold_changes import fold_changes
from samsvae.data.replicates import variance_of_means
from samsvae.data.screen import Screen
from samsvae.types import Reference


class Differences(NamedTuple):
    """Differences of groups from control within batches, with the two parts of their errors."""

    difference: np.ndarray
    """`group gene`; NaN for a group without cells in batches with control cells."""
    own: np.ndarray
    """`group gene`: the squared standard error that is of the group's own cells."""
    of_control: np.ndarray
    """`group gene`: the squared standard error that is of control cells."""
    n_cells: np.ndarray
    """`group`."""
    composition: np.ndarray
    """`group`: log2 fold change of the typical gene, which was subtracted; NaN: none was."""
    control_weight: np.ndarray
    """`group batch`: the share of each batch's control cells in what the group is compared with."""
    n_control: np.ndarray
    """`batch`: control cells."""
    between: np.ndarray | None = None
    """`group gene`: the part of both errors that is between replicates; None: not known."""

    @property
    def variance(self) -> np.ndarray:
        """`group gene`: the squared standard error of each difference."""
        return self.own + self.of_control

    def combined(self, weights: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return weighted sums of groups' differences, `sum gene`, and squared standard errors.

        `weights` are sparse, `sum group`. Control's weights in the groups of a sum partly cancel.
        NaN where any of its groups has no difference.

        >>> one, nothing = np.ones((2, 1)), np.full(2, np.nan)
        >>> of = Differences(one, one, one, np.full(2, 9), nothing, one, np.full(1, 9))
        >>> of.combined(sp.csr_matrix([[1.0, -1.0]]))  # control's error cancels
        (array([[0.]]), array([[2.]]))
        """
        share = self.control_weight**2 / np.maximum(self.n_control, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            of_one_cell = self.of_control / share.sum(1, keepdims=True)
        size = abs(weights)
        mean = size.multiply(1 / size.sum(1)).tocsr() @ of_one_cell
        left = ((weights @ self.control_weight) ** 2 / np.maximum(self.n_control, 1)).sum(1)
        variance = weights.multiply(weights).tocsr() @ self.own + left[:, None] * mean
        return weights @ self.difference, variance


def fold_differences(
    screen: Screen,
    group: np.ndarray,
    control: np.ndarray,
    n_groups: int,
    relative_to: Reference,
    weight: np.ndarray | None = None,
    contamination: Contamination | None = None,
) -> Differences:
    """Return log2 fold changes of groups of cells, see `samsvae.data.fold_changes`."""
    change = fold_changes(screen, group, control, n_groups, weight)
    if contamination is not None:
        difference, growth = contamination.removed(change.difference)
        change = change._replace(
            difference=difference,
            variance=growth**2 * change.variance,
            control_variance=growth**2 * change.control_variance,
            between=growth**2 * change.between,
        )
    composition = np.full(n_groups, np.nan)
    if relative_to == "typical gene":
        change, composition = change.from_typical_gene
    own = change.variance - change.control_variance
    of_control = change.control_variance
    errors = change.difference, own, of_control, change.n_cells, composition
    cells = _control_cells(screen, group, control, n_groups)
    between = None if screen.replicate is None else change.between
    return Differences(*errors, *cells, between)


def mean_differences(
    screen: Screen,
    values: Expression,
    group: np.ndarray,
    control: np.ndarray,
    n_groups: int,
    one: float | None = None,
) -> Differences:
    """Return differences of the groups' means of values.

    Their variance is that within groups and batches, pooled with control's; with `one` as if one
    more cell were this far from its mean.
    """
    sums, compared, _ = within_batches(values, group, control, screen.batch, n_groups)
    free = sums.n_cells + compared.n_cells - 2 * compared.n_batches
    free = np.maximum(free, 1) if one is None else free + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = (sums.squares + compared.squares + (one or 0) ** 2) / free[:, None]
        own, of_control = squares / sums.n_cells[:, None], squares * compared.inverse[:, None]
    between = None
    if screen.replicate is not None:
        parts = variance_of_means(values, screen, group, control, n_groups)
        own, of_control, between = own + parts[0], of_control + parts[1], parts[0] + parts[1]
    difference, nothing = sums.mean - compared.mean, np.full(n_groups, np.nan)
    errors = difference, own, of_control, sums.n_cells, nothing
    return Differences(*errors, *_control_cells(screen, group, control, n_groups), between)


def _control_cells(
    screen: Screen, group: np.ndarray, control: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each batch in each group, `group batch`, and control cells, `batch`."""
    n_batches = int(screen.batch.max(initial=0)) + 1
    n_control = np.bincount(screen.batch[control], minlength=n_batches)
    usable = np.where(n_control[screen.batch] > 0, group, -1)
    return np.nan_to_num(shares_of_batches(usable, screen.batch, n_groups)), n_control
