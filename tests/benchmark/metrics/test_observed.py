"""What cells show, against numpy and scipy on the same cells."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ttest_ind, ttest_ind_from_stats

import samsvae
from helpers.statistics import errors
from samsvae.benchmark.metrics.observed import Observed, error_within, pooled_error, welch
from samsvae.data.expression import (
    Control,
    Expression,
    Moments,
    control_cells,
    expression,
    group_moments,
    within_batches,
)

SIZES = [5, 2, 30, 1, 0]
"""Cells of each group."""


@pytest.fixture
def values() -> np.ndarray:
    """Return small groups of cells with many zeros; one gene is nowhere seen, one constant."""
    rng = np.random.default_rng(0)
    values = rng.gamma(1, 2, (sum(SIZES) + 3, 9)) * rng.integers(0, 2, (sum(SIZES) + 3, 9))
    values[:, 0], values[:, 1] = 0, 0.1
    values[:5, 2], values[5:, 2] = 2.5, 0  # varies in no group
    return values


GROUP = np.append(np.repeat(np.arange(5), SIZES), [-1, -1, -1])


def of(sums: Moments, groups: list[int]) -> Moments:
    return Moments(*(values[groups] for values in sums))


def one_batch(sums: Moments, n_groups: int) -> Control:
    """Return the same control for all groups."""
    same = [0] * n_groups
    control = of(sums, same)
    ones = np.ones(n_groups, int)
    return Control(ones, control.n_cells, control.mean, control.squares, 1 / control.n_cells)


def test_moments_are_those_of_numpy(values: np.ndarray) -> None:
    mixed = np.random.default_rng(1).permutation(len(values))
    sums = group_moments(Expression(sp.csr_matrix(values[mixed])), GROUP[mixed], 5)
    assert sums.n_cells.tolist() == SIZES
    for group in range(3):
        cells = values[group == GROUP]
        np.testing.assert_allclose(sums.mean[group], cells.mean(0))
        np.testing.assert_allclose(sums.variance[group], cells.var(0, ddof=1), atol=1e-14)
        assert (sums.variance[group, :3] == 0).all()
    np.testing.assert_allclose(sums.mean[3], values[GROUP == 3][0])
    assert np.isnan(sums.mean[4]).all()
    assert np.isnan(sums.variance[3:]).all()
    everyone = sums.total.sum(0) / sums.n_cells.sum()
    np.testing.assert_allclose(everyone, values[GROUP >= 0].mean(0))
    none = np.zeros(len(values), bool)
    _, _, rest = within_batches(Expression(sp.csr_matrix(values)), GROUP, none, 0 * GROUP, 5)
    others = values[(GROUP >= 0) & (GROUP != 2)]
    np.testing.assert_allclose(rest.mean[2], others.mean(0), atol=1e-14)
    np.testing.assert_allclose(rest.variance[2], others.var(0, ddof=1), atol=1e-13)


def test_welch_is_that_of_scipy(values: np.ndarray) -> None:
    sums = group_moments(Expression(sp.csr_matrix(values)), GROUP, 5)
    t, p = welch(of(sums, [0, 1]), one_batch(of(sums, [2]), 2))
    for group in range(2):
        expected = overestimated(values[group == GROUP][:, 3:], values[GROUP == 2][:, 3:])
        np.testing.assert_allclose(t[group, 3:], expected[0])
        np.testing.assert_allclose(p[group, 3:], expected[1])
    # What varies in neither group, and groups of fewer than two cells, say nothing.
    assert (t[:, :3] == 0).all()
    assert (p[:, :3] == 1).all()
    t, p = welch(of(sums, [3, 4]), one_batch(of(sums, [2]), 2))
    assert not t.any()
    assert (p == 1).all()


def test_observed_effects(screen: samsvae.Screen) -> None:
    cells = expression(screen)
    dense, n = cells[:].toarray(), len(screen.condition_names)
    group, batch = screen.condition - 1, np.zeros(len(screen), int)
    names = list(screen.condition_names)
    mean = np.arange(12.0)
    observed = Observed.of(
        names[1:],
        *within_batches(cells, group, screen.is_control, batch, n - 1),
        genes=screen.genes,
        perturbation_mean=mean,
        targets=[[0], [0, 1], [1], []],
    )
    assert observed.conditions == ("A", "A+B", "B", "C")
    assert observed.genes == screen.genes
    assert observed.targets == ((0,), (0, 1), (1,), ())
    assert observed.perturbation_mean is mean
    table = samsvae.differential_expression(screen, names[1:], scale="log")
    np.testing.assert_allclose(observed.effect, table)
    control = dense[screen.condition == 0]
    for row in range(4):
        own, rest = dense[screen.condition == row + 1], dense[screen.condition != row + 1]
        assert observed.n_cells[row] == len(own)
        expected = ttest_ind(own, control)  # one variance for both
        error = (own.mean(0) - control.mean(0)) / expected.statistic
        np.testing.assert_allclose(observed.standard_error[row], error)
        np.testing.assert_allclose(observed.p_control[row], overestimated(own, control)[1])
        np.testing.assert_allclose(observed.t_rest[row], ttest_ind(own, rest).statistic)


def overestimated(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Welch's t and p, the variance of a at least that of b, as scipy gives them."""
    sd = np.sqrt(np.maximum(a.var(0, ddof=1), b.var(0, ddof=1)))
    found = ttest_ind_from_stats(
        a.mean(0), sd, len(a), b.mean(0), b.std(0, ddof=1), len(b), equal_var=False
    )
    return found.statistic, found.pvalue


