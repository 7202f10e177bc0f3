"""Which cells of which split are scored, and what they are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.scores import (
    BARE,
    KEYS,
    SCORED,
    SINGLES,
    TRAINING,
    Cells,
    by_hand,
    found,
    heldout,
    in_split,
    same,
    scored,
    values,
)
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import Additive, ConditionMean, NoChange

# Controls.


def test_controls_come_from_the_data_where_the_split_has_none(whole: Screen) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    test = in_split(screen, "test")
    assert not (test & screen.is_control).any()
    predictor = Additive(screen)
    rows = scored(predictor, screen)
    assert set(rows["split"]) == {"unseen"}
    cells = Cells(screen, test | screen.is_control)
    expected = by_hand(
        "mae", {"A+B": predictor.effects("A+B", scale="log").X[0]}, {"A+B": cells.effect("A+B")}
    )
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
        effects = Additive(screen).effects(sorted(names), scale="log").to_df()
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
    effects = ConditionMean(whole).effects(SCORED, scale="log").to_df()
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


def test_one_split_may_be_named_by_itself(screen: samsvae.Screen) -> None:
    quick: dict[str, Any] = {"scale": "log", "n_halvings": 0, "n_cells": 0, "progress": False}
    simple = samsvae.baselines.NoChange(screen)
    ours, theirs = (samsvae.evaluate(simple, screen, splits=s, **quick) for s in ("test", ["test"]))
    pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(samsvae.InputError, match="basal 'controls'"):
        samsvae.evaluate(simple, screen, basal="controls", **quick)  # type: ignore[arg-type]
