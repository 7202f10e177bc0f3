"""The table that evaluate returns: its rows, its intervals, and the names in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.scores import (
    BARE,
    EFFECTS,
    INTERACTIONS,
    INTERVALS,
    KEYS,
    NUMBERS,
    POPULATIONS,
    SCORED,
    found,
    same,
    scored,
)
from helpers.screens import make_adata, read
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import (
    BASELINES,
    Additive,
    ConditionMean,
    NoChange,
    PerturbationMean,
)
from samsvae.benchmark.evaluate import DIFFERENCES
from samsvae.estimators.base import Estimator

# The table.


def test_columns_and_types(table: pd.DataFrame) -> None:
    assert table.columns.tolist() == [*KEYS, *NUMBERS, "scale"]
    for name in KEYS:
        assert all(isinstance(entry, str) for entry in table[name])
    assert [table[name].dtype.kind for name in NUMBERS] == [*"fffffifff"]
    attrs = dict(table.attrs)
    assert set(attrs.pop("n_left_out").values()) == {0}
    assert attrs.pop("uninformative_coverage") == []
    assert attrs == {"scale": "log", "basal": "prior", "n_particles": 20, "n_not_estimable": 0}
    assert table.index.equals(pd.RangeIndex(len(table)))


def test_one_row_per_predictor_split_condition_and_metric(table: pd.DataFrame) -> None:
    asked = ["sams-vae", *(kind.name for kind in BASELINES), "technical replicate"]
    assert table["predictor"].unique().tolist() == asked
    assert set(table["split"]) == {"test"}
    expected = set()
    for predictor in asked:
        own = [*INTERVALS, "iwelbo"] if predictor == "sams-vae" else []
        for metric in [*EFFECTS, *INTERACTIONS, *POPULATIONS, *own]:
            control = ["control"] if metric == "iwelbo" else []
            for condition in [*SCORED, *control, "(all)"]:
                expected.add((predictor, "test", condition, metric))
    keys = list(table[KEYS].itertuples(index=False, name=None))
    assert len(set(keys)) == len(keys)
    assert set(keys) == expected


def test_intervals_stand_beside_all_conditions_together(table: pd.DataFrame) -> None:
    together = table["condition"] == "(all)"
    assert table.loc[~together, ["lower", "upper"]].isna().all(axis=None)
    ends = table[together & ~table["metric"].isin([*INTERACTIONS])].dropna(subset="value")
    assert len(ends) > 100
    assert (ends["lower"] <= ends["upper"]).all()
    # One combination cannot be drawn anew.
    one = table[together & table["metric"].isin(INTERACTIONS)]
    assert one[["lower", "upper"]].isna().all(axis=None)


def test_intervals_are_of_conditions_drawn_anew(table: pd.DataFrame, whole: Screen) -> None:
    rows = found(table, "condition-mean", "mae")
    drawn = np.random.default_rng(0).multinomial(4, [0.25] * 4, 1000)
    low, high = np.quantile(drawn @ rows["value"].loc[SCORED].to_numpy() / 4, [0.025, 0.975])
    assert rows.loc["(all)", ["lower", "upper"]].tolist() == pytest.approx([low, high])


def test_numbers_of_cells(table: pd.DataFrame, whole: Screen) -> None:
    test = whole.test
    for metric in ("mae", "interaction_rmse", "e_distance"):
        rows = found(table, "additive", metric)["n_cells"]
        for name in SCORED:
            assert rows[name] == len(test.of(name))
        assert rows["(all)"] == len(test) - len(test.control)
    rows = found(table, "sams-vae", "iwelbo")["n_cells"]
    assert rows["control"] == len(test.control)
    assert rows["(all)"] == len(test)


def test_a_seed_gives_the_same_numbers(trained: Estimator, whole: Screen) -> None:
    predictors = {"model": trained, "mean": ConditionMean(whole)}
    first, again, other = (scored(predictors, whole, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    for predictor, metric in [
        ("model", "rmse"),
        ("model", "iwelbo"),
        ("model", "e_distance"),
        ("technical replicate", "mae"),
    ]:
        ours, theirs = (found(one, predictor, metric)["value"] for one in (first, other))
        assert (ours.drop("(all)") != theirs.drop("(all)")).any()


def test_predictors_do_not_depend_on_each_other(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    others = [kind(whole) for kind in reversed(BASELINES)]
    same(scored([*others, trained], whole), table)
    for one in (trained, Additive(whole)):
        own = table[table["predictor"].isin([one.name, "technical replicate"])]
        alone, without = scored(one, whole), dict.fromkeys(DIFFERENCES, 0.0)
        assert alone[DIFFERENCES[0]].isna().all()  # there is nothing to compare with
        same(alone.assign(**without), own.assign(**without))


@pytest.mark.parametrize("n_cells", [0, 1000])
def test_the_order_of_cells_and_genes_does_not_matter(n_cells: int) -> None:
    adata = make_adata(n_genes=20)
    adata.var_names = ["A", "B", *adata.var_names[2:]]  # two targets are genes
    rng = np.random.default_rng(0)
    mixed = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    ours, theirs = (
        scored([kind(screen) for kind in BASELINES], screen, n_halvings=0, n_cells=n_cells)
        for screen in (read(adata), read(mixed))
    )
    same(ours, theirs, rtol=1e-7, atol=1e-9)


def test_progress_is_shown_if_asked_for(
    whole: Screen, trained: Estimator, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(trained, whole)
    assert capsys.readouterr() == ("", "")
    scored(trained, whole, progress=True)
    assert "test: " in "".join(capsys.readouterr())


# Names.


def test_several_of_one_kind_are_numbered(whole: Screen) -> None:
    names = scored(
        [NoChange(whole), Additive(whole), NoChange(whole), NoChange(whole)], whole, **BARE
    )["predictor"].unique()
    assert names.tolist() == ["no-change 1", "additive", "no-change 2", "no-change 3"]


def test_names_that_are_given_are_kept(whole: Screen) -> None:
    given = {"second": NoChange(whole), "a mean": PerturbationMean(whole), "x": NoChange(whole)}
    names = scored(given, whole, **BARE)["predictor"].unique()
    assert names.tolist() == ["second", "a mean", "x"]
    alone = scored(NoChange(whole), whole, **BARE)
    assert set(alone["predictor"]) == {"no-change"}


def test_a_tuple_of_predictors_is_a_list(whole: Screen) -> None:
    some = tuple(kind(whole) for kind in BASELINES[:2])
    names = scored(some, whole, **BARE)["predictor"].unique()
    assert names.tolist() == ["no-change", "perturbation-mean"]


@pytest.mark.parametrize("name", ["technical replicate", "(perturbation mean)"])
def test_reserved_names_are_refused(whole: Screen, name: str) -> None:
    with pytest.raises(InputError, match="a predictor cannot be called"):
        scored({name: NoChange(whole)}, whole)


@pytest.mark.parametrize("nothing", [[], {}])
def test_without_predictors_there_is_nothing_to_do(whole: Screen, nothing: Any) -> None:
    with pytest.raises(InputError, match="no predictors"):
        scored(nothing, whole)


def test_differences_are_from_the_model(table: pd.DataFrame) -> None:
    of_all = table[table["condition"] == "(all)"].set_index(["predictor", "metric"])
    assert of_all.loc["sams-vae", "difference"].isna().all()
    own = of_all.loc[("sams-vae", "rmse"), "value"]
    row = of_all.loc[("no-change", "rmse")]
    assert row["difference"] == pytest.approx(row["value"] - own)
    assert row["difference_lower"] <= row["difference"] <= row["difference_upper"]
    assert table.loc[table["condition"] != "(all)", "difference"].isna().all()
