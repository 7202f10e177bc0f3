"""Baselines against their formulas, written out by hand on dense arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from helpers.scores import dense_logs
from helpers.screens import make_adata
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    LinearPCA,
    MatchingMean,
    NoChange,
    PerturbationMean,
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


def test_an_unseen_part_counts_as_the_perturbation_mean() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "B", "split"] = "test"
    screen = Screen.from_anndata(adata, split_key="split")
    mean, a = predicted(PerturbationMean, screen, "A")[0], predicted(Additive, screen, "A")[0]
    np.testing.assert_allclose(predicted(Additive, screen, "A+B")[0], a + mean)
    np.testing.assert_allclose(predicted(MatchingMean, screen, "A+B", "B"), [a, mean])


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
