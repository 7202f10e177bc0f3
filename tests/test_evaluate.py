"""The table that evaluate returns, and its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import norm, pearsonr

import samsvae
from conftest import make_adata
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
    Baseline,
    ConditionMean,
    NoChange,
    PerturbationMean,
)
from samsvae.evaluation.evaluate import beside_baselines
from samsvae.metrics.registry import of_part

# The table.


def test_columns_and_types(table: pd.DataFrame) -> None:
    assert table.columns.tolist() == [*KEYS, *NUMBERS]
    for name in KEYS:
        assert all(isinstance(entry, str) for entry in table[name])
    assert [table[name].dtype.kind for name in NUMBERS] == ["f", "f", "f", "f", "i"]
    assert table.attrs == {"scale": "log", "basal": "prior"}
    assert table.index.equals(pd.RangeIndex(len(table)))


def test_one_row_per_predictor_split_condition_and_metric(table: pd.DataFrame) -> None:
    asked = ["sams-vae", *(kind.name for kind in BASELINES), "duplicate"]
    assert table["predictor"].unique().tolist() == asked
    assert set(table["split"]) == {"test"}
    expected = set()
    for predictor in asked:
        own = [*COVERAGES, "iwelbo"] if predictor == "sams-vae" else []
        for metric in [*EFFECTS, *INTERACTIONS, *CLOUDS, *own]:
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
        ("duplicate", "mae"),
    ]:
        ours, theirs = (found(one, predictor, metric)["value"] for one in (first, other))
        assert (ours.drop("(all)") != theirs.drop("(all)")).any()


def test_predictors_do_not_depend_on_each_other(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    others = [kind(whole) for kind in reversed(BASELINES)]
    same(scored([*others, trained], whole), table)
    for one in (trained, Additive(whole)):
        own = table[table["predictor"].isin([one.name, "duplicate"])]
        same(scored(one, whole), own)


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


@pytest.mark.parametrize("name", ["duplicate", "(perturbation mean)"])
def test_reserved_names_are_refused(whole: Screen, name: str) -> None:
    with pytest.raises(InputError, match="a predictor cannot be called"):
        scored({name: NoChange(whole)}, whole)


@pytest.mark.parametrize("nothing", [[], {}])
def test_without_predictors_there_is_nothing_to_do(whole: Screen, nothing: Any) -> None:
    with pytest.raises(InputError, match="no predictors"):
        scored(nothing, whole)


# Values of baselines.


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("metric", BY_HAND)
def test_baselines_against_the_test_cells(
    kind: type[Baseline], metric: str, whole: Screen, table: pd.DataFrame
) -> None:
    cells, effects = Cells(whole, in_split(whole, "test")), kind(whole).effects(SCORED).to_df()
    expected = by_hand(
        metric,
        {name: effects.loc[name].to_numpy() for name in SCORED},
        {name: cells.effect(name) for name in SCORED},
    )
    assert values(table, kind.name, metric) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [ConditionMean, Additive])
def test_the_correlation_is_that_of_ate_pearson(
    kind: type[Baseline], whole: Screen, table: pd.DataFrame
) -> None:
    expected = samsvae.ate_pearson(kind(whole).effects().to_df(), whole.test, whole)
    own = values(table, kind.name, "ate_pearson")
    assert own.pop("(all)") == pytest.approx(expected.pooled)
    assert own == pytest.approx(dict(expected.per_condition))


@pytest.mark.parametrize("scale", ["log", "normalized", "mean"])
def test_what_repeats_the_training_cells_is_right_about_them(whole: Screen, scale: Any) -> None:
    rows = scored(Additive(whole), whole, scale=scale, splits=["train"], **BARE)
    assert rows.attrs["scale"] == scale
    for metric in of_part("effects"):
        if metric.name not in ("de_overlap", "de_auprc"):
            own = values(rows, "additive", metric.name, "train")
            right = np.array([own[name] for name in SINGLES])
            if metric.name == "de_sign_agreement":
                assert np.isnan(right).any()  # C does nothing
                right = right[~np.isnan(right)]
            np.testing.assert_allclose(right, metric.best, atol=1e-6)


def test_effects_are_on_the_scale_that_is_asked_for(whole: Screen) -> None:
    counts, test = whole.counts.toarray().astype(float), in_split(whole, "test")
    share = 1e4 * counts / counts.sum(1, keepdims=True)
    for scale, dense in (("normalized", share), ("mean", counts)):
        rows = scored(NoChange(whole), whole, scale=scale, **BARE)
        cells = Cells(whole, test, dense)
        expected = {name: np.abs(cells.effect(name)).mean() for name in SCORED}
        own = values(rows, "no-change", "mae")
        assert {name: own[name] for name in SCORED} == pytest.approx(expected)


def test_unused_cells_are_never_scored(whole: Screen) -> None:
    cells = np.asarray(whole.split).astype(object)
    left_out = np.flatnonzero(cells == "test")[::2]
    cells[left_out] = "unused"
    screen = whole.with_split(cells)
    rows = scored(NoChange(screen), screen, **BARE)
    kept = Cells(screen, cells == "test")
    expected = {name: np.abs(kept.effect(name)).mean() for name in SCORED}
    own = values(rows, "no-change", "mae")
    assert {name: own[name] for name in SCORED} == pytest.approx(expected)


# Values of models.


@pytest.mark.parametrize("basal", ["prior", "control"])
def test_errors_of_a_model_are_at_observed_library_sizes(
    basal: Any, trained: Estimator, whole: Screen
) -> None:
    rows = scored(trained, whole, basal=basal, seed=2, **BARE)
    assert rows.attrs["basal"] == basal
    asked: dict[str, Any] = {"n_particles": 50, "basal": basal, "seed": 2, "progress": False}
    fixed = trained.effects(SCORED, **asked, n_draws=0).to_df()
    observed = trained.effects(SCORED, **asked, n_draws=10, library_size="observed").to_df()
    cells = Cells(whole, in_split(whole, "test"))
    seen = {name: cells.effect(name) for name in SCORED}
    for metric in BY_HAND:
        effects = fixed if metric in CORRELATIONS else observed
        predicted = {name: effects.loc[name].to_numpy() for name in SCORED}
        expected = by_hand(metric, predicted, seen)
        assert values(rows, "sams-vae", metric) == pytest.approx(expected, rel=1e-4)
    predicted = {name: observed.loc[name].to_numpy() for name in SCORED}
    expected = by_hand("ate_pearson", predicted, seen)
    own = values(rows, "sams-vae", "ate_pearson_observed_size")
    assert own == pytest.approx(expected, rel=1e-4)


def test_coverage_cell_by_cell(trained: Estimator, whole: Screen, table: pd.DataFrame) -> None:
    effects = trained.effects(
        SCORED, n_particles=50, n_draws=10, library_size="observed", progress=False
    )
    dense, test = log_values(whole), in_split(whole, "test")
    label = np.array(whole.condition_names)[whole.condition]
    control = dense[test & (label == "control")]
    for level, ends in ((0.5, ("lower_50", "upper_50")), (0.9, ("lower", "upper"))):
        expected = {}
        for i, name in enumerate(SCORED):
            own = dense[test & (label == name)]
            squares = ((own - own.mean(0)) ** 2).sum(0) + ((control - control.mean(0)) ** 2).sum(0)
            n, m = len(own), len(control)
            error = norm.ppf((1 + level) / 2) * np.sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
            ate = np.asarray(effects.X[i], float)
            low, high = (np.asarray(effects.layers[end][i], float) for end in ends)
            distance = own.mean(0) - control.mean(0) - ate
            inside = (-np.hypot(ate - low, error) <= distance) & (
                distance <= np.hypot(high - ate, error)
            )
            expected[name] = inside.mean()
        expected["(all)"] = np.mean(list(expected.values()))
        found_ = values(table, "sams-vae", f"coverage_{level:.0%}".rstrip("%"))
        assert found_ == pytest.approx(expected)
        assert expected["(all)"] > 0


def test_without_a_posterior_there_is_no_coverage(
    without_posterior: Estimator, trained: Estimator, whole: Screen
) -> None:
    rows = scored([without_posterior, ConditionMean(whole)], whole, **BARE)
    own = set(rows.loc[rows["predictor"] == "conditional-vae", "metric"])
    assert {"iwelbo", "mae"} <= own
    assert not rows.loc[rows["metric"].isin(COVERAGES), "value"].notna().any()
    no_draws = scored(trained, whole, **BARE, n_draws=0)
    assert not no_draws.loc[no_draws["metric"].isin(COVERAGES), "value"].notna().any()


def test_the_iwelbo_is_the_mean_over_cells(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    cells = trained.iwelbo(whole.test, n_particles=20, progress=False)["iwelbo"].to_numpy()
    label = np.array(whole.condition_names)[whole.test.condition]
    expected = {name: cells[label == name].mean() for name in np.unique(label)}
    own = values(table, "sams-vae", "iwelbo")
    assert own == pytest.approx({**expected, "(all)": cells.mean()})


def test_conditions_count_by_their_cells_in_the_iwelbo(trained: Estimator, whole: Screen) -> None:
    screen = whole[~in_split(whole, "test") | whole.is_control | (np.arange(240) < 60)]
    sizes = {len(screen.test.of(name)) for name in whole.conditions}
    assert len(sizes) > 1
    rows = scored(trained, screen, **BARE)
    cells = trained.iwelbo(screen.test, n_particles=20, progress=False)["iwelbo"]
    assert values(rows, "sams-vae", "iwelbo")["(all)"] == pytest.approx(cells.mean())


def test_a_model_meets_its_genes_by_name(trained: Estimator, whole: Screen) -> None:
    adata = make_adata()
    more = AnnData(
        np.hstack([adata.X, adata.X[:, :2] + 1]),
        obs=adata.obs,
        var=pd.DataFrame(index=[*adata.var_names, "x", "y"]),
    )
    mixed = read(more[:, np.random.default_rng(0).permutation(14)].copy())
    ours = scored([trained, Additive(whole)], mixed)
    same(ours, scored([trained, Additive(whole)], whole), rtol=1e-7, atol=1e-12)


def test_a_model_beside_all_baselines(
    trained: Estimator, whole: Screen, table: pd.DataFrame
) -> None:
    mixed = read(
        make_adata()[:, ::-1].copy()
    )  # baselines learn from it as it is matched to the model
    rows = beside_baselines(trained, mixed, split="test", **QUICK)
    same(rows, table, rtol=1e-7, atol=1e-9)


# Interactions.


def test_interactions_by_hand(table: pd.DataFrame, whole: Screen) -> None:
    test, everywhere = Cells(whole, in_split(whole, "test")), Cells(whole, [True] * len(whole))
    control = test.mean("control")
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * control  # all of their cells
    observed = test.effect("A+B") - parts
    rows = {"A+B": 0.0, "(all)": 0.0} | dict.fromkeys(SINGLES, np.nan)
    for name, predicted in (("additive", 0), ("no-change", 0)):
        assert values(table, name, "interaction_pearson") == pytest.approx(rows, nan_ok=True)
        own = values(table, name, "interaction_rmse")
        assert own["(all)"] == pytest.approx(np.sqrt(((observed - predicted) ** 2).mean()))
        assert own["A+B"] == own["(all)"]
    effects = ConditionMean(whole).effects(SCORED).to_df()
    predicted = (effects.loc["A+B"] - effects.loc["A"] - effects.loc["B"]).to_numpy()
    expected = {
        "interaction_pearson": pearsonr(predicted, observed)[0],
        "interaction_rmse": np.sqrt(((predicted - observed) ** 2).mean()),
    }
    for metric, value in expected.items():
        own = values(table, "condition-mean", metric)
        assert own["A+B"] == pytest.approx(value)
        assert np.isnan([own[name] for name in SINGLES]).all()


@pytest.mark.parametrize("missing", ["A", "B", "B+A"])
def test_interactions_need_combinations_and_their_parts(missing: str) -> None:
    adata = make_adata()
    screen = read(adata[adata.obs["perturbation"] != missing].copy())
    rows = scored(Additive(screen), screen, n_cells=0)
    assert set(rows["metric"]) == set(EFFECTS)


def test_parts_of_a_held_out_combination_are_seen_in_training() -> None:
    screen = heldout("B+A")
    rows = scored([Additive(screen), PerturbationMean(screen)], screen, **BARE)
    assert set(rows[rows["metric"].isin(INTERACTIONS)]["split"]) == {"unseen"}
    assert values(rows, "additive", "interaction_pearson", "unseen")["A+B"] == 0
    mean = PerturbationMean(screen).effects("A").X[0]
    cells, everywhere = Cells(screen, in_split(screen, "test")), Cells(screen, [True] * 240)
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * cells.mean("control")
    observed = cells.effect("A+B") - parts
    own = values(rows, "perturbation-mean", "interaction_rmse", "unseen")
    assert own["A+B"] == pytest.approx(np.sqrt(((-mean - observed) ** 2).mean()))
