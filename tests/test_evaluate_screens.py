"""What evaluate makes of splits, of what is missing, and of other screens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from conftest import SMALL, make_adata
from evaluate_data import (  # noqa: F401
    BARE,
    BY_HAND,
    CLOUDS,
    CORRELATIONS,
    COVERAGES,
    EFFECTS,
    INTERACTIONS,
    KEYS,
    NUMBERS,
    QUICK,
    SCORED,
    SINGLES,
    TINY,
    TRAINING,
    Cells,
    by_hand,
    clear,
    clear_adata,
    found,
    heldout,
    in_split,
    log_values,
    read,
    same,
    scored,
    subject_of,
    table,
    values,
    whole,
    without_posterior,
)
from samsvae import InputError, Screen
from samsvae.estimators.base import Estimator
from samsvae.evaluation.baselines import (
    BASELINES,
    Additive,
    ConditionMean,
    NoChange,
)
from samsvae.evaluation.prediction import answered

# Controls.


def test_controls_come_from_the_data_where_the_split_has_none(whole: Screen) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    test = in_split(screen, "test")
    assert not (test & screen.is_control).any()
    predictor = Additive(screen)
    rows = scored(predictor, screen)
    assert set(rows["split"]) == {"unseen"}
    cells = Cells(screen, test | screen.is_control)
    expected = by_hand("mae", {"A+B": predictor.effects("A+B").X[0]}, {"A+B": cells.effect("A+B")})
    assert values(rows, "additive", "mae", "unseen") == pytest.approx(expected)


def test_a_model_is_scored_on_held_out_combinations(whole: Screen) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored(model, screen)
    own = found(rows, "sams-vae", "iwelbo", "unseen")
    cells = model.iwelbo(screen.test, n_particles=20, progress=False)["iwelbo"]
    assert own["value"].tolist() == pytest.approx([cells.mean()] * 2)
    assert own["n_cells"].tolist() == [48, 48]
    assert found(rows, "sams-vae", "coverage_90", "unseen")["value"].notna().all()
    assert found(rows, "sams-vae", "e_distance", "unseen")["value"].notna().all()


# Splits.


def test_unseen_conditions_stand_apart() -> None:
    screen = heldout("B+A")
    rows = scored(Additive(screen), screen)
    own = {
        split: set(some["condition"]) - {"(all)"}
        for split, some in rows[rows["metric"] == "mae"].groupby("split")
    }
    assert own == {"test": set(SINGLES), "unseen": {"A+B"}}
    cells = Cells(screen, in_split(screen, "test"))
    for split, names in own.items():
        effects = Additive(screen).effects(sorted(names)).to_df()
        expected = by_hand(
            "rmse",
            {name: effects.loc[name].to_numpy() for name in names},
            {name: cells.effect(name) for name in names},
        )
        assert values(rows, "additive", "rmse", split) == pytest.approx(expected)


def test_control_has_an_iwelbo_only_beside_seen_conditions() -> None:
    screen = heldout("B+A")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored(model, screen, **BARE)
    assert set(found(rows, "sams-vae", "iwelbo")["n_cells"].index) == {*SINGLES, "control", "(all)"}
    unseen = found(rows, "sams-vae", "iwelbo", "unseen")["n_cells"]
    assert dict(unseen) == {"A+B": 48, "(all)": 48}


def test_unseen_alone_is_what_test_gives_where_all_are_unseen() -> None:
    adata = make_adata()
    control = adata.obs["perturbation"] == "control"
    adata.obs["split"] = np.where(adata.obs["perturbation"] == "B+A", "test", "train")
    adata.obs.loc[control, "split"] = make_adata().obs["split"][control]
    screen = read(adata)
    unseen = scored(Additive(screen), screen, splits=["unseen"])
    assert set(unseen["split"]) == {"unseen"}
    same(unseen, scored(Additive(screen), screen, splits=["test"]))


def test_unseen_names_what_was_seen() -> None:
    screen = heldout("B+A")
    with pytest.raises(
        InputError, match=r"3 of its conditions are in training, too: 'A', 'B', 'C'"
    ):
        scored(Additive(screen), screen, splits=["unseen"])


def test_train_and_valid(whole: Screen) -> None:
    rows = scored(ConditionMean(whole), whole, splits=("valid", "train"))
    assert rows["split"].unique().tolist() == ["valid", "train"]
    effects = ConditionMean(whole).effects(SCORED).to_df()
    predicted = {name: effects.loc[name].to_numpy() for name in SCORED}
    for split in ("valid", "train"):
        cells = Cells(whole, in_split(whole, split))
        expected = by_hand("rmse", predicted, {name: cells.effect(name) for name in SCORED})
        assert values(rows, "condition-mean", "rmse", split) == pytest.approx(expected)


def test_validation_conditions_that_are_not_in_training_stand_apart() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "C", "split"] = "valid"
    screen = read(adata)
    rows = scored(NoChange(screen), screen, splits=["valid"], **BARE)
    own = rows[rows["metric"] == "mae"].groupby("split")["condition"].agg(set).to_dict()
    assert own == {"valid": {"A", "A+B", "B", "(all)"}, "valid unseen": {"C", "(all)"}}


def test_splits_that_cannot_be_scored(whole: Screen) -> None:
    predictor = NoChange(whole)
    with pytest.raises(InputError, match="no split 'tset': the nearest is 'test'"):
        scored(predictor, whole, splits=["tset"])
    with pytest.raises(InputError, match="the split leaves no test cells"):
        scored(predictor, whole[~in_split(whole, "test")])
    lone = whole[~in_split(whole, "valid") | whole.is_control]
    with pytest.raises(InputError, match="the split leaves no valid cells"):
        scored(predictor, lone, splits=["valid"])
    with pytest.raises(InputError, match="the screen has no split"):
        scored(predictor, Screen.from_anndata(make_adata()))


def test_no_split_is_an_error(whole: Screen) -> None:
    with pytest.raises(InputError, match="split"):
        scored(NoChange(whole), whole, splits=[])


@pytest.mark.parametrize("splits", [("test", "test"), ("test", "unseen")])
def test_what_is_asked_for_twice_is_answered_once(whole: Screen, splits: tuple[str, ...]) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    rows = scored(Additive(screen), screen, splits=splits, **BARE)
    assert not rows.duplicated(KEYS).any()


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
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    own = values(scored(model, screen, **BARE), "sams-vae", "iwelbo", "unseen")
    assert np.isnan(own["C"])
    expected = model.iwelbo(screen.test.of("A+B"), n_particles=20, progress=False)["iwelbo"]
    assert own["A+B"] == pytest.approx(expected.mean(), abs=2)


def test_answers_condition_by_condition(whole: Screen) -> None:
    predictor = ConditionMean(whole)
    answers = answered(predictor, ["A+C", "B", "B+C", "A"], scale="log")
    known = predictor.effects(["B", "A"])
    assert np.isnan(answers.layers["ate"][[0, 2]]).all()
    np.testing.assert_array_equal(answers.layers["ate"][[1, 3]], known.X)
    assert set(answers.layers) == {"ate", *known.layers}
    assert not answers.depends_on_library_size
    with pytest.raises(InputError, match="no scale 'lgo'"):
        answered(predictor, ["A"], scale="lgo")


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
        with pytest.raises(InputError, match="expected a model or baseline"):
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
    own = {"effect_particles": "n_particles"}.get(name, name)
    with pytest.raises(InputError, match=own):
        scored(trained, whole, **{name: value})


@pytest.mark.parametrize("n_cells", [0, 20])
def test_screens_without_what_is_compared_with(
    n_cells: int, trained: Estimator, whole: Screen
) -> None:
    untrained = whole.with_split(["test"] * len(whole))
    with pytest.raises(InputError, match="no training cells"):
        scored(trained, untrained, n_cells=n_cells)
    with pytest.raises(InputError, match="no control cells"):
        scored(trained, whole[~whole.is_control], n_cells=n_cells)
    lone = whole[~(whole.is_control & in_split(whole, "train"))]
    with pytest.raises(InputError, match="no control cells in training"):
        scored(trained, lone, n_cells=n_cells)


# Memory.


@pytest.fixture
def sparse_only(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Refuse to make a sparse matrix of more than a few rows dense; return rows of those made."""
    made: list[int] = []

    def guarded(plain: Any) -> Any:
        def dense(matrix: Any, *args: Any, **settings: Any) -> Any:
            assert matrix.shape[0] < 20, f"{matrix.shape} made dense"
            made.append(matrix.shape[0])
            return plain(matrix, *args, **settings)

        return dense

    for kind in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))
    return made


