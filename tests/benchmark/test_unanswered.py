"""What evaluate makes of conditions without an answer, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import samsvae
from helpers.scores import (
    BARE,
    INTERACTIONS,
    SCORED,
    TINY,
    TRAINING,
    heldout,
    in_split,
    same,
    scored,
    values,
)
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import Additive, ConditionMean, NoChange
from samsvae.benchmark.predictions import PredictedTables
from samsvae.estimators.base import Estimator

pytestmark = pytest.mark.filterwarnings("ignore:.* has no prediction for")

# Conditions without an answer.


@pytest.mark.parametrize("n_cells", [0, 20])
def test_a_condition_without_an_answer_is_nan(n_cells: int) -> None:
    screen = heldout("B+A")
    alone = scored(Additive(screen), screen, n_cells=n_cells)
    rows = scored([ConditionMean(screen), Additive(screen)], screen, n_cells=n_cells)
    own = rows[rows["predictor"] == "condition-mean"]
    assert own.loc[own["split"] == "unseen", ["value", "dynamic_range"]].isna().all(axis=None)
    assert own.loc[(own["split"] == "test") & (own["metric"] == "mae"), "value"].notna().all()
    assert set(own.loc[own["split"] == "unseen", "condition"]) == {"A+B", "(all)"}
    same(rows[rows["predictor"] != "condition-mean"], alone)


def test_a_model_without_an_answer_is_nan() -> None:
    screen = heldout("B+A")
    model = samsvae.SVAEPlus(screen, **TINY).train(**TRAINING)
    rows = scored([model, Additive(screen)], screen)
    own = rows[rows["predictor"] == "svae-plus"]
    unseen = own["split"] == "unseen"
    assert own.loc[unseen, "value"].isna().all()
    assert {"iwelbo", "mae", "e_distance", "interaction_rmse"} <= set(own.loc[unseen, "metric"])
    seen = own[~unseen & own["metric"].isin(["mae", "iwelbo", "e_distance", "coverage_90"])]
    assert seen["value"].notna().all()
    assert len(seen) == 4 * 4 + 1


def test_an_answer_for_some_conditions_is_kept() -> None:
    """A perturbation that was never seen: a model knows nothing of it, but combinations of others.

    Conditions without a prediction are left out before the others are ranked among each other.
    """
    screen = heldout("B+A", "C")
    with pytest.warns(match="^perturbations that only validation or test cells have: 'C'"):
        model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored([model, Additive(screen)], screen)
    for metric in ("mae", "ate_pearson", "coverage_90", "e_distance"):
        own = values(rows, "sams-vae", metric, "unseen")
        assert np.isnan(own["C"])
        assert own["A+B"] == own["(all)"]
        assert np.isfinite(own["A+B"])
    for metric in ("perturbench_rank", "centroid_accuracy", "perturbation_discrimination"):
        assert np.isnan(values(rows, "sams-vae", metric, "unseen")["A+B"])
        assert np.isfinite(values(rows, "additive", metric, "unseen")["A+B"])


def test_predictors_of_fewer_perturbations_come_in_any_order(whole: Screen) -> None:
    adata = make_adata()
    fewer = read(adata[adata.obs["perturbation"] != "C"].copy())
    predictors = {"all": NoChange(whole), "fewer": ConditionMean(fewer)}
    rows = scored(predictors, whole)
    own = values(rows, "fewer", "mae")
    assert [name for name in SCORED if np.isnan(own[name])] == ["C"]
    same(scored(dict(reversed(predictors.items())), whole), rows)


def test_the_iwelbo_of_conditions_that_a_model_knows_is_kept() -> None:
    screen = heldout("B+A", "C")
    with pytest.warns(match="^perturbations that only validation or test cells have: 'C'"):
        model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    own = values(scored(model, screen, **BARE), "sams-vae", "iwelbo", "unseen")
    assert np.isnan(own["C"])
    expected = model.iwelbo(screen.test.of("A+B"), n_particles=20, progress=False)["iwelbo"]
    assert own["A+B"] == pytest.approx(expected.mean(), abs=2)


def test_answers_are_of_the_conditions_that_a_predictor_knows(whole: Screen) -> None:
    predictor = ConditionMean(whole)
    answers = PredictedTables.of(predictor, ["A+C", "B", "B+C", "A"], scale="log", n_draws=0)
    known = predictor.effects(["B", "A"], scale="log")
    table = answers.table("fixed", None, ["A+C", "B", "B+C", "A"], 12).to_numpy()
    assert np.isnan(table[[0, 2]]).all()
    np.testing.assert_array_equal(table[[1, 3]], known.X)
    assert answers.effects["fixed"] is answers.effects["observed"]  # does not depend on the size
    assert not PredictedTables.of(predictor, ["A+C"], scale="log", n_draws=0).effects
    with pytest.raises(InputError, match="no scale 'lgo'"):
        PredictedTables.of(predictor, ["A"], scale="lgo", n_draws=0)


@pytest.mark.filterwarnings("default")
def test_what_has_no_answer_is_named_and_counted() -> None:
    screen = heldout("B+A", "C")
    with pytest.warns(match="perturbations that only validation or test cells have: 'C'"):
        model = samsvae.SVAEPlus(screen, **TINY).train(**TRAINING)
    with pytest.warns(UserWarning, match="svae-plus has no prediction for 2 conditions"):
        table = scored([model, ConditionMean(screen), Additive(screen)], screen, **BARE)
    counts = table.attrs["n_left_out"]
    assert counts["svae-plus", "unseen"] == counts["condition-mean", "unseen"] == 2
    assert counts["svae-plus", "test"] == counts["additive", "unseen"] == 0


# What is refused.


def test_a_scale_that_a_predictor_lacks(trained: Estimator, whole: Screen) -> None:
    for n_cells in (0, 20):
        with pytest.raises(InputError, match="no scale for a negative_binomial likelihood: 'mean'"):
            scored([NoChange(whole), trained], whole, scale="mean", n_cells=n_cells)
        with pytest.raises(InputError, match="no scale 'lgo': the nearest is 'log'"):
            scored(NoChange(whole), whole, scale="lgo", n_cells=n_cells)


def test_a_model_that_is_not_trained(whole: Screen) -> None:
    with pytest.raises(InputError, match="the model 'mine' is not trained: call train first"):
        scored({"mine": samsvae.SAMSVAE(whole, **SMALL)}, whole)


def test_predictors_of_other_genes(trained: Estimator, whole: Screen) -> None:
    fewer = NoChange(read(make_adata()[:, :10].copy()))
    with pytest.raises(InputError, match=r"'sams-vae' and 'no-change' differ in 2 genes \('g10'"):
        scored([trained, fewer], whole)
    mixed = NoChange(read(make_adata()[:, ::-1].copy()))
    with pytest.raises(InputError, match="differ in their order"):
        scored([trained, mixed], whole)
    with pytest.raises(InputError, match="lack 2 of the model's 12 genes: 'g10', 'g11'"):
        scored(trained, read(make_adata()[:, :10].copy()))


@pytest.mark.parametrize("thing", [3, "additive", None, NoChange])
def test_what_is_no_predictor(whole: Screen, thing: Any) -> None:
    for predictors in ({"x": thing}, [thing], [NoChange(whole), thing], thing):
        with pytest.raises(InputError, match="a model or baseline"):
            scored(predictors, whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_halvings", -1),
        ("n_halvings", 2.5),
        ("n_cells", -1),
        ("seed", -1),
        ("seed", True),
        ("n_particles", 0),
        ("effect_particles", 1),
        ("n_draws", -1),
        ("basal", "posterior"),
    ],
)
def test_arguments_out_of_range(name: str, value: Any, trained: Estimator, whole: Screen) -> None:
    with pytest.raises(InputError, match=name):
        scored(trained, whole, **{name: value})


@pytest.mark.parametrize("n_cells", [0, 20])
def test_screens_without_what_is_compared_with(
    n_cells: int, trained: Estimator, whole: Screen
) -> None:
    with pytest.raises(InputError, match="no control cells"):
        scored(trained, whole[~whole.is_control], n_cells=n_cells)
    lone = whole[~(whole.is_control & in_split(whole, "train"))]
    with pytest.raises(InputError, match="no control cells in training"):
        scored(trained, lone, n_cells=n_cells)


def test_a_screen_without_training_cells_is_scored_on_what_needs_none(
    trained: Estimator, whole: Screen
) -> None:
    """What was seen in training the model knows; what else is compared with is not there."""
    whole_table = scored(trained, whole)
    table = scored(trained, whole.test)
    assert set(table["split"]) == {"test"}
    keys = ["condition", "metric"]
    ours, theirs = (
        some[some["predictor"] == "sams-vae"].set_index(keys)["value"]
        for some in (table, whole_table)
    )
    # The parts of combinations are compared by all cells that a screen has of them.
    needing = {*INTERACTIONS, "pearson_from_perturbation_mean", "e_distance", "mmd"}
    for (condition, metric), value in theirs.items():
        if metric not in needing:
            assert ours[condition, metric] == pytest.approx(value, nan_ok=True), metric
    assert ours.loc[:, "pearson_from_perturbation_mean"].isna().all()
    assert "technical replicate" not in set(table["predictor"])
    with pytest.raises(InputError, match="no training cells"):
        ConditionMean(whole.test)


def test_a_baseline_made_from_other_training_cells_is_refused(screen: samsvae.Screen) -> None:
    other = screen.with_split(samsvae.splits.random(screen, seed=3))
    with pytest.raises(samsvae.InputError, match="'additive' was made from a screen with another"):
        samsvae.evaluate(samsvae.baselines.Additive(other), screen, scale="log", progress=False)
