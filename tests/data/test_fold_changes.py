"""Log2 fold changes from cells: against a plain definition, and where screens differ in depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from samsvae.data.fold_changes import FoldChanges, fold_changes, typical_gene


def screen_of(counts: np.ndarray, condition: np.ndarray, **obs: np.ndarray) -> samsvae.Screen:
    labels = np.where(condition == 0, "control", np.char.add("P", condition.astype(str)))
    table = pd.DataFrame(
        {"perturbation": labels, **obs}, index=[f"c{i}" for i in range(len(counts))]
    )
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=table)
    adata.var_names = [f"g{i}" for i in range(counts.shape[1])]
    return samsvae.Screen.from_anndata(adata, **({"batch_key": "batch"} if "batch" in obs else {}))


def against_control(screen: samsvae.Screen, weight: np.ndarray | None = None) -> FoldChanges:
    control = np.asarray(screen.is_control)
    n = len(screen.condition_names) - 1
    return fold_changes(screen, np.where(control, -1, screen.condition - 1), control, n, weight)


def drawn(
    seed: int,
    *,
    n_cells: tuple[int, ...] = (300, 80),
    n_genes: int = 200,
    size: np.ndarray | float = 500.0,
    theta: float | np.ndarray = 2.0,
    change: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and conditions; `change` (natural logarithm) is `condition gene`."""
    rng = np.random.default_rng(seed)
    condition = np.repeat(np.arange(len(n_cells)), n_cells)
    log_share = rng.normal(0, 1, n_genes)
    share = np.exp(log_share) / np.exp(log_share).sum()
    of_cell = np.broadcast_to(size, len(n_cells))[condition] * rng.lognormal(0, 0.3, len(condition))
    change = np.broadcast_to(change, (len(n_cells), n_genes))
    mean = of_cell[:, None] * share * np.exp(change[condition])
    shape = np.broadcast_to(theta, (len(n_cells), n_genes))[condition]
    return rng.poisson(mean * rng.gamma(shape) / shape), condition


def test_they_are_those_of_the_definition() -> None:
    counts, condition = drawn(0, n_cells=(60, 20, 30), n_genes=15)
    batch = np.random.default_rng(1).integers(0, 3, len(counts))
    screen = screen_of(counts, condition, batch=np.array(["x", "y", "z"])[batch])
    size = counts.sum(1).astype(float)
    ours = against_control(screen)
    for c in (1, 2):
        expected = np.zeros(15)
        for b in range(3):
            of_control, own = (condition == 0) & (batch == b), (condition == c) & (batch == b)
            expected += size[own].sum() * counts[of_control].sum(0) / size[of_control].sum()
        observed = counts[condition == c].sum(0)
        np.testing.assert_allclose(
            ours.difference[c - 1], np.log2((observed + 0.5) / (expected + 0.5)), atol=1e-10
        )
        assert ours.n_cells[c - 1] == (condition == c).sum()


@pytest.mark.parametrize(
    ("n", "size", "theta"), [(8, 500.0, 2.0), (80, 500.0, 0.3), (80, 60.0, 2.0), (400, 2000.0, 5.0)]
)
def test_errors_of_genes_that_do_not_change_have_the_stated_size(
    n: int, size: float, theta: float
) -> None:
    scores = []
    for seed in range(8):
        ours = against_control(
            screen_of(*drawn(seed, n_cells=(500, n), size=size, theta=theta, n_genes=150))
        )
        scores.append(ours.difference[0] / np.sqrt(ours.variance[0]))
    z = np.concatenate(scores)
    assert 0.75 < z.std() < 1.1
    assert (np.abs(z) > 3).mean() < 0.01


def test_they_do_not_depend_on_depth_or_dispersion() -> None:
    rng = np.random.default_rng(5)
    theta = np.stack([np.full(200, 2.0), 2 * np.exp(rng.normal(0, 0.7, 200))])
    counts = drawn(3, n_cells=(2000, 2000), size=np.array([800.0, 250.0]), theta=theta)
    ours = against_control(screen_of(*counts))
    z = ours.difference[0] / np.sqrt(ours.variance[0])
    assert z.std() < 1.15
    assert np.abs(np.mean(z)) < 0.3
    logs = samsvae.differential_expression(screen_of(*counts), scale="log").to_numpy()
    assert np.abs(logs).mean() > 5 * np.abs(ours.difference).mean()


