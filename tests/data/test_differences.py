"""Control's part of the error of differences: shared by groups of the same batches, or not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.screens import make_adata, read
from samsvae.data.differences import Differences, fold_differences, mean_differences
from samsvae.data.expression import expression
from samsvae.data.fold_changes import fold_changes
from samsvae.data.screen import Screen

CONTRAST = sp.csr_matrix([[1.0, -1.0]])


def differences(control_weight: list[list[float]]) -> Differences:
    """Return those of two groups, each with a part of its own of 1, and of 3 of control."""
    one, nothing = np.ones((2, 1)), np.full(2, np.nan)
    difference, n_cells = np.array([[5.0], [2.0]]), np.full(2, 50)
    weights = np.array(control_weight)
    return Differences(difference, one, 3 * one, n_cells, nothing, weights, np.full(2, 100))


@pytest.mark.parametrize(
    ("control_weight", "expected"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], 2),  # the same batches: all of it cancels
        ([[1.0, 0.0], [1.0, 0.0]], 2),
        ([[1.0, 0.0], [0.0, 1.0]], 2 + 3 + 3),  # other batches: other control cells
        # Half of the second's control cells: weights (.5, -.5) are left, each cell's part the mean.
        ([[1.0, 0.0], [0.5, 0.5]], 2 + (0.25 + 0.25) / 100 * (3 * 100 + 3 * 200) / 2),
    ],
)
def test_control_cancels_as_far_as_batches_are_shared(
    control_weight: list[list[float]], expected: float
) -> None:
    difference, variance = differences(control_weight).combined(CONTRAST)
    assert difference[0, 0] == 3
    assert variance[0, 0] == pytest.approx(expected)


def test_of_one_group_both_parts_count() -> None:
    of = differences([[1.0, 0.0], [0.5, 0.5]])
    difference, variance = of.combined(sp.csr_matrix([[0.0, 1.0]]))
    assert (difference[0, 0], variance[0, 0]) == pytest.approx((2, 4))
    np.testing.assert_allclose(of.variance, 4)


def test_a_group_without_cells_has_no_contrast_and_spoils_no_other() -> None:
    of = differences([[1.0, 0.0], [0.0, 0.0]])
    of = of._replace(difference=np.array([[5.0], [np.nan]]))
    difference, variance = of.combined(sp.csr_matrix(np.array([[1.0, -1.0], [1.0, 0.0]])))
    assert np.isnan(difference[0, 0])
    assert (difference[1, 0], variance[1, 0]) == pytest.approx((5, 4))


@pytest.fixture(scope="module")
def screen() -> Screen:
    return read(make_adata(n_cells=400), batch_key="batch")


def test_parts_of_fold_changes_add_up(screen: Screen) -> None:
    control, n = screen.is_control, len(screen.condition_names)
    group = np.where(control, -1, screen.condition)
    of = fold_differences(screen, group, control, n, "library")
    expected = fold_changes(screen, group, control, n)
    np.testing.assert_array_equal(of.difference, expected.difference)
    np.testing.assert_allclose(of.variance[1:], expected.variance[1:])
    assert (of.own[1:] > 0).all()
    assert np.isnan(of.composition).all()


def test_one_more_cell_raises_the_variance_of_means(screen: Screen) -> None:
    control, n = screen.is_control, len(screen.condition_names)
    group = np.where(control, -1, screen.condition)
    values = expression(screen, "normalized")
    plain, more = (mean_differences(screen, values, group, control, n, x) for x in (None, 1e4))
    np.testing.assert_array_equal(plain.difference, more.difference)
    assert (more.variance[1:] > plain.variance[1:]).all()