def test_controls_are_those_scored_or_else_all(screen: samsvae.Screen) -> None:
    everyone = screen.is_control
    assert screen.split is not None
    test = screen.split == "test"
    np.testing.assert_array_equal(control_cells(screen, test), everyone & test)
    np.testing.assert_array_equal(control_cells(screen, test & ~everyone), everyone)
    with pytest.raises(samsvae.InputError, match="no control cells"):
        control_cells(screen[~everyone], np.ones((~everyone).sum(), bool))


def test_moments_of_no_groups() -> None:
    empty = Moments(*(np.zeros(shape) for shape in ((0,), (0, 3), (0, 3))))
    assert empty.mean.shape == empty.variance.shape == (0, 3)


@pytest.mark.parametrize("n_cells", [5, 20, 80])
def test_sparse_genes_of_few_cells_are_no_discoveries(n_cells: int) -> None:
    """Cells of one distribution: hardly a gene differs, and standard errors tell the truth."""
    rng = np.random.default_rng(n_cells)
    n_genes = 2000
    rate = rng.gamma(0.5, 0.3, n_genes)
    cells = sp.csr_matrix(np.log2(1 + 50 * rng.poisson(rate, (n_cells + 400, n_genes))))
    group = np.repeat([0, 1], [n_cells, 400])
    sums = group_moments(Expression(cells), group, 2)
    own, control = of(sums, [0]), of(sums, [1])
    _, p = welch(own, one_batch(control, 1))
    assert (p < 1e-3).sum() <= 1e-3 * n_genes + errors() * np.sqrt(1e-3 * n_genes)
    varies = control.variance[0] > 0
    z = (own.mean - control.mean)[0, varies] / pooled_error(own, control)[0, varies]
    assert 0.8 < z.std() < 1.2


def test_within_batches_a_difference_is_that_of_its_batches() -> None:
    """Cells of two batches whose means differ: the effect and its error are those of each."""
    rng = np.random.default_rng(0)
    shift = np.array([0.0, 5.0, 100.0])
    batch = rng.choice(3, 6000, p=[0.5, 0.4, 0.1])
    group = np.where(batch == 0, rng.choice([-1, 0, 1], 6000), rng.choice([-1, 1], 6000))
    control = (group == -1) & (batch < 2)  # the last batch has none
    group = np.where(batch == 2, 1, group)
    values = rng.normal(size=(6000, 4)) + shift[batch][:, None]
    values[group == 1] += 0.7
    found, compared, _ = within_batches(Expression(sp.csr_matrix(values)), group, control, batch, 2)
    change = found.mean - compared.mean
    error = error_within(found, compared)
    allowed = errors(n_comparisons=8)
    assert (np.abs(change - [[0.0], [0.7]]) < allowed * error).all()
    comparable = batch < 2
    assert found.n_cells.tolist() == [((group == i) & comparable).sum() for i in (0, 1)]
    # The standard error is that of the noise, not of the batches: about sqrt(1 / n + sum w^2 / m).
    np.testing.assert_allclose(
        error, np.sqrt(1 / found.n_cells + compared.inverse)[:, None] * np.ones(4), rtol=0.1
    )
    t, p = welch(found, compared)
    np.testing.assert_allclose(t, change / error, rtol=0.1)
    assert (p[1] < 1e-9).all()


def test_one_batch_under_two_names_is_one_batch() -> None:
    rng = np.random.default_rng(1)
    values, group = sp.csr_matrix(rng.poisson(1.0, (300, 5)) * 1.0), rng.choice([-1, 0, 1], 300)
    control = group == -1
    ones = within_batches(Expression(values), group, control, np.zeros(300, int), 2)
    other = within_batches(Expression(values), group, control, np.full(300, 1), 2)
    for ours, theirs in zip(ones[:2], other[:2], strict=True):
        for one, another in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-10, atol=1e-9)


def test_a_group_without_control_in_its_batches_has_no_effect() -> None:
    values = sp.csr_matrix(np.arange(12.0).reshape(6, 2))
    group, batch = np.array([-1, -1, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1])
    found, compared, _ = within_batches(Expression(values), group, group == -1, batch, 2)
    change = found.mean - compared.mean
    assert np.isfinite(change[0]).all()
    assert np.isnan(change[1]).all()


@pytest.mark.parametrize("n_batches", [1, 2])
def test_a_cell_of_weight_two_is_two_cells(n_batches: int) -> None:
    rng = np.random.default_rng(2)
    values, group = rng.poisson(1.0, (300, 5)) * 1.0, rng.choice([-1, 0, 1], 300)
    control, batch = group == -1, rng.integers(0, n_batches, 300)
    times = np.where(control, 1, rng.integers(0, 3, 300))
    rows = np.repeat(np.arange(300), times)
    weighted = Expression(sp.csr_matrix(values), weight=times * 1.0)
    ours = within_batches(weighted, group, control, batch, 2)
    copied = Expression(sp.csr_matrix(values[rows]))
    theirs = within_batches(copied, group[rows], control[rows], batch[rows], 2)
    for mine, other in zip(ours, theirs, strict=True):
        for one, another in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-10, atol=1e-9)