def test_the_typical_gene_does_not_change_where_one_gene_takes_all_counts() -> None:
    change = np.zeros((2, 200))
    counts, condition = drawn(2, n_cells=(1500, 1500), size=2000.0, theta=10.0)
    top = counts.sum(0).argmax()
    change[1, top] = 3.0
    counts, condition = drawn(2, n_cells=(1500, 1500), size=2000.0, theta=10.0, change=change)
    ours = against_control(screen_of(counts, condition))
    others = np.arange(200) != top
    share = counts[condition == 1][:, top].sum() / counts[condition == 1].sum()
    before = counts[condition == 0][:, top].sum() / counts[condition == 0].sum()
    expected = np.log2((1 - share) / (1 - before))
    assert expected < -0.3
    typical = typical_gene(ours.difference, ours.variance)
    assert typical.shift[0] == pytest.approx(expected, abs=4 * np.sqrt(typical.variance[0]))
    left = ours.difference[0, others] - typical.shift[0]
    assert np.median(left) == pytest.approx(0, abs=0.03)
    assert ours.difference[0, top] - typical.shift[0] == pytest.approx(3 / np.log(2), abs=0.1)


def test_up_to_half_of_the_genes_may_change_in_one_direction() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0.2, 0.1, (3, 400))
    difference[1, :150] += 1.5
    difference[2, :150] -= rng.uniform(0.5, 3, 150)
    typical = typical_gene(difference, 0.01)
    np.testing.assert_allclose(typical.shift, 0.2, atol=0.04)
    np.testing.assert_allclose(typical.weight.sum(1), 1)
    assert (typical.variance < 0.02**2).all()


def test_a_group_without_cells_has_none_and_a_single_cell_says_nothing() -> None:
    counts, condition = drawn(0, n_cells=(50, 1, 20))
    screen = screen_of(counts, condition)
    control = np.asarray(screen.is_control)
    group = np.where(control, -1, screen.condition - 1)
    ours = fold_changes(screen, group, control, 3)
    assert np.isinf(ours.variance[0]).all()
    assert np.isfinite(ours.variance[1]).all()
    assert np.isnan(ours.difference[2]).all()
    assert np.isnan(typical_gene(ours.difference, ours.variance).shift[[0, 2]]).all()


def test_no_count_in_few_cells_is_no_evidence() -> None:
    counts, condition = drawn(0, n_cells=(500, 40), size=100.0)
    counts[condition == 1] *= 0
    counts[condition == 1, 0] = 100
    ours = against_control(screen_of(counts, condition))
    rare = counts[condition == 0].sum(0) < 500 / 40
    assert rare.any()
    assert (np.abs(ours.difference[0, rare]) < 1.5 * np.sqrt(ours.variance[0, rare])).all()


def test_cells_of_weight_zero_do_not_count() -> None:
    counts, condition = drawn(0, n_cells=(50, 20))
    weight = np.ones(70)
    weight[60:] = 0
    ours = against_control(screen_of(counts, condition), weight)
    fewer = against_control(screen_of(counts[:60], condition[:60]))
    np.testing.assert_allclose(ours.difference, fewer.difference)
    np.testing.assert_allclose(ours.variance, fewer.variance)
    assert ours.n_cells[0] == 10


def test_a_screen_on_disk_gives_the_same(tmp_path: Path) -> None:
    counts, condition = drawn(0, n_cells=(50, 20, 30))
    screen = screen_of(counts, condition, batch=np.array(["x", "y"])[np.arange(100) % 2])
    screen.to_anndata().write_h5ad(tmp_path / "cells.h5ad")
    stored = samsvae.Screen.open(tmp_path / "cells.h5ad", batch_key="batch", in_memory=False)
    for a, b in zip(against_control(screen), against_control(stored), strict=True):
        np.testing.assert_allclose(a, b)


