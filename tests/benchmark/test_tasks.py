"""Subjects of an evaluation, their halves, and one half as a prediction of the other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.clones import screen_of_clones
from helpers.scores import (
    BY_HAND,
    SCORED,
    SINGLES,
    Cells,
    Halves,
    by_hand,
    effects_of_half,
    heldout,
    in_split,
    scored,
    task_of,
    values,
)
from helpers.screens import make_adata, read
from samsvae import Screen
from samsvae.benchmark.baselines import NoChange, PerturbationMean
from samsvae.benchmark.tasks import evaluation_tasks
from samsvae.types import Scale

# Tasks.


def test_a_task() -> None:
    adata = make_adata(labels=("control", "A", "B", "C", "B+A", "C+D+A"))
    adata.var_names = ["B", "D", *adata.var_names[2:]]
    task = task_of(read(adata))
    assert task.label == "test"
    assert task.conditions == ("A", "A+B", "A+C+D", "B", "C")
    assert task.combinations == {"A+B": ["A", "B"]}  # of D alone there are no cells
    assert task.all_conditions == ["A", "A+B", "A+C+D", "B", "C"]
    assert task.targets == [[], [0], [1], [0], []]
    assert task.n_cells.tolist() == [8] * 5


def test_a_task_needs_parts_that_are_not_scored() -> None:
    (seen, unseen) = evaluation_tasks(heldout("B+A"), "log", ["test"], n_cells=0, seed=0)
    assert (seen.label, unseen.label) == ("test", "unseen")
    assert seen.all_conditions == SINGLES
    assert unseen.all_conditions == ["A+B", "A", "B"]


def test_what_is_observed(whole: Screen) -> None:
    seen = task_of(whole).observation()
    table = samsvae.differential_expression(whole.test, SCORED, scale="log")
    np.testing.assert_allclose(seen.observed.effect, table)
    assert seen.observed.n_cells.tolist() == [len(whole.test.of(name)) for name in SCORED]
    mean = PerturbationMean(whole).effects("A", scale="log").X[0]
    np.testing.assert_allclose(seen.observed.perturbation_mean, mean)
    some = np.random.default_rng(0).random(len(whole)) < 0.6
    cells = Cells(whole, some & in_split(whole, "test"))
    half = task_of(whole).observation(some)
    expected = [cells.effect(name) for name in SCORED]
    np.testing.assert_allclose(half.observed.effect, expected, atol=1e-12)
    everywhere = Cells(whole, some)
    parts = everywhere.mean("A") + everywhere.mean("B") - 2 * cells.mean("control")
    np.testing.assert_allclose(half.interaction, [expected[1] - parts], atol=1e-12)


def test_cells_as_a_prediction(whole: Screen) -> None:
    some = np.random.default_rng(0).random(len(whole)) < 0.7
    task = task_of(whole, n_cells=20)
    seen, prediction = task.observation(some), task.replicate(some)
    for size in ("fixed", "observed"):
        np.testing.assert_array_equal(prediction.effects[size], seen.observed.effect)
        np.testing.assert_array_equal(prediction.interactions[size], seen.interaction)
    assert prediction.intervals is None
    assert prediction.populations is not None
    assert seen.populations is not None
    for ours, theirs in zip(prediction.populations.cells, seen.populations.cells, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Halvings.


@pytest.mark.parametrize("label", ["test", "train"])
def test_halves(label: str, whole: Screen) -> None:
    screen = whole[np.random.default_rng(1).permutation(len(whole))[:200]]  # of unequal sizes
    task, rng = task_of(screen, label), np.random.default_rng(0)
    chosen = in_split(screen, label)
    sizes = set()
    for _ in range(20):
        first, second = task.halves(rng)
        assert (first ^ second).all()  # disjoint and exhaustive
        for i in range(len(screen.condition_names)):
            cells = chosen & (screen.condition == i)
            n = int((first & cells).sum()), int((second & cells).sum())
            assert abs(n[0] - n[1]) <= 1, f"{screen.condition_names[i]}: {n}"
            sizes.add(sum(n))
    assert {n % 2 for n in sizes} == {0, 1}


def test_parts_are_halved_too() -> None:
    (_, unseen) = evaluation_tasks(heldout("B+A"), "log", ["test"], n_cells=0, seed=0)
    first, second = unseen.halves(np.random.default_rng(0))
    for name in ("A", "B"):
        cells = unseen.screen.condition == unseen.screen.condition_names.index(name)
        assert abs(int((first & cells).sum()) - int((second & cells).sum())) <= 1
    assert (first & unseen.control).sum() > 0
    assert (second & unseen.control).sum() > 0


def test_halves_without_controls_of_their_own(whole: Screen) -> None:
    screen = whole.with_split(samsvae.splits.heldout_combinations(whole, fraction=1.0))
    first, second = task_of(screen).halves(np.random.default_rng(0))
    assert (first & screen.is_control).sum() == (second & screen.is_control).sum() == 24


def test_every_halving_is_another(whole: Screen) -> None:
    task, rng = task_of(whole), np.random.default_rng(0)
    several = [task.halves(rng)[0] for _ in range(30)]
    assert len({half.tobytes() for half in several}) == 30
    again = task.halves(np.random.default_rng(0))[0]
    np.testing.assert_array_equal(again, several[0])
    # Each cell is in the first half about as often as not: never always.
    often = np.mean(several, axis=0)
    assert ((often > 0) & (often < 1)).all()


@pytest.mark.parametrize("metric", BY_HAND)
def test_the_replicate_of_one_halving(metric: str, clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=1, n_cells=0)
    ((first, second),) = halves
    expected = by_hand(metric, effects_of_half(clear, first), effects_of_half(clear, second))
    assert values(rows, "technical replicate", metric) == pytest.approx(expected)


def test_the_interaction_of_one_halving(clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=1, n_cells=0)
    beyond = []
    for half in halves[0]:
        own, everywhere = effects_of_half(clear, half), Cells(clear, half)
        control = Cells(clear, half & in_split(clear, "test")).mean("control")
        beyond.append(own["A+B"] - everywhere.mean("A") - everywhere.mean("B") + 2 * control)
    expected = np.sqrt(((beyond[0] - beyond[1]) ** 2).mean())
    own = values(rows, "technical replicate", "interaction_rmse")
    assert [own["A+B"], own["(all)"]] == pytest.approx([expected] * 2)
    assert np.isnan(own["A"])


def test_the_replicate_of_several_halvings(clear: Screen, halves: Halves) -> None:
    rows = scored(NoChange(clear), clear, n_halvings=4, n_cells=0)
    assert len(halves) == 4
    errors = [
        by_hand("mae", effects_of_half(clear, first), effects_of_half(clear, second))
        for first, second in halves
    ]
    expected = pd.DataFrame(errors).mean()
    assert values(rows, "technical replicate", "mae") == pytest.approx(dict(expected))
    squares = [
        by_hand("rmse", effects_of_half(clear, first), effects_of_half(clear, second))
        for first, second in halves
    ]
    expected = np.sqrt((pd.DataFrame(squares) ** 2).mean())
    assert values(rows, "technical replicate", "rmse") == pytest.approx(dict(expected))


@pytest.mark.parametrize("scale", ["log", "lfc"])
def test_cells_of_one_clone_are_not_independent(scale: Scale) -> None:
    """Nothing has an effect: standard errors, and tests of control, hold if clones are told."""
    squares, found = {}, {}
    for told in (True, False):
        screen = screen_of_clones(0, sd=0.4, told=told)
        screen = screen.with_split(np.full(len(screen), "test"))
        (task,) = evaluation_tasks(screen, scale, ["test"], n_cells=0, seed=0)
        observed = task.observation().observed
        squares[told] = float(np.mean((observed.effect / observed.standard_error) ** 2))
        found[told] = observed.significant.mean()
    assert 0.5 < squares[True] < 1.6 < squares[False]
    assert found[True] < 0.05 < found[False]
