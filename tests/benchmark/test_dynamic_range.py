"""The dynamic range: from the perturbation mean to the technical replicate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from helpers.scores import (
    BY_HAND,
    INTERVALS,
    KEYS,
    SCORED,
    Halves,
    by_hand,
    clear_adata,
    effects_of_half,
    found,
    in_split,
    same,
    scored,
)
from helpers.screens import read
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import (
    Additive,
    Baseline,
    ConditionMean,
    NoChange,
    PerturbationMean,
)
from samsvae.estimators.base import Estimator


class Range(NamedTuple):
    """A dynamic range from scores by halving."""

    value: float
    better: bool
    """Whether the replicate is better than the mean."""
    clarity: float
    """By how many standard deviations."""

    @property
    def expected(self) -> float:
        return self.value if self.better and self.clarity > 2 else float("nan")


def dynamic_range(own: Any, mean: Any, replicate: Any, best: float) -> Range:
    own, mean, replicate = np.array([own, mean, replicate])
    spans = [b - a for a, b in zip(mean, replicate, strict=True)]
    span, sd = np.mean(spans), np.std(spans, ddof=1)
    better = abs(np.mean(replicate) - best) < abs(np.mean(mean) - best)
    return Range((np.mean(own) - np.mean(mean)) / span, bool(better), abs(span) / sd)


def ranges(screen: Screen, halves: Halves) -> Iterator[tuple[float, Range]]:
    """Yield what is found and what is expected, of several metrics, predictors and conditions."""
    kinds: list[type[Baseline]] = [NoChange, ConditionMean, Additive]
    halves.clear()
    rows = scored([kind(screen) for kind in kinds], screen, n_halvings=5, n_cells=0)
    asked = {
        kind.name: dict(zip(SCORED, kind(screen).effects(SCORED, scale="log").X, strict=True))
        for kind in [*kinds, PerturbationMean]
    }
    both = [[effects_of_half(screen, half) for half in pair] for pair in halves]
    for metric in BY_HAND:
        best = {"mae": 0.0, "rmse": 0.0, "ate_pearson": 1.0, "ate_r2": 1.0}[metric]
        scores = {
            name: pd.DataFrame([by_hand(metric, effects, seen) for _, seen in both])
            for name, effects in asked.items()
        }
        replicate = pd.DataFrame([by_hand(metric, first, seen) for first, seen in both])
        mean = scores["perturbation-mean"]
        for kind in kinds:
            own = found(rows, kind.name, metric)["dynamic_range"]
            for name in [*SCORED, "(all)"]:
                three = scores[kind.name][name], mean[name], replicate[name]
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


def test_a_dynamic_range_needs_a_clearly_better_replicate(whole: Screen, halves: Halves) -> None:
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
    for name, end in (("mean", 0.0), ("technical replicate", 1.0)):
        own = rows[rows["predictor"] == name]
        known = own["dynamic_range"].dropna()
        assert len(known) > 30
        np.testing.assert_allclose(known, end, atol=1e-12)
    unknown = rows.set_index(KEYS)["dynamic_range"].isna().unstack("predictor")
    assert (unknown["mean"] == unknown["technical replicate"]).all()


def test_a_replicate_that_is_worse_or_uncertain_is_no_measure(
    whole: Screen, clear: Screen, table: pd.DataFrame
) -> None:
    replicate, mean = (
        found(table, name, "mae") for name in ("technical replicate", "perturbation-mean")
    )
    worse = replicate["value"] > mean["value"] + 0.2  # of so few cells
    assert worse.any()
    assert replicate.loc[worse, "dynamic_range"].isna().all()
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


@pytest.mark.filterwarnings("ignore:choosy has no prediction for")
def test_what_is_left_out_of_one_score_is_left_out_of_all_three(
    clear: Screen, halves: Halves
) -> None:
    rows = scored([Choosy(clear), NoChange(clear)], clear, n_halvings=4, n_cells=0)
    own = found(rows, "choosy", "mae")["dynamic_range"]
    assert own.isna().tolist() == [False, True, False, True, False]
    known = ["A", "B"]
    effects = dict(zip(known, Choosy(clear).effects(known, scale="log").X, strict=True))
    mean = dict.fromkeys(known, PerturbationMean(clear).effects("A", scale="log").X[0])
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


def test_there_is_none_of_the_iwelbo_and_of_intervals(table: pd.DataFrame) -> None:
    others = table[table["metric"].isin(["iwelbo", *INTERVALS])]
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
    """Half of one cell is nothing: there is no replicate, but there are scores."""
    test = in_split(whole, "test")
    of_a = test & (whole.condition == whole.condition_names.index("A"))
    of_a[np.flatnonzero(of_a)[0]] = False
    screen = whole[~of_a]
    rows = scored(Additive(screen), screen, n_cells=n_cells)
    own, half = (found(rows, name, "mae") for name in ("additive", "technical replicate"))
    assert own["value"].notna().all()
    assert own["n_cells"]["A"] == 1
    assert half["value"].isna().tolist() == [True, False, False, False, False]
    assert np.isnan(own["dynamic_range"]["A"])
