"""Distances between clouds of cells, and the space that they are taken in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats

import samsvae
from conftest import SMALL, errors, make_adata
from samsvae import Screen, evaluate
from samsvae.data.expression import expression
from samsvae.estimators.base import Estimator
from samsvae.evaluation import clouds
from samsvae.evaluation.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    NoChange,
    PerturbationMean,
)
from samsvae.evaluation.clouds import Space
from samsvae.evaluation.subject import Subject
from samsvae.metrics.distances import energy_distance, median_distance, mmd

Distance = Callable[[np.ndarray, np.ndarray], float]

SCORED = ["A", "A+B", "B", "C"]
QUICK: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 1000, "progress": False}
"""Clouds of all cells there are."""


def points(n: int, *, n_features: int = 3, at: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(at, 1, (n, n_features))


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) ** 0.5)


def between(x: np.ndarray, y: np.ndarray, of: Distance = far) -> float:
    """Return the mean over pairs of one cell of each."""
    return sum(of(a, b) for a in x for b in y) / (len(x) * len(y))


def within(x: np.ndarray, of: Distance = far) -> float:
    """Return the mean over pairs of different cells."""
    pairs = [of(a, b) for a, b in combinations(x, 2)]
    return sum(pairs) / len(pairs)


def plain_energy(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * between(x, y) - within(x) - within(y)


def plain_mmd(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-(far(a, b) ** 2) / (2 * scale**2)))

    return within(x, kernel) + within(y, kernel) - 2 * between(x, y, kernel)


def of_scale(scale: float) -> Distance:
    return lambda x, y: mmd(x, y, scale)


either = pytest.mark.parametrize(
    "distance", [energy_distance, of_scale(1.5)], ids=["energy", "mmd"]
)


# Distances.


@pytest.mark.parametrize(("n", "m", "n_features"), [(2, 2, 1), (5, 9, 3), (8, 3, 7)])
def test_distances_equal_plain_loops(n: int, m: int, n_features: int) -> None:
    x, y = points(n, n_features=n_features), points(m, n_features=n_features, at=0.7, seed=1)
    assert energy_distance(x, y) == pytest.approx(plain_energy(x, y), rel=1e-12, abs=1e-12)
    for scale in (0.5, 2.0):
        assert mmd(x, y, scale) == pytest.approx(plain_mmd(x, y, scale), rel=1e-12, abs=1e-12)
    assert median_distance(x) == pytest.approx(
        np.median([far(a, b) for a, b in combinations(x, 2)])
    )


def test_distances_by_hand() -> None:
    x, y = np.array([[0.0, 0], [0, 2]]), np.array([[3.0, 0], [3, 2], [3, 2]])
    # Between: 3, 3 and, three times, the root of 13 (twice of the first cell, once of the second).
    across = (3 + 2 * 13**0.5 + 13**0.5 + 2 * 3) / 6
    assert energy_distance(x, y) == pytest.approx(2 * across - 2 - 4 / 3)
    same, other = np.zeros((4, 1)), np.full((2, 1), 3.0)
    assert energy_distance(same, other) == 6
    assert mmd(same, other, 2.0) == pytest.approx(2 - 2 * np.exp(-9 / 8))
    assert median_distance(np.array([[0.0], [1], [3]])) == 2
    assert median_distance(np.array([[0.0, 0], [3, 4]])) == 5


def test_the_energy_distance_of_scipy_counts_cells_against_themselves() -> None:
    x, y = points(6, n_features=1), points(9, n_features=1, at=0.5, seed=1)
    theirs = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    expected = theirs - within(x) / 6 - within(y) / 9
    assert energy_distance(x, y) == pytest.approx(expected)
    many = points(1500, n_features=1), points(1500, n_features=1, at=2, seed=1)
    theirs = scipy.stats.energy_distance(many[0][:, 0], many[1][:, 0]) ** 2
    assert energy_distance(*many) == pytest.approx(theirs, abs=0.01)


@either
def test_distances_are_of_two_clouds_whatever_their_order(distance: Distance) -> None:
    x, y = points(6), points(9, at=0.5, seed=1)
    rng = np.random.default_rng(0)
    expected = distance(x, y)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for ours, theirs in [
        (y, x),
        (rng.permutation(x), rng.permutation(y)),
        (x + 7, y + 7),
        (x @ turn, y @ turn),
    ]:
        assert distance(ours, theirs) == pytest.approx(expected)


def test_the_units_of_distances() -> None:
    x, y = points(6), points(9, at=0.5, seed=1)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(3 * energy_distance(x, y))
    assert median_distance(3 * x) == pytest.approx(3 * median_distance(x))
    assert mmd(3 * x, 3 * y, 4.5) == pytest.approx(mmd(x, y, 1.5))


@either
@pytest.mark.parametrize(("n", "m"), [(0, 5), (1, 5), (5, 1), (5, 0), (1, 1)])
def test_fewer_than_two_cells_have_no_distance(distance: Distance, n: int, m: int) -> None:
    assert np.isnan(distance(points(n), points(m)))


@either
def test_clouds_far_apart_are_farther(distance: Distance) -> None:
    x = points(30)
    near, farther = (distance(x, points(30, at=at, seed=1)) for at in (0.5, 1.5))
    assert 0 < near < farther


N_REPEATS = 3000


def estimates(distance: Distance, at: float) -> np.ndarray:
    """Return distances of small clouds on a line, N(0, 1) and N(at, 1)."""
    rng = np.random.default_rng(1)
    return np.array(
        [distance(rng.normal(size=(4, 1)), rng.normal(at, 1, (7, 1))) for _ in range(N_REPEATS)]
    )


def close_to(expected: float, drawn: np.ndarray) -> None:
    allowed = errors() * drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert drawn.mean() == pytest.approx(expected, abs=allowed)
    assert allowed < 0.2  # what is claimed is worth claiming


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_energy_distance_is_unbiased(at: float) -> None:
    # X - Y is N(at, 2), so |X - Y| is a folded normal.
    folded = scipy.stats.foldnorm(at / np.sqrt(2), scale=np.sqrt(2)).mean()
    close_to(2 * folded - 2 * 2 / np.sqrt(np.pi), estimates(energy_distance, at))


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_mmd_is_unbiased(at: float) -> None:
    s = 0.8
    # E exp(-u^2 / 2 s^2) of u ~ N(at, 2).
    factor = s / np.sqrt(s**2 + 2)
    expected = 2 * factor * (1 - np.exp(-(at**2) / (2 * (s**2 + 2))))
    close_to(expected, estimates(of_scale(s), at))


# The space.


def read(n_genes: int = 40) -> Screen:
    return Screen.from_anndata(make_adata(n_genes=n_genes), split_key="split")


@pytest.fixture(scope="module")
def wide() -> Screen:
    """Return a screen with more genes than there are components."""
    return read()


def space_of(screen: Screen, *, n_cells: int = 1000, seed: int = 0) -> Space:
    return Space(screen, expression(screen), scale="log", n_cells=n_cells, seed=seed)


def dense_logs(counts: Any) -> np.ndarray:
    values = counts.toarray().astype(float)
    logs: np.ndarray = np.log2(1 + 1e4 * values / values.sum(1, keepdims=True))
    return logs


class Plain:
    """Principal components of the training cells, from a dense matrix."""

    def __init__(self, screen: Screen, n_components: int = 30) -> None:
        self.screen, self.logs = screen, dense_logs(screen.counts)
        self.label = np.array(screen.condition_names)[screen.condition]
        self.train = np.asarray(screen.split) == "train"
        self.center = self.logs[self.train].mean(0)
        rows = self.logs[self.train] - self.center
        self.axes = np.linalg.svd(rows, full_matrices=False)[2][:n_components].T
        self.kernel = median_distance(self.of(self.train & (self.label == "control")))

    def of(self, cells: np.ndarray) -> np.ndarray:
        projected: np.ndarray = (self.logs[cells] - self.center) @ self.axes
        return projected

    def observed(self, condition: str, split: str = "test") -> np.ndarray:
        return self.of((np.asarray(self.screen.split) == split) & (self.label == condition))

    def trained(self, *conditions: str) -> np.ndarray:
        return self.of(self.train & np.isin(self.label, conditions))

    def distances(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        return {
            "e_distance": plain_energy(ours, theirs),
            "mmd": plain_mmd(ours, theirs, self.kernel),
        }


@pytest.fixture(scope="module")
def plain(wide: Screen) -> Plain:
    return Plain(wide)


def up_to_sign(ours: np.ndarray, theirs: np.ndarray) -> None:
    sign = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, theirs * sign, atol=1e-6)


def test_the_components_are_those_of_training_cells(wide: Screen, plain: Plain) -> None:
    space = space_of(wide)
    everyone = space.of(np.arange(len(wide)))
    assert everyone.shape == (len(wide), 30)
    up_to_sign(everyone, plain.of(np.ones(len(wide), bool)))
    some = np.array([7, 3, 100])
    np.testing.assert_allclose(space.of(some), everyone[some], atol=1e-9)


def test_components_of_few_genes() -> None:
    screen = read(n_genes=6)
    everyone = space_of(screen).of(np.arange(len(screen)))
    assert everyone.shape == (len(screen), 5)
    up_to_sign(everyone, Plain(screen, 5).of(np.ones(len(screen), bool)))


def test_components_are_found_from_some_of_many_cells(
    wide: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clouds, "_FIT", 60)
    space = space_of(wide)
    rows = np.flatnonzero(np.asarray(wide.split) == "train")
    chosen = space.some(space.train, 60)
    assert len(chosen) == 60
    assert set(chosen) < set(rows)
    logs = dense_logs(wide.counts)
    np.testing.assert_allclose(space.components.mean_, logs[chosen].mean(0))


def test_the_kernel_is_as_wide_as_control_cells_are_apart(wide: Screen, plain: Plain) -> None:
    assert space_of(wide).kernel == pytest.approx(plain.kernel)
    few = space_of(wide, n_cells=10)
    cells = few.some((np.asarray(wide.split) == "train") & wide.is_control)
    assert len(cells) == 10
    assert few.kernel == pytest.approx(median_distance(few.of(cells)))


def test_some_of_the_cells(wide: Screen) -> None:
    space = space_of(wide, n_cells=15)
    which = np.random.default_rng(0).random(len(wide)) < 0.5
    chosen = space.some(which)
    assert len(set(chosen)) == len(chosen) == 15
    assert which[chosen].all()
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(space.some(which), chosen)
    assert set(space_of(wide, n_cells=15, seed=1).some(which)) != set(chosen)
    assert len(space.some(which, 20)) == 20
    for all_ in (space.some(which, 1000), space_of(wide).some(which)):
        np.testing.assert_array_equal(all_, np.flatnonzero(which))


def test_every_cell_may_be_chosen(wide: Screen) -> None:
    space = space_of(wide, n_cells=15)
    which = np.arange(len(wide)) < 30
    often = np.zeros(30)
    for seed in range(60):
        space.seed = seed
        often[space.some(which)] += 1
    allowed = errors(30) * np.sqrt(60 * 0.25)
    assert np.abs(often - 30).max() <= allowed
    assert often.max() < 60


# What predictors and cells show in it.


def rows_of(table: pd.DataFrame, predictor: str, metric: str) -> pd.DataFrame:
    rows = table[(table["predictor"] == predictor) & (table["metric"] == metric)]
    return rows.set_index("condition", verify_integrity=True)


@pytest.fixture(scope="module")
def table(wide: Screen) -> pd.DataFrame:
    return evaluate([kind(wide) for kind in BASELINES], wide, **QUICK)


@pytest.mark.parametrize("metric", ["e_distance", "mmd"])
@pytest.mark.parametrize("kind", [NoChange, PerturbationMean, ConditionMean])
def test_baselines_that_know_cells(
    kind: type[Baseline], metric: str, wide: Screen, plain: Plain, table: pd.DataFrame
) -> None:
    own = rows_of(table, kind.name, metric)["value"]
    each = []
    for name in SCORED:
        cells = {
            NoChange: ["control"],
            PerturbationMean: SCORED,
            ConditionMean: [name],
        }[kind]
        expected = plain.distances(plain.trained(*cells), plain.observed(name))[metric]
        assert own[name] == pytest.approx(expected, abs=1e-6)
        each.append(expected)
    assert own["(all)"] == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("kind", [Additive, MatchingMean, LinearPCA])
def test_baselines_that_know_means_alone(kind: type[Baseline], table: pd.DataFrame) -> None:
    for metric in ("e_distance", "mmd"):
        own = rows_of(table, kind.name, metric)
        assert own.index.tolist() == [*SCORED, "(all)"]
        assert own["value"].isna().all()
    assert rows_of(table, kind.name, "mae")["value"].notna().all()


def test_cells_that_a_model_simulates(wide: Screen) -> None:
    model = samsvae.SAMSVAE(wide, **SMALL).train(
        max_steps=20, batch_size=64, n_particles=2, progress=False
    )
    settings: dict[str, Any] = {"n_cells": 25, "seed": 3}
    rows = evaluate(
        model, wide, effect_particles=50, n_draws=10, n_particles=20, **QUICK | settings
    )
    space, plain = space_of(wide, **settings), Plain(wide)
    control = space.some(space.train & wide.is_control)
    plain.kernel = median_distance(plain.of(np.isin(np.arange(len(wide)), control)))
    for name in SCORED:
        drawn = dense_logs(model.simulate([name], n_cells=25, seed=3).X)
        ours = (drawn - plain.center) @ plain.axes
        assert ours.shape == (25, 30)
        np.testing.assert_allclose(*map(norms, (space.predicted(model, name), ours)))
        for metric, expected in plain.distances(ours, plain.observed(name)).items():
            own = rows_of(rows, "sams-vae", metric)["value"]
            assert own[name] == pytest.approx(expected, abs=1e-6)


def norms(cells: np.ndarray | None) -> np.ndarray:
    assert cells is not None
    lengths: np.ndarray = np.linalg.norm(cells, axis=1)
    return lengths


def test_clouds_are_of_few_cells(trained: Estimator) -> None:
    screen = read(n_genes=12)
    space = space_of(screen, n_cells=7)
    for predictor in (
        trained,
        NoChange(screen),
        PerturbationMean(screen),
        ConditionMean(screen),
    ):
        cells = space.predicted(predictor, "A+B")
        assert cells is not None
        assert cells.shape == (7, 11)
    for baseline in (Additive(screen), MatchingMean(screen), LinearPCA(screen)):
        assert space.predicted(baseline, "A+B") is None


def test_a_condition_that_no_training_cell_received() -> None:
    adata = make_adata(n_genes=12)
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "test"
    screen = Screen.from_anndata(adata, split_key="split")
    space = space_of(screen)
    settings: dict[str, Any] = {"max_steps": 5, "batch_size": 32, "progress": False}
    joint = samsvae.SVAEPlus(screen, n_latent=2, n_hidden=4).train(**settings)
    assert space.predicted(joint, "A+B") is None
    assert space.predicted(joint, "A") is not None
    cells = space.predicted(ConditionMean(screen), "A+B")
    assert cells is None or not len(cells)
    assert space.predicted(NoChange(screen), "A+B") is not None


def test_without_cells_there_are_no_clouds(wide: Screen, table: pd.DataFrame) -> None:
    rows = evaluate([NoChange(wide), Additive(wide)], wide, **QUICK | {"n_cells": 0})
    kept = table[table["predictor"].isin(["no-change", "additive"])]
    kept = kept[~kept["metric"].isin(["e_distance", "mmd"])]
    pd.testing.assert_frame_equal(rows, kept.reset_index(drop=True))


def test_clouds_on_another_scale(wide: Screen) -> None:
    rows = evaluate(NoChange(wide), wide, **QUICK | {"scale": "normalized"})
    values, train = 2 ** dense_logs(wide.counts) - 1, np.asarray(wide.split) == "train"
    center = values[train].mean(0)
    axes = np.linalg.svd(values[train] - center, full_matrices=False)[2][:30].T
    label = np.array(wide.condition_names)[wide.condition]
    ours = (values[train & (label == "control")] - center) @ axes
    theirs = (values[(np.asarray(wide.split) == "test") & (label == "B")] - center) @ axes
    own = rows_of(rows, "no-change", "e_distance")["value"]
    assert own["B"] == pytest.approx(plain_energy(ours, theirs), rel=1e-6)


def test_real_values_of_a_model() -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X)
    screen = Screen.from_anndata(adata, split_key="split", counts=False)
    model = samsvae.SAMSVAE(screen, **SMALL, likelihood="gaussian").train(
        max_steps=20, batch_size=64, progress=False
    )
    space = Space(screen, screen.counts.astype(float), scale="mean", n_cells=9, seed=0)
    drawn = sp.csr_matrix(model.simulate(["A"], n_cells=9, seed=0).X)
    expected = space.components.transform(drawn)
    np.testing.assert_allclose(space.predicted(model, "A"), expected, atol=1e-6)


# The technical duplicate.


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Return the halves that are dealt from now on."""
    dealt: list[tuple[np.ndarray, np.ndarray]] = []
    plainly = Subject.halves

    def kept(subject: Subject, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        dealt.append(plainly(subject, rng))
        return dealt[-1]

    monkeypatch.setattr(Subject, "halves", kept)
    yield dealt
    assert dealt


def test_one_half_of_the_cells_as_a_prediction_of_the_other(
    wide: Screen, plain: Plain, halves: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    rows = evaluate(NoChange(wide), wide, **QUICK | {"n_halvings": 1})
    ((first, second),) = halves
    test = np.asarray(wide.split) == "test"
    for name in SCORED:
        cells = test & (plain.label == name)
        expected = plain.distances(plain.of(cells & first), plain.of(cells & second))
        for metric, value in expected.items():
            own = rows_of(rows, "duplicate", metric)["value"]
            assert own[name] == pytest.approx(value, abs=1e-6)


def test_clouds_with_no_cells_in_a_half(wide: Screen) -> None:
    """Of one cell there is no second half: no distance, but no error either."""
    of_a = wide.condition == wide.condition_names.index("A")
    others = np.flatnonzero((np.asarray(wide.split) == "test") & of_a)[1:]
    screen = wide[~np.isin(np.arange(len(wide)), others)]
    rows = evaluate(NoChange(screen), screen, **QUICK | {"n_halvings": 2})
    own = rows_of(rows, "duplicate", "e_distance")["value"]
    assert np.isnan(own["A"])
    assert own[["B", "C", "A+B"]].notna().all()
    assert np.isnan(rows_of(rows, "no-change", "e_distance")["value"]["A"])


def test_control_cells_that_are_all_alike() -> None:
    adata = make_adata()
    adata.X[(adata.obs["perturbation"] == "control").to_numpy()] = 1
    screen = Screen.from_anndata(adata, split_key="split")
    rows = evaluate(NoChange(screen), screen, **QUICK)
    assert rows.loc[rows["metric"] == "e_distance", "value"].notna().all()
    assert rows.loc[rows["metric"] == "mmd", "value"].isna().all()  # the kernel has no scale
    assert np.isnan(mmd(points(4), points(5), 0.0))


def test_a_single_gene_can_be_scored() -> None:
    adata = make_adata(n_genes=3)[:, :1].copy()
    adata.X += 1
    screen = Screen.from_anndata(adata, split_key="split")
    rows = evaluate(NoChange(screen), screen, **QUICK | {"scale": "mean"})
    assert rows.loc[rows["metric"] == "mae", "value"].notna().all()


def test_a_cloud_of_one_cell_has_no_distance(wide: Screen) -> None:
    rows = evaluate([NoChange(wide), ConditionMean(wide)], wide, **QUICK | {"n_cells": 1})
    assert rows.loc[rows["metric"].isin(["e_distance", "mmd"]), "value"].isna().all()
    assert rows.loc[rows["metric"] == "mae", "value"].notna().all()
