"""The splits of the paper's experiments on combinations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.screens import make_adata
from samsvae import InputError, Screen, splits

SINGLES = ("control", "A", "B", "C", "D", "E")
PAIRS = tuple("+".join(pair) for pair in itertools.combinations("ABCDE", 2))
SCREEN = Screen.from_anndata(make_adata(n_cells=640, labels=(*SINGLES, *PAIRS)))
CONDITION = pd.Series(np.array(SCREEN.condition_names)[SCREEN.condition], SCREEN.cells)
COMBINED = CONDITION.isin(PAIRS)

SEEDS = st.integers(0, 2**32)
TWO = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
FRACTIONS = (0, 0.25, 0.5, 0.75, 1)
"""The paper's."""
KINDS = [splits.norman_ood, splits.norman_data_efficiency]
Split = Callable[..., pd.Series]
quickly = settings(deadline=None, max_examples=40)


def cells(split: pd.Series, *names: str) -> set[str]:
    return set(split.index[split.isin(names)])


@pytest.mark.parametrize("kind", KINDS)
@given(TWO, SEEDS)
@quickly
def test_training_grows_under_the_same_test(kind: Split, two: list[float], seed: int) -> None:
    few, many = (kind(SCREEN, fraction=fraction, seed=seed) for fraction in two)
    for split in (few, many):
        assert list(split.index) == list(SCREEN.cells)
        assert set(split) <= {"train", "valid", "test", "unused"}
    assert cells(few, "test") == cells(many, "test")
    for name in ("train", "valid"):
        assert cells(few, name) <= cells(many, name)
    assert cells(few, "unused") >= cells(many, "unused")
    pd.testing.assert_series_equal(few, kind(SCREEN, fraction=two[0], seed=seed))
    assert not few.equals(kind(SCREEN, fraction=two[0], seed=seed + 1))


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 1), SEEDS)
@quickly
def test_cells_of_at_most_one_perturbation_are_80_20(
    kind: Split, fraction: float, seed: int
) -> None:
    split = kind(SCREEN, fraction=fraction, seed=seed)[~COMBINED]
    assert split.value_counts().to_dict() == {
        "train": round(0.8 * len(split)),
        "valid": len(split) - round(0.8 * len(split)),
    }


@given(st.floats(0, 0.75), SEEDS)
@quickly
def test_heldout_combinations_are_unseen_up_to_three_quarters(fraction: float, seed: int) -> None:
    split = splits.norman_ood(SCREEN, fraction=fraction, seed=seed)
    tested = set(CONDITION[split == "test"])
    trained = set(CONDITION[split.isin(["train", "valid"])]) & set(PAIRS)
    assert tested.isdisjoint(trained)
    assert len(trained) == round(fraction * len(PAIRS))
    assert len(tested) == len(PAIRS) - round(0.75 * len(PAIRS))
    # a fifth of the cells of combinations is for tests, of which these are the tested ones'
    assert 0 < (split == "test").sum() <= 0.2 * COMBINED.sum() + 1


@given(SEEDS)
@quickly
def test_at_one_everything_is_seen_and_the_shares_are_64_16(seed: int) -> None:
    whole = splits.norman_ood(SCREEN, fraction=1, seed=seed)
    efficient = splits.norman_data_efficiency(SCREEN, fraction=1, seed=seed)
    for split in (whole, efficient):
        counts = split[COMBINED].value_counts()
        assert counts["train"] == round(0.64 * COMBINED.sum())
        assert counts["valid"] == round(0.8 * COMBINED.sum()) - counts["train"]
    assert (efficient == "test").sum() == COMBINED.sum() - round(0.8 * COMBINED.sum())
    assert "unused" not in set(efficient)
    # Both experiments deal the same cells: the test of one is part of the other's.
    assert cells(whole, "test") <= cells(efficient, "test")
    assert cells(whole, "train") == cells(efficient, "train")


@given(st.floats(0, 1), SEEDS)
@quickly
def test_data_efficiency_takes_its_share_of_cells(fraction: float, seed: int) -> None:
    split = splits.norman_data_efficiency(SCREEN, fraction=fraction, seed=seed)
    every = splits.norman_data_efficiency(SCREEN, fraction=1, seed=seed)
    for name in ("train", "valid"):
        of_all = (every[COMBINED] == name).sum()
        assert (split[COMBINED] == name).sum() == round(fraction * of_all)


def test_the_papers_fractions() -> None:
    sizes = [
        len(cells(splits.norman_ood(SCREEN, fraction=fraction), "train")) for fraction in FRACTIONS
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_split(kind: Split) -> None:
    singles = Screen.from_anndata(make_adata(labels=SINGLES))
    with pytest.raises(InputError, match="the screen has no combinations"):
        kind(singles, fraction=0.5)
    with pytest.raises(InputError, match=r"fraction is 1\.5: expected a number between 0 and 1"):
        kind(SCREEN, fraction=1.5)
    with pytest.raises(InputError, match="seed is -1"):
        kind(SCREEN, fraction=1.0, seed=-1)


def test_one_combination_cannot_be_trained_on_and_held_out() -> None:
    one = Screen.from_anndata(make_adata(labels=("control", "A", "B", "A+B")))
    with pytest.raises(InputError, match="the screen has 1 combinations: expected two or more"):
        splits.norman_ood(one, fraction=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_never_alone_is_not_tested(kind: Split) -> None:
    """At no fraction is anything tested that fraction 0 cannot have learned of."""
    labels = ("control", "A", "B", "C", "A+B", "A+C", "B+C", "A+D", "B+D", "C+D")
    screen = Screen.from_anndata(make_adata(n_cells=600, labels=labels))
    condition = pd.Series(np.array(screen.condition_names)[screen.condition], screen.cells)
    for fraction, seed in itertools.product((0.0, 0.5, 1.0), range(4)):
        with pytest.warns(UserWarning, match="3 of 6 combinations are not tested"):
            split = kind(screen, fraction=fraction, seed=seed)
        tested = condition[split == "test"].unique()
        assert len(tested)
        assert not any("D" in name for name in tested)
    assert {"A+D", "B+D", "C+D"} <= set(condition[split == "train"])  # but trained on
    never = Screen.from_anndata(make_adata(labels=("control", "A", "B", "A+C", "B+C")))
    with pytest.raises(InputError, match="no combination can be tested"):
        kind(never, fraction=0.5)