def test_the_matrix_stays_sparse(sparse_only: list[int], whole: Screen) -> None:
    with pytest.raises(AssertionError, match="made dense"):
        whole.counts.toarray()
    rows = scored([kind(whole) for kind in BASELINES], whole, splits=["test", "train"])
    assert rows["value"].notna().any()
    assert sparse_only


# Other screens.


def test_a_screen_with_batches() -> None:
    screen = read(make_adata(), batch_key="batch")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored([model, ConditionMean(screen)], screen, basal="control")
    cells = Cells(screen, in_split(screen, "test"))
    effects = ConditionMean(screen).effects(SCORED).to_df()
    expected = by_hand(
        "mae",
        {name: effects.loc[name].to_numpy() for name in SCORED},
        {name: cells.effect(name) for name in SCORED},
    )
    assert values(rows, "condition-mean", "mae") == pytest.approx(expected)
    own = model.iwelbo(screen.test, n_particles=20, progress=False)["iwelbo"]
    assert values(rows, "sams-vae", "iwelbo")["(all)"] == pytest.approx(own.mean())


def dosed(labels: tuple[str, ...], *doses: str) -> Screen:
    """Return cells that received each of some doses beside control."""
    adata = make_adata(labels=("control", *labels))
    adata.obs["dose"] = np.array(["1", *doses])[np.arange(adata.n_obs) % (len(doses) + 1)]
    return read(adata, dosage_key="dose")


