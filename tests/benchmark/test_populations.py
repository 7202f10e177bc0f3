"""Clouds of cells in the space of principal components, and their distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from helpers.clouds import plain_energy, plain_mmd, points
from helpers.scores import dense_logs
from helpers.screens import SMALL, make_adata, read
from helpers.statistics import errors
from samsvae import Screen, evaluate
from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    NoChange,
    PerturbationMean,
    RidgeRegression,
)
from samsvae.benchmark.metrics.populations import PrincipalComponents, median_distance, mmd
from samsvae.benchmark.predictions import Predictor, predicted_populations
from samsvae.data.expression import expression
from samsvae.estimators.base import Estimator

SCORED = ["A", "A+B", "B", "C"]
QUICK: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 1000, "progress": False}
"""Clouds of all cells there are."""


# The space.


def screen_of(n_genes: int = 40) -> Screen:
    return read(make_adata(n_genes=n_genes))


@pytest.fixture(scope="module")
def wide() -> Screen:
    """Return a screen with more genes than there are components."""
    return screen_of()


def space_of(screen: Screen, *, n_cells: int = 1000, seed: int = 0) -> PrincipalComponents:
    return PrincipalComponents(screen, expression(screen), scale="log", n_cells=n_cells, seed=seed)


class Plain:
    """Principal components of the training cells, from a dense matrix."""

    def __init__(self, screen: Screen, n_components: int = 30) -> None:
        self.screen, self.logs = screen, dense_logs(screen.counts)
        self.label = np.array(screen.condition_names)[screen.condition]
        self.train = np.asarray(screen.split) == "train"
        self.center = self.logs[self.train].mean(0)
        rows = self.logs[self.train] - self.center
        self.axes = np.linalg.svd(rows, full_matrices=False)[2][:n_components].T
        self.bandwidth = median_distance(self.of(self.train & (self.label == "control")))

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
            "mmd": plain_mmd(ours, theirs, self.bandwidth),
        }


@pytest.fixture(scope="module")
def plain(wide: Screen) -> Plain:
    return Plain(wide)


def up_to_sign(ours: np.ndarray, theirs: np.ndarray) -> None:
    sign = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, theirs * sign, atol=1e-6)


def test_the_components_are_those_of_training_cells(wide: Screen, plain: Plain) -> None:
    space = space_of(wide)
    everyone = space.points(np.ones(len(wide), bool))
    assert everyone.shape == (len(wide), 30)
    up_to_sign(everyone, plain.of(np.ones(len(wide), bool)))
    some = np.array([7, 3, 100])
    np.testing.assert_allclose(
        space.points(np.isin(np.arange(len(wide)), some))[some], everyone[some], atol=1e-9
    )


def test_components_of_few_genes() -> None:
    screen = screen_of(n_genes=6)
    everyone = space_of(screen).points(np.ones(len(screen), bool))
    assert everyone.shape == (len(screen), 5)
    up_to_sign(everyone, Plain(screen, 5).of(np.ones(len(screen), bool)))


def test_components_are_found_from_some_of_many_training_cells() -> None:
    adata = make_adata(n_cells=20_000, n_genes=5)
    adata.X[(adata.obs["split"] != "train").to_numpy(), 0] += 50  # would be seen in the mean
    screen = read(adata)
    first, again = space_of(screen), space_of(screen)
    n_found_from = first.components.n_samples_
    assert n_found_from < screen.is_control[np.asarray(screen.split) == "train"].size / 2
    assert space_of(screen[::2]).components.n_samples_ == n_found_from  # however many there are
    logs = dense_logs(screen.train.counts)
    error = errors(5) * logs.std(0) / n_found_from**0.5
    assert (np.abs(first.components.mean_ - logs.mean(0)) < error).all()
    np.testing.assert_array_equal(first.components.components_, again.components.components_)


def test_the_kernel_is_as_wide_as_control_cells_are_apart(wide: Screen, plain: Plain) -> None:
    assert space_of(wide).bandwidth == pytest.approx(plain.bandwidth)
    few = space_of(wide, n_cells=10)
    cells = few.subsample(np.flatnonzero((np.asarray(wide.split) == "train") & wide.is_control))
    assert len(cells) == 10
    assert few.bandwidth == pytest.approx(
        median_distance(few.points(np.isin(np.arange(len(wide)), cells))[cells])
    )


def test_some_of_the_cells(wide: Screen) -> None:
    space = space_of(wide, n_cells=15)
    which = np.flatnonzero(np.random.default_rng(0).random(len(wide)) < 0.5)
    chosen = space.subsample(which)
    assert len(set(chosen)) == len(chosen) == 15
    assert set(which).issuperset(chosen)
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(space.subsample(which), chosen)
    assert set(space_of(wide, n_cells=15, seed=1).subsample(which)) != set(chosen)
    assert len(space.subsample(which, 20)) == 20
    for all_ in (space.subsample(which, 1000), space_of(wide).subsample(which)):
        np.testing.assert_array_equal(all_, which)


def test_every_cell_may_be_chosen(wide: Screen) -> None:
    space = space_of(wide, n_cells=15)
    which = np.arange(30)
    often = np.zeros(30)
    for seed in range(60):
        space.seed = seed
        often[space.subsample(which)] += 1
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


@pytest.mark.parametrize("kind", [NoChange, PerturbationMean, ConditionMean])
def test_baselines_that_know_cells(
    kind: type[Baseline], wide: Screen, plain: Plain, table: pd.DataFrame
) -> None:
    expected = {}
    for name in SCORED:
        cells = {
            NoChange: ["control"],
            PerturbationMean: SCORED,
            ConditionMean: [name],
        }[kind]
        expected[name] = plain.distances(plain.trained(*cells), plain.observed(name))
    for metric, by_hand in pd.DataFrame(expected).T.items():
        own = rows_of(table, kind.name, str(metric))["value"]
        np.testing.assert_allclose(own[SCORED], by_hand[SCORED], rtol=1e-6, atol=1e-6)
        assert own["(all)"] == pytest.approx(by_hand.mean(), abs=1e-6)


@pytest.mark.parametrize("kind", [RidgeRegression, Additive, MatchingMean, LinearPCA])
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
    control = space.subsample(np.flatnonzero((np.asarray(wide.split) == "train") & wide.is_control))
    plain.bandwidth = median_distance(plain.of(np.isin(np.arange(len(wide)), control)))
    for name in SCORED:
        drawn = dense_logs(model.simulate([name], n_cells=25, seed=3).X)
        ours = (drawn - plain.center) @ plain.axes
        assert ours.shape == (25, 30)
        np.testing.assert_allclose(*map(norms, (predicted(space, model, name), ours)))
        for metric, expected in plain.distances(ours, plain.observed(name)).items():
            own = rows_of(rows, "sams-vae", metric)["value"]
            assert own[name] == pytest.approx(expected, abs=1e-6)


def predicted(
    space: PrincipalComponents, predictor: Predictor, condition: str
) -> np.ndarray | None:
    return predicted_populations(space, predictor, [condition]).cells[0]


def norms(cells: np.ndarray | None) -> np.ndarray:
    assert cells is not None
    lengths: np.ndarray = np.linalg.norm(cells, axis=1)
    return lengths


def test_clouds_are_of_few_cells(trained: Estimator) -> None:
    screen = screen_of(n_genes=12)
    space = space_of(screen, n_cells=7)
    for predictor in (
        trained,
        NoChange(screen),
        PerturbationMean(screen),
        ConditionMean(screen),
    ):
        cells = predicted(space, predictor, "A+B")
        assert cells is not None
        assert cells.shape == (7, 11)
    for baseline in (Additive(screen), MatchingMean(screen), LinearPCA(screen)):
        assert predicted(space, baseline, "A+B") is None


def test_a_condition_that_no_training_cell_received() -> None:
    adata = make_adata(n_genes=12)
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "test"
    screen = Screen.from_anndata(adata, split_key="split")
    space = space_of(screen)
    settings: dict[str, Any] = {"max_steps": 5, "batch_size": 32, "progress": False}
    joint = samsvae.SVAEPlus(screen, n_latent=2, n_hidden=4).train(**settings)
    assert predicted(space, joint, "A+B") is None
    assert predicted(space, joint, "A") is not None
    cells = predicted(space, ConditionMean(screen), "A+B")
    assert cells is None or not len(cells)
    assert predicted(space, NoChange(screen), "A+B") is not None


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
    space = PrincipalComponents(screen, expression(screen, "mean"), scale="mean", n_cells=9, seed=0)
    drawn = sp.csr_matrix(model.simulate(["A"], n_cells=9, seed=0).X)
    expected = space.components.transform(drawn)
    np.testing.assert_allclose(predicted(space, model, "A"), expected, atol=1e-6)


# The technical replicate.


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
            own = rows_of(rows, "technical replicate", metric)["value"]
            assert own[name] == pytest.approx(value, abs=1e-6)


def test_clouds_with_no_cells_in_a_half(wide: Screen) -> None:
    """Of one cell there is no second half: no distance, but no error either."""
    of_a = wide.condition == wide.condition_names.index("A")
    others = np.flatnonzero((np.asarray(wide.split) == "test") & of_a)[1:]
    screen = wide[~np.isin(np.arange(len(wide)), others)]
    rows = evaluate(NoChange(screen), screen, **QUICK | {"n_halvings": 2})
    own = rows_of(rows, "technical replicate", "e_distance")["value"]
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
