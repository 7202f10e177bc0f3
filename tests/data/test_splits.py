"""Splits: fractions, disjoint and exhaustive, growing, the same at the same seed."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.screens import make_adata
from samsvae import InputError, Screen, splits

SINGLES = ("control", "A", "B", "C", "D", "E")
PAIRS = tuple("+".join(pair) for pair in itertools.combinations("ABCDE", 2))
SCREEN = Screen.from_anndata(make_adata(n_cells=320, labels=(*SINGLES, *PAIRS)))
CONDITION = pd.Series(np.array(SCREEN.condition_names)[SCREEN.condition], SCREEN.cells)

SEEDS = st.integers(0, 2**32)
FRACTIONS = st.floats(0, 1)
TWO_FRACTIONS = st.tuples(FRACTIONS, FRACTIONS).map(sorted)


def cells(split: pd.Series, *names: str) -> set[str]:
    return set(split.index[split.isin(names)])


def combinations(split: pd.Series, *names: str) -> set[str]:
    return set(CONDITION[list(cells(split, *names))]) - set(SINGLES)


@st.composite
def three_fractions(draw: st.DrawFn) -> tuple[float, float, float]:
    train = draw(FRACTIONS)
    valid = draw(st.floats(0, 1 - train))
    return train, valid, 1 - train - valid


@given(three_fractions(), SEEDS)
@settings(deadline=None)
def test_random_takes_its_fractions(fractions: tuple[float, float, float], seed: int) -> None:
    split = splits.random(SCREEN, seed=seed, fractions=fractions)
    sizes = [len(cells(split, name)) for name in ("train", "valid", "test")]
    np.testing.assert_allclose(sizes, np.multiply(fractions, len(SCREEN)), atol=1 + 1e-6)
    assert sum(sizes) == len(SCREEN)


def test_random_is_64_16_20_by_default() -> None:
    sizes = splits.random(SCREEN[:300]).value_counts()
    assert sizes.to_dict() == {"train": 192, "valid": 48, "test": 60}


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.4, 0.2), (0.5, 0.5, 0.5)])
def test_random_refuses_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="expected three numbers that sum to 1"):
        splits.random(SCREEN, fractions=fractions)


@pytest.mark.parametrize(
    "split",
    [
        splits.random(SCREEN, seed=1),
        splits.heldout_combinations(SCREEN, seed=1),
        splits.data_efficiency(SCREEN, fraction=1, seed=1),
    ],
    ids=["random", "heldout_combinations", "data_efficiency"],
)
def test_split_is_disjoint_and_exhaustive(split: pd.Series) -> None:
    screen = SCREEN.with_split(split)
    names = [name for part in (screen.train, screen.valid, screen.test) for name in part.cells]
    assert all(len(part) for part in (screen.train, screen.valid, screen.test))
    assert len(names) == len(set(names))
    assert set(names) == set(SCREEN.cells)


@given(FRACTIONS, SEEDS)
@settings(deadline=None, max_examples=20)
def test_same_seed_same_split(fraction: float, seed: int) -> None:
    for split in (
        lambda seed: splits.random(SCREEN, seed=seed),
        lambda seed: splits.heldout_combinations(SCREEN, fraction=fraction, seed=seed),
        lambda seed: splits.data_efficiency(SCREEN, fraction=fraction, seed=seed),
    ):
        pd.testing.assert_series_equal(split(seed), split(seed))
        assert not split(seed).equals(split(seed + 1))


@given(FRACTIONS, SEEDS)
@settings(deadline=None)
def test_heldout_combinations_are_never_seen(fraction: float, seed: int) -> None:
    split = splits.heldout_combinations(SCREEN, fraction=fraction, seed=seed)
    heldout = combinations(split, "test")
    assert set(split) <= {"train", "valid", "test"}
    assert len(heldout) == round(fraction * len(PAIRS))
    assert heldout.isdisjoint(CONDITION[split != "test"])
    assert set(CONDITION[split == "test"]) == heldout  # neither singles nor controls


@given(TWO_FRACTIONS, SEEDS)
@settings(deadline=None)
def test_heldout_combinations_grow(fractions: list[float], seed: int) -> None:
    few, many = (splits.heldout_combinations(SCREEN, fraction=f, seed=seed) for f in fractions)
    assert cells(few, "test") <= cells(many, "test")
    assert cells(few, "train") >= cells(many, "train")
    assert cells(few, "valid") >= cells(many, "valid")


@pytest.mark.parametrize("valid", [0, 0.2, 1])
def test_valid_is_a_share_of_the_other_cells(valid: float) -> None:
    split = splits.heldout_combinations(SCREEN, valid=valid)
    share = (split[split != "test"] == "valid").mean()
    assert share == pytest.approx(valid, abs=0.07)
    assert valid not in (0, 1) or share == valid


@given(TWO_FRACTIONS, SEEDS)
@settings(deadline=None)
def test_data_efficiency_grows_under_the_same_test(fractions: list[float], seed: int) -> None:
    few, many = (splits.data_efficiency(SCREEN, fraction=f, seed=seed) for f in fractions)
    assert cells(few, "train") <= cells(many, "train")
    assert cells(few, "valid") <= cells(many, "valid")
    assert cells(few, "unused") >= cells(many, "unused")
    assert cells(few, "test") == cells(many, "test")
    assert cells(few, "test") == cells(splits.heldout_combinations(SCREEN, seed=seed), "test")


@given(FRACTIONS, FRACTIONS.filter(lambda f: f <= 0.9), SEEDS)
@settings(deadline=None)
def test_data_efficiency_uses_its_share(fraction: float, test: float, seed: int) -> None:
    split = splits.data_efficiency(SCREEN, fraction=fraction, test=test, seed=seed)
    heldout = combinations(split, "test")
    used = combinations(split, "train", "valid")
    unused = combinations(split, "unused")
    assert len(heldout) == round(test * len(PAIRS))
    assert len(used) == round(fraction * (len(PAIRS) - len(heldout)))
    assert len(heldout) + len(used) + len(unused) == len(PAIRS)
    assert heldout.isdisjoint(CONDITION[split.isin(["train", "valid"])])
    assert set(CONDITION[split == "unused"]) == unused  # neither singles nor controls


def test_data_efficiency_from_singles_alone_to_all_but_the_test() -> None:
    none = splits.data_efficiency(SCREEN, fraction=0, seed=3)
    every = splits.data_efficiency(SCREEN, fraction=1, test=0.4, valid=0.1, seed=3)
    assert set(CONDITION[none.isin(["train", "valid"])]) == set(SINGLES)
    same = splits.heldout_combinations(SCREEN, fraction=0.4, valid=0.1, seed=3)
    pd.testing.assert_series_equal(every, same)


def test_unused_cells_are_in_no_part() -> None:
    split = splits.data_efficiency(SCREEN, fraction=0.5)
    screen = SCREEN.with_split(split)
    n_unused = len(cells(split, "unused"))
    assert n_unused > 0
    assert len(screen.train) + len(screen.valid) + len(screen.test) == len(SCREEN) - n_unused
    assert screen.summary()["unused"].sum() == n_unused


def test_split_follows_the_names_of_the_cells() -> None:
    subset = SCREEN[::-3]
    split = splits.heldout_combinations(subset)
    assert list(split.index) == list(subset.cells)
    assert subset.with_split(split).test.conditions == tuple(sorted(combinations(split, "test")))


def test_screen_without_combinations() -> None:
    screen = Screen.from_anndata(make_adata(labels=SINGLES))
    with pytest.raises(InputError, match="no combinations are left: no condition has several"):
        splits.heldout_combinations(screen)
    with pytest.raises(InputError, match="no combinations are left: no condition has several"):
        splits.data_efficiency(screen, fraction=0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["fraction", "valid"])
def test_share_out_of_range(name: str, share: float) -> None:
    with pytest.raises(InputError, match=f"{name} is .*: expected a number between 0 and 1"):
        splits.heldout_combinations(SCREEN, **{name: share})
    with pytest.raises(InputError, match=f"{name} is .*: expected a number between 0 and 1"):
        splits.data_efficiency(SCREEN, **{"fraction": 0.5, name: share})


def test_with_split_matches_cells_by_name() -> None:
    split = splits.random(SCREEN)
    shuffled = split.sample(frac=1, random_state=0)
    assert not shuffled.index.equals(split.index)
    assert list(SCREEN.with_split(shuffled).split) == list(split)
    subset = SCREEN[::-2]
    assert list(subset.with_split(shuffled).split) == list(split[::-2])


def test_with_split_in_the_order_of_the_cells() -> None:
    screen = SCREEN[:3].with_split(["test", "train", "unused"])
    assert list(screen.test.cells) == [SCREEN.cells[0]]
    assert list(screen.train.cells) == [SCREEN.cells[1]]
    assert len(screen.valid) == 0
    assert SCREEN.split is None


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train"] * 319, "the split has 319 values for 320 cells"),
        (["train"] * 319 + ["tset"], "no split 'tset': the nearest is 'test'"),
        (pd.Series("train", SCREEN.cells[2:]), "the split lacks 2 of 320 cells: 'cell0', 'cell1'"),
        (
            pd.Series("train", [*SCREEN.cells, "cell7"]),
            r"1 cell names occur more than once, 'cell7' \(2 of 321\): the split",
        ),
        (pd.Series(np.nan, SCREEN.cells), "no split 'nan'"),
    ],
)
def test_with_split_refuses(split: pd.Series | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SCREEN.with_split(split)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_stratified_deals_every_condition(sizes: list[int], seed: int) -> None:
    names = ["control", *(f"P{i}" for i in range(len(sizes) - 1))]
    labels = np.random.default_rng(0).permutation(np.repeat(names, sizes))
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    screen = Screen.from_anndata(AnnData(np.ones((len(labels), 2)), obs=obs))
    split = splits.stratified(screen, seed=seed)
    assert split.index.equals(screen.cells)
    assert split.equals(splits.stratified(screen, seed=seed))
    table = screen.with_split(split).summary().reindex(columns=["train", "valid", "test"])
    for name, n in zip(names, sizes, strict=True):
        train, valid, test = table.loc[name].fillna(0)
        assert train + valid + test == n
        assert train >= 1
        assert abs(train - 0.64 * n) <= 1
        assert abs(test - 0.2 * n) <= 1


def test_perturbations_are_held_out_alone_and_combined(screen: Screen) -> None:
    folds = [splits.heldout_perturbations(screen, n_folds=3, fold=i, seed=1) for i in range(3)]
    held = []
    for split in folds:
        divided = screen.with_split(split)
        parts = [
            {part for name in cells.conditions for part in screen.registry.read(name)}
            for cells in (divided.test, divided.train)
        ]
        only = parts[0] - parts[1]
        for name in divided.test.conditions:
            assert only & set(screen.registry.read(name))
        assert divided.train.is_control.any()
        assert not divided.test.is_control.any()
        held.append(only)
    assert set.union(*held) == set(screen.perturbations)
    assert sum(map(len, held)) == len(screen.perturbations)


def test_folds_that_do_not_exist_are_refused(screen: Screen) -> None:
    with pytest.raises(InputError, match="folds"):
        splits.heldout_perturbations(screen, n_folds=3, fold=3)
    with pytest.raises(InputError, match="fraction of 1"):
        splits.heldout_perturbations(screen, fraction=1.0)


def test_pairs_of_perturbation_and_context_are_held_out_whole() -> None:
    adata = make_adata()
    screen = Screen.from_anndata(adata, context_key="batch")
    split = splits.heldout_contexts(screen, fraction=0.34, seed=1)
    tested = adata.obs.loc[split == "test"]
    others = adata.obs.loc[split != "test"]
    rows = [set(zip(one["perturbation"], one["batch"], strict=True)) for one in (tested, others)]
    assert rows[0]
    assert not rows[0] & rows[1]
    assert {"A", "B", "C"} <= {part for name, _ in rows[1] for part in name.split("+")}
    assert "control" not in {name for name, _ in rows[0]}
    with pytest.raises(InputError, match="context_key"):
        splits.heldout_contexts(Screen.from_anndata(adata))


def test_contexts_without_control_cells_are_not_held_out() -> None:
    adata = make_adata(n_cells=320)
    adata.obs["line"] = np.resize(["a", "b", "c"], 320)
    adata = adata[(adata.obs["line"] != "c") | (adata.obs["perturbation"] != "control")].copy()
    screen = Screen.from_anndata(adata, context_key="line")
    for seed in range(20):
        split = splits.heldout_contexts(screen, fraction=0.4, seed=seed)
        tested = adata.obs.loc[split == "test"]
        assert set(tested["line"]) <= {"a", "b"}


def test_perturbations_that_are_only_in_combinations_stay_in_training() -> None:
    labels = ("control", "A", "B", "A+C")
    adata = make_adata(n_cells=320, labels=labels)
    adata.obs["line"] = np.repeat(["a", "b"], 160)
    screen = Screen.from_anndata(adata, context_key="line")
    for seed in range(20):
        divided = screen.with_split(splits.heldout_contexts(screen, fraction=0.5, seed=seed))
        trained, tested = (
            {part for name in cells.conditions for part in screen.registry.read(name)}
            for cells in (divided.train, divided.test)
        )
        assert tested <= trained
