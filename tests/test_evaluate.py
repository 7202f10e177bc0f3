"""The table of `evaluate` against values worked out cell by cell, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import norm, pearsonr

import samsvae
from conftest import SMALL, make_adata
from samsvae import InputError, Screen, evaluate
from samsvae.baselines import (
    BASELINES,
    Additive,
    Baseline,
    ConditionMean,
    NoChange,
    PerturbationMean,
)
from samsvae.data import screen as screen_module
from samsvae.estimator import Estimator
from samsvae.evaluation.effect_metrics import INTERACTION_METRICS, METRICS
from samsvae.scoring.evaluate import beside_baselines
from samsvae.scoring.prediction import Prediction, answered
from samsvae.scoring.subject import Subject, subjects

QUICK: dict[str, Any] = {
    "scale": "log",
    "n_particles": 20,
    "effect_particles": 50,
    "n_draws": 10,
    "n_halvings": 3,
    "n_cells": 20,
    "progress": False,
}
BARE: dict[str, Any] = {"n_halvings": 0, "n_cells": 0}
"""Neither a technical duplicate nor clouds."""
TRAINING: dict[str, Any] = {
    "max_steps": 20,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 0.01,
    "validate_every": 20,
    "progress": False,
}
TINY: dict[str, Any] = {"n_latent": 3, "n_hidden": 6}

KEYS = ["predictor", "split", "condition", "metric"]
NUMBERS = ["value", "lower", "upper", "dynamic_range", "n_cells"]
SINGLES, SCORED = ["A", "B", "C"], ["A", "A+B", "B", "C"]
EFFECTS = [metric.name for metric in METRICS]
INTERACTIONS = [metric.name for metric in INTERACTION_METRICS]
CLOUDS = ["e_distance", "mmd"]
COVERAGES = ["coverage_50", "coverage_90"]
CORRELATIONS = {
    "ate_pearson",
    "ate_pearson_top20",
    "pearson_from_control",
    "pearson_from_perturbation_mean",
}
"""Of effects at library size 1e4."""


def scored(predictors: Any, screen: Screen, **settings: Any) -> pd.DataFrame:
    return evaluate(predictors, screen, **QUICK | settings)


def read(adata: AnnData, **keys: Any) -> Screen:
    return Screen.from_anndata(adata, split_key="split", **keys)


def heldout(*names: str) -> Screen:
    """Return a screen without training cells of some conditions."""
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"].isin(names), "split"] = "test"
    return read(adata)


def clear_adata(*, rate: float = 30, change: float = 4) -> AnnData:
    """Return cells of which half tell what the other half does: many counts, large effects."""
    adata = make_adata(n_cells=300, n_genes=30)
    rates = np.full(adata.shape, float(rate))
    for i, name in enumerate(SINGLES):
        cells = adata.obs["perturbation"].str.contains(name).to_numpy()
        rates[cells, 8 * i : 8 * i + 6] *= change
    adata.X = np.random.default_rng(0).poisson(rates).astype(np.float32)
    return adata


def found(table: pd.DataFrame, predictor: str, metric: str, split: str = "test") -> pd.DataFrame:
    """Return the rows of one metric of one predictor, by condition."""
    rows = table[(table["predictor"] == predictor) & (table["metric"] == metric)]
    return rows[rows["split"] == split].set_index("condition", verify_integrity=True)


def values(table: pd.DataFrame, predictor: str, metric: str, split: str = "test") -> dict[str, Any]:
    return dict(found(table, predictor, metric, split)["value"])


def same(ours: pd.DataFrame, theirs: pd.DataFrame, rtol: float = 0, atol: float = 0) -> None:
    """Check that tables hold the same numbers, in whatever order."""
    ours, theirs = (table.set_index(KEYS)[NUMBERS].sort_index() for table in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def whole() -> Screen:
    return read(make_adata())


@pytest.fixture(scope="module")
def clear() -> Screen:
    return read(clear_adata())


@pytest.fixture(scope="module")
def table(trained: Estimator, whole: Screen) -> pd.DataFrame:
    """Return the scores of a model and all baselines. Shared: do not change them."""
    return scored([trained, *(kind(whole) for kind in BASELINES)], whole)


@pytest.fixture(scope="module")
def without_posterior(whole: Screen) -> samsvae.ConditionalVAE:
    return samsvae.ConditionalVAE(whole, **TINY).train(**TRAINING)


def log_values(screen: Screen) -> np.ndarray:
    counts = screen.counts.toarray().astype(float)
    logs: np.ndarray = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    return logs


class Cells:
    """What some cells of a screen show, from a dense matrix."""

    def __init__(self, screen: Screen, which: Any, dense: np.ndarray | None = None) -> None:
        self.values = log_values(screen) if dense is None else dense
        self.label = np.array(screen.condition_names)[screen.condition]
        self.which = np.asarray(which)

    def mean(self, condition: str) -> np.ndarray:
        cells = self.values[self.which & (self.label == condition)]
        mean: np.ndarray = cells.mean(0)
        return mean

    def effect(self, condition: str) -> np.ndarray:
        return self.mean(condition) - self.mean("control")


def in_split(screen: Screen, name: str) -> np.ndarray:
    return np.asarray(screen.split) == name


def by_hand(metric: str, predicted: Any, observed: Any) -> dict[str, float]:
    """Return the score of each condition and of all, from effects by condition."""
    score = {
        "mae": lambda a, d: np.abs(a - d).mean(),
        "rmse": lambda a, d: np.sqrt(((a - d) ** 2).mean()),
        "ate_pearson": lambda a, d: pearsonr(np.ravel(a), np.ravel(d))[0] if np.ptp(a) else 0.0,
        "ate_r2": lambda a, d: 1 - ((a - d) ** 2).sum() / ((d - d.mean()) ** 2).sum(),
    }[metric]
    each = {name: float(score(predicted[name], observed[name])) for name in observed}
    rows = [np.array([effects[name] for name in observed]) for effects in (predicted, observed)]
    return {**each, "(all)": float(score(*rows))}


BY_HAND = ["mae", "rmse", "ate_pearson", "ate_r2"]


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
    for metric in METRICS:
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
    assert np.isnan(answers["ate"][[0, 2]]).all()
    np.testing.assert_array_equal(answers["ate"][[1, 3]], known.X)
    assert set(answers) == {"ate", *known.layers}
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


# Subjects.


def subject_of(screen: Screen, label: str = "test", *, n_cells: int = 0) -> Subject:
    (subject,) = subjects(screen, "log", [label], n_cells=n_cells, seed=0)
    return subject


def test_a_subject() -> None:
    adata = make_adata(labels=("control", "A", "B", "C", "B+A", "C+D+A"))
    adata.var_names = ["B", "D", *adata.var_names[2:]]
    subject = subject_of(read(adata))
    assert subject.label == "test"
    assert subject.conditions == ("A", "A+B", "A+C+D", "B", "C")
    assert subject.combinations == {"A+B": ["A", "B"]}  # of D alone there are no cells
    assert subject.asked == ["A", "A+B", "A+C+D", "B", "C"]
    assert subject.targets == [[], [0], [1], [0], []]
    assert subject.n_cells.tolist() == [8] * 5


def test_a_subject_asks_for_parts_that_are_not_scored() -> None:
    (seen, unseen) = subjects(heldout("B+A"), "log", ["test"], n_cells=0, seed=0)
    assert (seen.label, unseen.label) == ("test", "unseen")
    assert seen.asked == SINGLES
    assert unseen.asked == ["A+B", "A", "B"]


def test_what_a_subject_sees(whole: Screen) -> None:
    seen = subject_of(whole).seen()
    table = samsvae.differential_expression(whole.test, SCORED)
    np.testing.assert_allclose(seen.observed.effect, table)
    assert seen.observed.n_cells.tolist() == [len(whole.test.of(name)) for name in SCORED]
    mean = PerturbationMean(whole).effects("A").X[0]
    np.testing.assert_allclose(seen.observed.perturbation_mean, mean)
    some = np.random.default_rng(0).random(len(whole)) < 0.6
    cells = Cells(whole, some & in_split(whole, "test"))
    half = subject_of(whole).seen(some)
    expected = [cells.effect(name) for name in SCORED]
    np.testing.assert_allclose(half.observed.effect, expected, atol=1e-12)
    everywhere = Cells(whole, some)
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * cells.mean("control")
    np.testing.assert_allclose(half.interaction, [expected[1] - parts], atol=1e-12)


def test_cells_as_a_prediction(whole: Screen) -> None:
    seen = subject_of(whole, n_cells=20).seen()
    prediction = Prediction.of_cells(seen)
    for size in ("fixed", "observed"):
        assert prediction.effects[size] is seen.observed.effect
        assert prediction.interactions[size] is seen.interaction
    assert prediction.intervals == {}
    assert prediction.clouds is seen.clouds


# Halvings.


@pytest.mark.parametrize("label", ["test", "train"])
def test_halves(label: str, whole: Screen) -> None:
    screen = whole[np.random.default_rng(1).permutation(len(whole))[:200]]  # of unequal sizes
    subject, rng = subject_of(screen, label), np.random.default_rng(0)
    chosen = in_split(screen, label)
    sizes = set()
    for _ in range(20):
        first, second = subject.halves(rng)
        assert (first ^ second).all()  # disjoint and exhaustive
        for i in range(len(screen.condition_names)):
            cells = chosen & (screen.condition == i)
            n = int((first & cells).sum()), int((second & cells).sum())
            assert abs(n[0] - n[1]) <= 1, f"{screen.condition_names[i]}: {n}"
            sizes.add(sum(n))
    assert {n % 2 for n in sizes} == {0, 1}


def test_parts_are_halved_too() -> None:
    (_, unseen) = subjects(heldout("B+A"), "log", ["test"], n_cells=0, seed=0)
    first, second = unseen.halves(np.random.default_rng(0))
    for name in ("A", "B"):
        cells = unseen.screen.condition == unseen.screen.condition_names.index(name)
        assert abs(int((first & cells).sum()) - int((second & cells).sum())) <= 1
    assert (first & unseen.control).sum() > 0
    assert (second & unseen.control).sum() > 0


def test_halves_without_controls_of_their_own(whole: Screen) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    first, second = subject_of(screen).halves(np.random.default_rng(0))
    assert (first & screen.is_control).sum() == (second & screen.is_control).sum() == 24


def test_every_halving_is_another(whole: Screen) -> None:
    subject, rng = subject_of(whole), np.random.default_rng(0)
    several = [subject.halves(rng)[0] for _ in range(30)]
    assert len({half.tobytes() for half in several}) == 30
    again = subject.halves(np.random.default_rng(0))[0]
    np.testing.assert_array_equal(again, several[0])
    # Each cell is in the first half about as often as not: never always.
    often = np.mean(several, axis=0)
    assert ((often > 0) & (often < 1)).all()


Halves = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Halves]:
    """Return the halves that are dealt from now on."""
    dealt: Halves = []
    plain = Subject.halves

    def kept(subject: Subject, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        dealt.append(plain(subject, rng))
        return dealt[-1]

    monkeypatch.setattr(Subject, "halves", kept)
    yield dealt
    assert dealt


def effects_of_half(screen: Screen, half: np.ndarray) -> dict[str, np.ndarray]:
    cells = Cells(screen, half & in_split(screen, "test"))
    return {name: cells.effect(name) for name in SCORED}


@pytest.mark.parametrize("metric", BY_HAND)
def test_the_duplicate_of_one_halving(metric: str, clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=1, n_cells=0)
    ((first, second),) = halves
    expected = by_hand(metric, effects_of_half(clear, first), effects_of_half(clear, second))
    assert values(rows, "duplicate", metric) == pytest.approx(expected)


def test_the_interaction_of_one_halving(clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=1, n_cells=0)
    beyond = []
    for half in halves[0]:
        own, everywhere = effects_of_half(clear, half), Cells(clear, half)
        control = Cells(clear, half & in_split(clear, "test")).mean("control")
        beyond.append(own["A+B"] - everywhere.mean("A") - everywhere.mean("B") + 2 * control)
    expected = np.sqrt(((beyond[0] - beyond[1]) ** 2).mean())
    own = values(rows, "duplicate", "interaction_rmse")
    assert [own["A+B"], own["(all)"]] == pytest.approx([expected] * 2)
    assert np.isnan(own["A"])


def test_the_duplicate_of_several_halvings(clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=4, n_cells=0)
    assert len(halves) == 4
    errors = [
        by_hand("mae", effects_of_half(clear, first), effects_of_half(clear, second))
        for first, second in halves
    ]
    expected = pd.DataFrame(errors).mean()
    assert values(rows, "duplicate", "mae") == pytest.approx(dict(expected))
    squares = [
        by_hand("rmse", effects_of_half(clear, first), effects_of_half(clear, second))
        for first, second in halves
    ]
    expected = np.sqrt((pd.DataFrame(squares) ** 2).mean())
    assert values(rows, "duplicate", "rmse") == pytest.approx(dict(expected))


# The dynamic range.


class Range(NamedTuple):
    """A dynamic range from scores by halving."""

    value: float
    better: bool
    """Whether the duplicate is better than the mean."""
    clarity: float
    """By how many standard deviations."""

    @property
    def expected(self) -> float:
        return self.value if self.better and self.clarity > 2 else float("nan")


def dynamic_range(own: Any, mean: Any, duplicate: Any, best: float) -> Range:
    own, mean, duplicate = np.array([own, mean, duplicate])
    spans = [b - a for a, b in zip(mean, duplicate, strict=True)]
    span, sd = np.mean(spans), np.std(spans, ddof=1)
    better = abs(np.mean(duplicate) - best) < abs(np.mean(mean) - best)
    return Range((np.mean(own) - np.mean(mean)) / span, bool(better), abs(span) / sd)


def ranges(screen: Screen, halves: Halves) -> Iterator[tuple[float, Range]]:
    """Yield what is found and what is expected, of several metrics, predictors and conditions."""
    kinds: list[type[Baseline]] = [NoChange, ConditionMean, Additive]
    halves.clear()
    rows = scored([kind(screen) for kind in kinds], screen, n_halvings=5, n_cells=0)
    asked = {
        kind.name: dict(zip(SCORED, kind(screen).effects(SCORED).X, strict=True))
        for kind in [*kinds, PerturbationMean]
    }
    both = [[effects_of_half(screen, half) for half in pair] for pair in halves]
    for metric in BY_HAND:
        best = {"mae": 0.0, "rmse": 0.0, "ate_pearson": 1.0, "ate_r2": 1.0}[metric]
        scores = {
            name: pd.DataFrame([by_hand(metric, effects, seen) for _, seen in both])
            for name, effects in asked.items()
        }
        duplicate = pd.DataFrame([by_hand(metric, first, seen) for first, seen in both])
        mean = scores["perturbation-mean"]
        for kind in kinds:
            own = found(rows, kind.name, metric)["dynamic_range"]
            for name in [*SCORED, "(all)"]:
                three = scores[kind.name][name], mean[name], duplicate[name]
                yield own[name], dynamic_range(*three, best=best)


def test_the_dynamic_range_by_hand(clear: Screen, halves: Halves) -> None:
    both = list(ranges(clear, halves))
    assert len(both) == 4 * 3 * 5
    for own, by_hand_ in both:
        assert own == pytest.approx(by_hand_.expected, nan_ok=True)
    known = [by_hand_.expected for _, by_hand_ in both if np.isfinite(by_hand_.expected)]
    assert len(known) > 40
    assert min(known) < -0.5
    assert max(known) > 1.1


def test_a_dynamic_range_needs_a_clearly_better_duplicate(whole: Screen, halves: Halves) -> None:
    blurred = read(clear_adata(rate=12, change=2))
    both = [*ranges(blurred, halves), *ranges(whole, halves)]
    for own, by_hand_ in both:
        assert own == pytest.approx(by_hand_.expected, nan_ok=True)
    # All of what is told apart occurs.
    clarities = np.array([one.clarity for _, one in both if one.better])
    for low, high in ((0, 1), (1, 2), (2, 3), (3, 9)):
        assert ((low < clarities) & (clarities < high)).any()
    assert any(one.clarity > 2 and not one.better for _, one in both)


def test_the_ends_of_the_dynamic_range(clear: Screen) -> None:
    rows = scored({"mean": PerturbationMean(clear), "no": NoChange(clear)}, clear)
    for name, end in (("mean", 0.0), ("duplicate", 1.0)):
        own = rows[rows["predictor"] == name]
        known = own["dynamic_range"].dropna()
        assert len(known) > 30
        np.testing.assert_allclose(known, end, atol=1e-12)
    unknown = rows.set_index(KEYS)["dynamic_range"].isna().unstack("predictor")
    assert (unknown["mean"] == unknown["duplicate"]).all()


def test_a_duplicate_that_is_worse_or_uncertain_is_no_measure(
    whole: Screen, clear: Screen, table: pd.DataFrame
) -> None:
    duplicate, mean = (found(table, name, "mae") for name in ("duplicate", "perturbation-mean"))
    worse = duplicate["value"] > mean["value"] + 0.2  # of so few cells
    assert worse.any()
    assert duplicate.loc[worse, "dynamic_range"].isna().all()
    own = found(scored(NoChange(clear), clear, n_cells=0), "no-change", "mae")["dynamic_range"]
    assert own.notna().all()
    assert (own < 0).any()


class Choosy(ConditionMean):
    """Has an answer for some conditions only, whose means it does not shrink."""

    name = "choosy"

    def _predict(self, condition: str, means: Any) -> np.ndarray:
        if condition in ("A+B", "C"):
            raise InputError(f"nothing is known of {condition}")
        delta: np.ndarray = means.of(condition)
        return delta


def test_what_is_left_out_of_one_score_is_left_out_of_all_three(
    clear: Screen, halves: Halves
) -> None:
    rows = scored([Choosy(clear), NoChange(clear)], clear, n_halvings=4, n_cells=0)
    own = found(rows, "choosy", "mae")["dynamic_range"]
    assert own.isna().tolist() == [False, True, False, True, False]
    known = ["A", "B"]
    effects = dict(zip(known, Choosy(clear).effects(known).X, strict=True))
    mean = dict.fromkeys(known, PerturbationMean(clear).effects("A").X[0])
    scores: list[list[float]] = [[], [], []]
    for pair in halves:
        first, second = (
            {name: effects_of_half(clear, half)[name] for name in known} for half in pair
        )
        for kept, predicted in zip(scores, (effects, mean, first), strict=True):
            kept.append(by_hand("mae", predicted, second)["(all)"])
    assert own["(all)"] == pytest.approx(dynamic_range(*scores, best=0).expected)
    # Nobody else loses a condition by it.
    alone = scored(NoChange(clear), clear, n_halvings=4, n_cells=0)
    same(rows[rows["predictor"] != "choosy"], alone)


def test_there_is_none_of_the_iwelbo_and_of_coverage(table: pd.DataFrame) -> None:
    others = table[table["metric"].isin(["iwelbo", *COVERAGES])]
    assert set(others["predictor"]) == {"sams-vae"}
    assert others["dynamic_range"].isna().all()
    assert table.loc[table["predictor"] == "sams-vae", "dynamic_range"].notna().any()


def test_without_halvings(trained: Estimator, whole: Screen, table: pd.DataFrame) -> None:
    rows = scored([trained, Additive(whole)], whole, n_halvings=0)
    assert set(rows["predictor"]) == {"sams-vae", "additive"}
    assert rows["dynamic_range"].isna().all()
    kept = table[table["predictor"].isin(["sams-vae", "additive"])]
    same(rows, kept.assign(dynamic_range=np.nan))


@pytest.mark.parametrize("n_cells", [0, 20])
def test_conditions_of_a_single_cell(n_cells: int, whole: Screen) -> None:
    """Half of one cell is nothing: there is no duplicate, but there are scores."""
    test = in_split(whole, "test")
    of_a = test & (whole.condition == whole.condition_names.index("A"))
    of_a[np.flatnonzero(of_a)[0]] = False
    screen = whole[~of_a]
    rows = scored(Additive(screen), screen, n_cells=n_cells)
    own, half = (found(rows, name, "mae") for name in ("additive", "duplicate"))
    assert own["value"].notna().all()
    assert own["n_cells"]["A"] == 1
    assert half["value"].isna().tolist() == [True, False, False, False, False]
    assert np.isnan(own["dynamic_range"]["A"])


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
    before = screen.digest
    scored([trained, Additive(screen)], screen)
    again = screen_module.Screen.from_anndata(make_adata(), split_key="split")
    assert screen.digest == before == again.digest
