"""Baselines against their formulas, written out by hand on dense arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from helpers.scores import clear_adata, dense_logs
from helpers.screens import make_adata
from samsvae import InputError, Screen, differential_expression
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

CONDITIONS = ["A", "A+B", "B", "C"]


def named_genes(adata: AnnData) -> AnnData:
    """Return the data with the genes A and B among the genes, but not C."""
    adata.var_names = ["A", "B", *adata.var_names[2:]]
    return adata


@pytest.fixture
def screen() -> Screen:
    return Screen.from_anndata(named_genes(make_adata()), split_key="split", batch_key="batch")


def deltas(screen: Screen) -> dict[str, np.ndarray]:
    """Return each condition's mean difference from the control mean of each cell's own batch."""
    train = screen.train
    values, is_control = dense_logs(train.counts), train.is_control
    control = np.array([values[is_control & (train.batch == batch)].mean(0) for batch in range(2)])
    difference = values - control[train.batch]
    labels = np.array(train.condition_names)[train.condition]
    return {name: difference[labels == name].mean(0) for name in CONDITIONS}


def predicted(kind: type[Baseline], screen: Screen, *asked: str) -> np.ndarray:
    values: np.ndarray = kind(screen).train().effects(list(asked), scale="log").X
    return values


def test_the_baselines_that_are_formulas(screen: Screen) -> None:
    delta = deltas(screen)
    mean = np.mean(list(delta.values()), axis=0)
    asked = ["A", "B+A", "C+A"]
    expected: list[tuple[type[Baseline], list[np.ndarray]]] = [
        (NoChange, [0 * mean] * 3),
        (PerturbationMean, [mean] * 3),
        (Additive, [delta["A"], delta["A"] + delta["B"], delta["A"] + delta["C"]]),
        (MatchingMean, [delta["A"], (delta["A"] + delta["B"]) / 2, (delta["A"] + delta["C"]) / 2]),
    ]
    for kind, values in expected:
        np.testing.assert_allclose(predicted(kind, screen, *asked), values, atol=1e-9)
    n = len(screen.train.of("A+B"))
    shrunk = predicted(ConditionMean, screen, "A", "B+A")
    np.testing.assert_allclose(shrunk[1], delta["A+B"] * n / (n + 50), atol=1e-9)


def test_the_linear_baseline_is_the_ridge_solution_written_out(screen: Screen) -> None:
    delta = deltas(screen)
    y = np.array([delta["A"], delta["B"], delta["C"]]).T
    b = y.mean(1, keepdims=True)
    left, size, _ = np.linalg.svd(y - b, full_matrices=False)
    g = left * size
    p = g[[0, 1]]  # the genes A and B; C is no gene
    ridge = 0.1 * np.eye(3)
    w = np.linalg.inv(g.T @ g + ridge) @ g.T @ (y - b)[:, :2] @ p @ np.linalg.inv(p.T @ p + ridge)
    expected = [g @ w @ g[0] + b[:, 0], g @ w @ (g[0] + g[1]) + b[:, 0]]
    np.testing.assert_allclose(predicted(LinearPCA, screen, "A", "A+B"), expected, atol=1e-9)


def test_a_target_that_is_no_gene_falls_back_and_is_counted(screen: Screen) -> None:
    effects = LinearPCA(screen).effects(["A", "C", "A+C"], scale="log")
    assert effects.obs["fell_back"].tolist() == [False, True, True]
    assert effects.uns["n_fell_back"] == 2
    np.testing.assert_array_equal(effects.X[1:], predicted(PerturbationMean, screen, "A", "B"))


def without_singles(*names: str) -> Screen:
    """Return a screen without training cells of some conditions."""
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"].isin(names), "split"] = "test"
    return Screen.from_anndata(adata, split_key="split")


def test_the_sum_takes_a_part_from_the_combinations_that_hold_it() -> None:
    screen = without_singles("B")
    a, both = differential_expression(screen.train, ["A", "B+A"], scale="log").to_numpy()
    found = Additive(screen).effects(["A", "B", "A+B"], scale="log")
    np.testing.assert_allclose(found.X, [a, both - a, both], atol=1e-6)
    assert not found.obs["fell_back"].any()
    mean = predicted(PerturbationMean, screen, "A")[0]
    np.testing.assert_allclose(predicted(MatchingMean, screen, "A+B", "B"), [a, mean])


def test_parts_that_only_their_sum_tells_apart_share_it() -> None:
    screen = without_singles("A", "B")
    a, b, both = predicted(Additive, screen, "A", "B", "A+B")
    np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(a + b, both)
    mean, c = predicted(PerturbationMean, screen, "A")[0], predicted(Additive, screen, "C")[0]
    np.testing.assert_allclose(mean, (both + c) / 2, atol=1e-5)


def test_a_part_that_no_training_condition_holds() -> None:
    screen = without_singles("B", "B+A")
    mean = predicted(PerturbationMean, screen, "A")[0]
    for kind in (Additive, RidgeRegression):
        found = kind(screen).effects(["A", "B", "A+B"], scale="log")
        a, b, both = found.X
        np.testing.assert_allclose(b, mean)
        np.testing.assert_allclose(both, a)
        assert found.obs["fell_back"].tolist() == [False, True, True]


def test_ridge_regression_without_validation_cells_is_the_solution_written_out() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["split"] == "valid", "split"] = "test"
    screen = Screen.from_anndata(adata, split_key="split")
    y = differential_expression(screen.train, CONDITIONS, scale="log").to_numpy()
    x = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    n = np.diag([len(screen.train.of(name)) for name in CONDITIONS])
    b = np.linalg.inv(x.T @ n @ x + 50 * np.eye(3)) @ x.T @ n @ y
    asked = ["A", "B+A", "B", "C", "C+A"]
    expected = [*(x @ b), b[2] + b[0]]
    np.testing.assert_allclose(predicted(RidgeRegression, screen, *asked), expected, atol=1e-9)


@pytest.mark.parametrize("scale", ["log", "lfc"])
def test_ridge_regression_takes_the_setting_that_suits_validation_cells(scale: Any) -> None:
    """The same effects there ask for a small penalty, none at all for a large one."""
    adata = clear_adata()
    strengths = []
    for is_same in (True, False):
        cells = adata.obs["split"] == "valid"
        if not is_same:
            control = adata[adata.obs["perturbation"] == "control"].X
            adata.X[cells] = control[np.arange(cells.sum()) % len(control)]
        baseline = RidgeRegression(Screen.from_anndata(adata, split_key="split"))
        size = np.abs(baseline.effects("A", scale=scale).X).mean()
        strengths.append(
            size / np.abs(Additive(baseline.screen).effects("A", scale=scale).X).mean()
        )
    assert strengths[0] > 0.8
    assert strengths[1] < 0.2


def test_doses_are_linear_in_ridge_regression() -> None:
    adata = make_adata()
    adata.obs["dose"] = adata.obs["perturbation"].map({"A": "0.5", "B+A": "1+1"}).fillna("1")
    screen = Screen.from_anndata(adata, split_key="split", dosage_key="dose")
    half, one, two = predicted(RidgeRegression, screen, "A@0.5", "A", "A@2")
    np.testing.assert_allclose(half * 2, one)
    np.testing.assert_allclose(one * 2, two)


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("scale", ["log", "normalized", "mean"])
def test_every_baseline_answers_as_the_models_do(
    kind: type[Baseline], scale: Any, screen: Screen
) -> None:
    baseline = kind(screen).train(max_steps=3)
    effects = baseline.effects(["B+A", "A", "control"], scale=scale)
    assert effects.obs_names.tolist() == ["B+A", "A", "control"]
    assert effects.obs["condition"].tolist() == ["A+B", "A", "control"]
    assert effects.obs["n_train_cells"].tolist() == [30, 30, 0]
    assert effects.var_names.tolist() == list(screen.genes)
    assert effects.uns["scale"] == scale
    assert not effects.X[2].any()
    assert np.isnan(effects.layers["lower"]).all()
    assert baseline.effects().obs_names.tolist() == CONDITIONS
    np.testing.assert_array_equal(baseline.effects("A", scale=scale).X[0], effects.X[1])


@pytest.mark.parametrize("kind", BASELINES)
def test_only_training_cells_are_learned_from(kind: type[Baseline]) -> None:
    adata = named_genes(make_adata())
    before = predicted(kind, Screen.from_anndata(adata, split_key="split"), "A", "A+B")
    adata.X[adata.obs["split"] != "train"] *= 7
    after = predicted(kind, Screen.from_anndata(adata, split_key="split"), "A", "A+B")
    np.testing.assert_array_equal(before, after)


def test_real_values_have_one_scale() -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X)
    screen = Screen.from_anndata(adata, split_key="split", counts=False)
    effects = PerturbationMean(screen).effects("A")
    assert effects.uns["scale"] == "mean"
    with pytest.raises(InputError, match="no scale 'log': there are 'mean'"):
        PerturbationMean(screen).effects("A", scale="log")


def test_what_cannot_be_answered_is_an_error(screen: Screen) -> None:
    with pytest.raises(InputError, match=r"'A\+C' has no training cells: ConditionMean predicts"):
        ConditionMean(screen).effects(["A+C"])
    with pytest.raises(InputError, match="no perturbation 'Z'"):
        NoChange(screen).effects("Z")
    with pytest.raises(InputError, match="no conditions are given"):
        NoChange(screen).effects([])
    with pytest.raises(InputError, match="no scale 'lgo': the nearest is 'log'"):
        NoChange(screen).effects("A", scale="lgo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the screen has no split"):
        NoChange(Screen.from_anndata(make_adata()))


def test_cells_of_batches_without_controls_are_left_out() -> None:
    adata = make_adata()
    lone = (adata.obs["perturbation"] == "control") & (adata.obs["batch"] == "two")
    adata.obs.loc[lone, "split"] = "test"
    found = Additive(Screen.from_anndata(adata, split_key="split", batch_key="batch"))
    adata.obs.loc[adata.obs["batch"] == "two", "split"] = "test"
    without = Additive(Screen.from_anndata(adata, split_key="split", batch_key="batch"))
    np.testing.assert_allclose(found.effects(["A", "C"]).X, without.effects(["A", "C"]).X)


def test_controls_in_batches_of_their_own_are_an_error() -> None:
    adata = make_adata()
    adata.obs["batch"] = np.where(adata.obs["perturbation"] == "control", "one", "two")
    with pytest.raises(InputError, match="no batch has both control cells and perturbed ones"):
        Additive(Screen.from_anndata(adata, split_key="split", batch_key="batch"))
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "control", "split"] = "test"
    with pytest.raises(InputError, match="no control cells in training"):
        Additive(Screen.from_anndata(adata, split_key="split"))