def test_genes_that_are_all_far_from_each_other_have_a_typical_one() -> None:
    found = typical_gene(np.array([[0.0, 3.0, -3.0], [1.0, 1.0, 1.0]]), 0.001)
    assert np.isfinite(found.shift).all()
    np.testing.assert_allclose(found.weight.sum(1), 1)


def test_the_typical_gene_of_few_counts_is_hardly_biased() -> None:
    """Where most genes have a count or two, chance and half counts pull towards no change."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(1500, 0.5))
    change = np.zeros(1500)
    change[np.argsort(-share)[:15]] = 3.0  # takes counts from all others
    changed = share * 2**change / (share * 2**change).sum()
    truth = -np.log2((share * 2**change).sum())
    cells = [rng.poisson(1500 * p, (n, 1500)) for p, n in ((share, 300), (changed, 15))]
    found = differences(np.concatenate(cells), 15)
    assert found == pytest.approx(truth, abs=0.12)


def differences(counts: np.ndarray, n: int) -> float:
    """Return the typical gene of the last n cells against the others."""
    labels = np.array(["control"] * (len(counts) - n) + ["A"] * n)
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    screen = samsvae.Screen.from_anndata(AnnData(counts.astype(np.float32), obs=obs))
    control = np.asarray(screen.is_control)
    return float(fold_changes(screen, np.where(control, -1, 0), control, 1).typical.shift[0])


def test_without_a_margin_errors_are_smaller() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.dirichlet(np.full(40, 1.0)) * 80, (120, 40))
    obs = pd.DataFrame({"perturbation": ["control"] * 80 + ["A"] * 40}, map(str, range(120)))
    screen = samsvae.Screen.from_anndata(AnnData(counts.astype(np.float32), obs=obs))
    control = np.asarray(screen.is_control)
    change = fold_changes(screen, np.where(control, -1, 0), control, 1)
    plain, careful = change.expected_variance, change.variance
    known = np.isfinite(plain)
    assert known.mean() > 0.8
    assert (plain < careful)[known].all()
    assert (plain > 0.4 * careful)[:, counts.sum(0) > 50].all()


def test_without_a_margin_nothing_is_known_of_genes_that_are_hardly_expressed() -> None:
    """Their fold changes are 0 in all cells that have no count of them, as if that were sure."""
    counts, condition = drawn(2)
    rare = np.random.default_rng(3).random((len(counts), 100)) < 0.002
    screen = screen_of(np.hstack([counts, rare]), condition)
    control = np.asarray(screen.is_control)
    change = fold_changes(screen, np.where(control, -1, 0), control, 1)
    assert np.isinf(change.expected_variance[:, 200:]).all()
    assert np.isfinite(change.expected_variance[:, :200]).mean() > 0.8
    alone = against_control(screen_of(counts, condition)).typical.shift
    assert change.typical.shift == pytest.approx(alone, abs=0.03)


def test_differences_between_replicates_do_not_hide_the_typical_gene() -> None:
    """They are no reason to take a gene for a rare one."""
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 0.5, (1, 60))
    difference[0, :6] = 3.0
    error, between = np.full((1, 60), 0.01), np.full((1, 60), 0.5)
    one = np.array([50])
    change = FoldChanges(difference, error + between, one, 0 * error, between, error + between)
    assert abs(float(change.typical.shift[0])) < 0.25


@pytest.mark.parametrize(("size", "theta"), [(60.0, 1.0), (300.0, 2.0)])
def test_the_expected_variance_is_that_of_the_errors(size: float, theta: float) -> None:
    """What is left of squared errors is small: a margin of a tenth of them would hide it."""
    counts, condition = drawn(5, n_cells=(4000, *[40] * 60), size=size, theta=theta)
    change = against_control(screen_of(counts, condition))
    known = np.isfinite(change.expected_variance)
    assert known.mean() > 0.7
    weight = 1 / np.square(change.variance[known] + 0.05)
    errors, expected, careful = (
        np.average(of[known], weights=weight)
        for of in (np.square(change.difference), change.expected_variance, change.variance)
    )
    assert expected / errors == pytest.approx(1, abs=0.07)
    assert careful > 1.05 * expected