def test_a_screen_with_doses() -> None:
    screen = dosed(("drug", "A", "drug", "B", "B+A"), "0.5", "1", "2", "1", "3+0.5")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored([model, ConditionMean(screen)], screen)
    conditions = {"A", "A@0.5+B@3", "B", "drug@0.5", "drug@2"}
    assert set(rows["condition"]) == {*conditions, "control", "(all)"}
    assert not set(rows["metric"]) & set(INTERACTIONS)  # parts at other doses
    assert rows.loc[rows["metric"] == "mae", "value"].notna().all()
    cells, effects = Cells(screen, in_split(screen, "test")), ConditionMean(screen).effects()
    expected = np.abs(effects.to_df().loc["drug@0.5"] - cells.effect("drug@0.5")).mean()
    assert values(rows, "condition-mean", "mae")["drug@0.5"] == pytest.approx(expected)


def test_parts_are_at_the_doses_of_their_combination() -> None:
    screen = dosed(("A", "A", "B", "B+A"), "1", "0.5", "3", "3+0.5")
    subject = subject_of(screen)
    assert subject.combinations == {"A@0.5+B@3": ["A@0.5", "B@3"]}
    rows = scored(Additive(screen), screen, **BARE)
    assert values(rows, "additive", "interaction_pearson")["(all)"] == 0


def test_a_screen_of_real_values() -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X) - 1
    screen = read(adata, counts=False)
    model = samsvae.SAMSVAE(screen, **SMALL, likelihood="gaussian").train(**TRAINING)
    rows = scored([model, Additive(screen)], screen, scale="mean")
    assert {*EFFECTS, *INTERACTIONS, *CLOUDS, *COVERAGES, "iwelbo"} == set(rows["metric"])
    dense, test = np.asarray(adata.X, float), in_split(screen, "test")
    cells = Cells(screen, test, dense)
    effects = Additive(screen).effects(SCORED, scale="mean").to_df()
    expected = by_hand(
        "mae",
        {name: effects.loc[name].to_numpy() for name in SCORED},
        {name: cells.effect(name) for name in SCORED},
    )
    assert values(rows, "additive", "mae") == pytest.approx(expected, rel=1e-5)
    fixed, observed = (values(rows, "sams-vae", f"ate_pearson{x}") for x in ("", "_observed_size"))
    assert fixed == pytest.approx(observed)


@pytest.mark.parametrize("n_cells", [0, 20])
@pytest.mark.parametrize("scale", ["log", "normalized"])
def test_real_values_have_one_scale(n_cells: int, scale: str) -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X) - 1
    screen = read(adata, counts=False)
    with pytest.raises(InputError, match=f"no scale '{scale}': there are 'mean'"):
        scored(Additive(screen), screen, scale=scale, n_cells=n_cells)


def test_a_likelihood_without_a_library_size(whole: Screen) -> None:
    model = samsvae.SAMSVAE(whole, **SMALL, likelihood="poisson").train(**TRAINING)
    rows = scored([model, Additive(whole)], whole, scale="mean")
    assert rows.loc[rows["metric"].isin(["mae", *CLOUDS[:1]]), "value"].notna().sum() > 10
    with pytest.raises(InputError, match="no scale for a poisson likelihood"):
        scored(model, whole)


def test_a_loaded_model_scores_alike(
    trained: Estimator, whole: Screen, table: pd.DataFrame, tmp_path: Any
) -> None:
    trained.save(tmp_path)
    rows = scored(samsvae.load(tmp_path), whole)
    own = table[table["predictor"].isin(["sams-vae", "duplicate"])]
    same(rows, own)


def test_the_screen_is_left_as_it_was(trained: Estimator) -> None:
    screen = read(make_adata())
    scored([trained, Additive(screen)], screen)
    fresh = read(make_adata())
    for ours, theirs in ((screen.counts, fresh.counts), (screen.dosage, fresh.dosage)):
        assert (ours != theirs).nnz == 0
    np.testing.assert_array_equal(screen.split, fresh.split)


def test_a_baseline_made_from_other_training_cells_is_refused(screen: samsvae.Screen) -> None:
    other = screen.with_split(samsvae.splits.random(screen, seed=3))
    with pytest.raises(samsvae.InputError, match="'additive' was made from a screen with another"):
        samsvae.evaluate(samsvae.baselines.Additive(other), screen, scale="log", progress=False)


def test_one_split_may_be_named_by_itself(screen: samsvae.Screen) -> None:
    quick: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 0, "progress": False}
    simple = samsvae.baselines.NoChange(screen)
    ours, theirs = (samsvae.evaluate(simple, screen, splits=s, **quick) for s in ("test", ["test"]))
    pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(samsvae.InputError, match="basal 'controls'"):
        samsvae.evaluate(simple, screen, basal="controls", **quick)  # type: ignore[arg-type]
