"""Inclusion, pathways, stability and recovery of masks, against independent values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.special import logit
from sklearn.metrics import jaccard_score, matthews_corrcoef
from torch import nn
from torch.distributions import Bernoulli

from conftest import make_adata
from samsvae import CPAVAE, SAMSVAE, ConditionalVAE, InputError, Screen, SVAEPlus
from samsvae.estimators import ESTIMATORS
from samsvae.estimators.base import Estimator
from samsvae.evaluation import pathways, stability
from samsvae.evaluation.pathways import pathway_score, read_gmt
from samsvae.metrics.masks import (
    mask_jaccard,
    mask_matthews,
    mask_score,
    matched_overlap,
    mean_correlation,
)
from samsvae.model.mask import MASKS, BernoulliMask

TINY: dict[str, Any] = {"n_latent": 4, "n_hidden": 6}
Kind = type[Estimator]


def read(adata: AnnData) -> Screen:
    return Screen.from_anndata(adata, split_key="split")


def shaken(kind: Kind, screen: Screen, *, seed: int = 0, **options: Any) -> Estimator:
    """Return a model away from where its parameters start, taken as trained."""
    narrow = {"n_hidden_embedding": 6} if kind is SAMSVAE else {}
    model = kind(screen, **TINY, **narrow, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.is_trained = True
    return model


@pytest.fixture(scope="module")
def family() -> dict[Kind, list[Estimator]]:
    """Return two models of each kind, of different seeds. Shared: do not change them."""
    screen = read(make_adata())
    return {kind: [shaken(kind, screen, seed=seed) for seed in (0, 1)] for kind in ESTIMATORS}


def fails(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


def masks(*shape: int, seed: int, share: float = 0.4) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def padded(mask: np.ndarray, width: int) -> np.ndarray:
    return np.pad(mask, ((0, 0), (0, width - mask.shape[1])))


def over_orders(a: np.ndarray, b: np.ndarray, score: Callable[..., float]) -> float:
    """Return the best score of two masks over all orders of the latent dimensions of one."""
    width = max(a.shape[1], b.shape[1])
    a, b = padded(a, width), padded(b, width)
    orders = itertools.permutations(range(width))
    return max(score(b.ravel(), a[:, list(order)].ravel()) for order in orders)


SHAPES = [((9, 4), (9, 4)), ((9, 5), (9, 3)), ((9, 3), (9, 5)), ((1, 4), (1, 4))]


@pytest.mark.parametrize(("first", "second"), SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_masks_are_matched_as_well_as_any_order_does(
    first: tuple[int, int], second: tuple[int, int], seed: int
) -> None:
    a, b = masks(*first, seed=seed), masks(*second, seed=seed + 10)
    a[0], b[0] = True, True  # every dimension is used
    assert matched_overlap(a, b) == over_orders(a, b, lambda x, y: int((x & y).sum()))
    assert mask_jaccard(a, b) == pytest.approx(over_orders(a, b, jaccard_score))
    if len(a) > 1:
        best = over_orders(a, b, matthews_corrcoef)
        assert mask_matthews(a, b) == pytest.approx(best)


def test_the_matthews_correlation_tells_chance_from_recovery() -> None:
    true = masks(40, 6, seed=0, share=0.3)
    unused = np.zeros((40, 7), bool)
    other = masks(40, 6, seed=1, share=0.3)
    assert mask_matthews(true[:, [3, 0, 5, 1, 4, 2]], true) == 1
    assert mask_matthews(np.hstack([unused, true]), true) == 1
    assert mask_matthews(np.hstack([unused, other]), true) == mask_matthews(other, true)
    assert mask_matthews(np.ones_like(true), true) == 0 < mask_score(np.ones_like(true), true).f1
    assert mask_matthews(np.zeros_like(true), true) == 0
    assert mask_matthews(other, np.zeros_like(true)) == 0


def test_the_mean_correlation_is_that_of_the_best_match() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 3))
    fitted = true @ rng.normal(size=(3, 4)) + rng.normal(size=(50, 4))
    r = np.abs(np.corrcoef(fitted.T, true.T)[:4, 4:])
    by_hand = max(r[list(p), range(3)].mean() for p in itertools.permutations(range(4), 3))
    assert mean_correlation(fitted, true) == pytest.approx(by_hand)
    narrow = max(r[range(2), list(p)].sum() for p in itertools.permutations(range(3), 2)) / 3
    assert mean_correlation(fitted[:, :2], true) == pytest.approx(narrow)


def test_states_are_recovered_up_to_order_sign_scale_and_origin() -> None:
    true = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    fitted = true[:, [2, 0, 1]] * np.array([-3.0, 0.1, 2.0]) + 7
    assert mean_correlation(fitted, true) == pytest.approx(1)
    constant = np.where([True, False, False], fitted, 0.1)
    best = np.abs(np.corrcoef(fitted[:, 0], true.T)[0, 1:]).max()
    assert mean_correlation(constant, true) == pytest.approx(best / 3)
    assert mean_correlation(np.full_like(true, 0.1), true) == 0
    fails(
        lambda: mean_correlation(fitted[1:], true), "^got fitted states of 29 cells and true .* 30"
    )


def test_the_ends_of_the_jaccard_index() -> None:
    mask = masks(20, 5, seed=0)
    assert mask_jaccard(mask[:, ::-1], mask) == 1
    assert mask_jaccard(np.hstack([mask, np.zeros((20, 3), bool)]), mask) == 1
    above = np.arange(20)[:, None] < 10
    assert mask_jaccard(mask & above, mask & ~above) == 0
    assert mask_jaccard(mask & False, mask) == 0
    assert np.isnan(mask_jaccard(mask & False, mask & False))


# Stability ---------------------------------------------------------------------------------------


@dataclass
class Stub:
    """What is asked of a model, with answers that are given."""

    probabilities: pd.DataFrame
    table: pd.DataFrame
    """Effects on "normalized" by condition, or embeddings."""
    is_trained: bool = True
    scale: str = "normalized"

    def __post_init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.facts = SimpleNamespace(
            conditions=("control", *self.table.index),
            vocabulary=SimpleNamespace(genes=tuple(self.table.columns)),
        )

    def mask_probabilities(self) -> pd.DataFrame:
        return self.probabilities

    def embeddings(self) -> pd.DataFrame:
        return self.table

    def effects(self, conditions: list[str] | None = None, **settings: Any) -> AnnData:
        self.asked.append(settings)
        names = list(self.table.index if conditions is None else conditions)
        stored = ["+".join(sorted(name.split("+"))) for name in names]
        values = self.table.reindex(stored).fillna(0.0).to_numpy()
        obs = pd.DataFrame({"condition": stored}, index=names)
        var = pd.DataFrame(index=list(self.table.columns))
        return AnnData(values, obs=obs, var=var, uns={"scale": self.scale})


NAMES = [f"P{i}" for i in range(12)]
GENES = [f"g{i}" for i in range(7)]


def stub(
    seed: int, *, names: list[str] = NAMES, genes: list[str] = GENES, n_latent: int = 4
) -> Stub:
    rng = np.random.default_rng(seed)
    probabilities = pd.DataFrame(rng.random((len(names), n_latent)), names)
    conditions = [*names, "P0+P1"]
    return Stub(
        probabilities, pd.DataFrame(rng.normal(size=(len(conditions), 7)), conditions, genes)
    )


def test_a_model_in_another_order_is_the_same_model() -> None:
    first = stub(0)
    rng = np.random.default_rng(5)
    rows, latent = rng.permutation(NAMES), rng.permutation(4)
    table = first.table.loc[rng.permutation(first.table.index), rng.permutation(GENES)]
    second = Stub(first.probabilities.loc[rows, latent], table)
    result = stability.stability([first, second]).iloc[0]
    assert result[["first", "second"]].tolist() == [0, 1]
    assert result["n_first"] == result["n_second"] == (first.probabilities.to_numpy() > 0.5).sum()
    assert result["mask_jaccard"] == 1 > result["mask_jaccard_chance"] > 0
    assert result["effect_pearson"] == pytest.approx(1)
    assert result["effect_pearson_median"] == pytest.approx(1)
    third = stub(3)
    for pair, same in (([third, second], [third, first]), ([second, third], [first, third])):
        pd.testing.assert_frame_equal(stability.stability(pair), stability.stability(same))


def test_models_are_compared_over_what_both_have_seen() -> None:
    first, second = stub(0), stub(1, names=[*NAMES[4:], "Q"], n_latent=5)
    second.probabilities.loc["P5"] = np.nan  # never seen in training
    second.table = second.table.drop(index=["P5", "P0+P1"])
    result = stability.stability({"a": first, "b": second}, scale="log", n_particles=9, seed=4)
    row, both = result.iloc[0], ["P4", *NAMES[6:]]
    a, b = (one.probabilities.loc[both].to_numpy() > 0.5 for one in (first, second))
    assert row[["first", "second"]].tolist() == ["a", "b"]
    assert row[["n_first", "n_second"]].tolist() == [a.sum(), b.sum()]
    assert row["mask_jaccard"] == pytest.approx(over_orders(a, b, jaccard_score))
    x, y = (one.table.loc[both].to_numpy() for one in (first, second))
    assert row["effect_pearson"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1])
    own = [np.corrcoef(*pair)[0, 1] for pair in zip(x, y, strict=True)]
    assert row["effect_pearson_median"] == pytest.approx(np.median(own))
    expected = {"scale": "log", "n_particles": 9, "n_draws": 0, "seed": 4, "progress": True}
    assert first.asked == second.asked == [expected]


def test_conditions_are_compared_once_each_and_control_is_not() -> None:
    models = [stub(0), stub(1)]
    once = stability.stability(models, conditions=["P0+P1", "P3"])
    more = stability.stability(models, conditions=["control", "P1+P0", "P3", "P0+P1"])
    pd.testing.assert_frame_equal(once, more)
    x, y = (one.table.loc[["P0+P1", "P3"]].to_numpy().ravel() for one in models)
    assert once["effect_pearson"][0] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_every_pair_of_models_has_a_row() -> None:
    models = [stub(seed) for seed in range(4)]
    result = stability.stability(models)
    pairs = result[["first", "second"]].to_numpy().tolist()
    assert pairs == [[i, j] for i in range(4) for j in range(i + 1, 4)]
    pair = stability.stability([models[1], models[3]])
    pd.testing.assert_series_equal(pair.iloc[0, 2:], result.iloc[4, 2:], check_names=False)


def test_chance_permutes_perturbations() -> None:
    first, second = stub(0), stub(1)
    for one in (first, second):  # the same mask for all of them: no order can matter
        one.probabilities[:] = one.probabilities.iloc[0].to_numpy()
    row = stability.stability([first, second]).iloc[0]
    assert row["mask_jaccard_chance"] == pytest.approx(row["mask_jaccard"])
    many = [f"P{i}" for i in range(200)]
    independent = stability.stability([stub(0, names=many), stub(1, names=many)]).iloc[0]
    assert independent["mask_jaccard_chance"] == pytest.approx(
        independent["mask_jaccard"], abs=0.03
    )
    lone = stability.stability([stub(2, names=["P0"]), stub(3, names=["P0"])]).iloc[0]
    assert lone["mask_jaccard_chance"] == lone["mask_jaccard"]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_stability_of_the_family(family: dict[Kind, list[Estimator]], kind: Kind) -> None:
    models = family[kind]
    options = {"n_particles": 20, "seed": 2, "progress": False}
    row = stability.stability(models, **options).iloc[0]
    x, y = (model.effects(n_draws=0, **options).X for model in models)
    assert row["effect_pearson"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], rel=1e-4)
    if kind is ConditionalVAE:
        assert row.filter(regex="^n_|mask").isna().all()
        return
    a, b = (model.mask_probabilities().to_numpy() > 0.5 for model in models)
    assert row[["n_first", "n_second"]].tolist() == [a.sum(), b.sum()]
    assert row["mask_jaccard"] == pytest.approx(over_orders(a, b, jaccard_score))
    if kind is CPAVAE:
        assert row["mask_jaccard"] == row["mask_jaccard_chance"] == 1


def test_what_cannot_be_compared() -> None:
    first, ask = stub(0), stability.stability
    fails(lambda: ask([first]), "^got 1 models to compare, expected at least two: train another")
    fails(lambda: ask({}), "^got 0 models to compare")
    other = stub(1)
    other.is_trained = False
    fails(lambda: ask({"a": first, "b": other}), "^model 'b' is not trained: call train first")
    genes = stub(1, genes=[*GENES[1:], "h"])
    fails(
        lambda: ask([first, stub(2), genes]), r"^models 0 and 2 have .* genes \(7 and 7, 6 in comm"
    )
    scaled = stub(1)
    scaled.scale = "mean"
    fails(
        lambda: ask([first, scaled]), r"^the models' effects .* scales \(mean, normalized\): give a"
    )
    apart = stub(1, names=["Q", "R"])
    apart.table = apart.table.drop(index="P0+P1")
    fails(lambda: ask([first, apart]), "^models 0 and 1 have no condition in common: expected")


# Pathways ----------------------------------------------------------------------------------------

PERTURBATIONS = [f"P{i:02d}" for i in range(40)]
PATHWAY_OF = {name: "abcd"[i % 4] for i, name in enumerate(PERTURBATIONS)}


def planted(*, in_mask: bool) -> Stub:
    """Return a model whose mask (or embedding) gives a perturbation's pathway away."""
    rng = np.random.default_rng(0)
    pathway = np.arange(40) % 4
    telling = (pathway[:, None] == np.arange(8) % 4) ^ (rng.random((40, 8)) < 0.02)
    telling = np.where(telling, 0.6, 0.4)
    silent = rng.random((40, 8))
    both = (telling, silent) if in_mask else (silent, telling)
    return Stub(*(pd.DataFrame(values, PERTURBATIONS) for values in both))


@pytest.mark.parametrize("in_mask", [True, False])
def test_the_forest_finds_planted_pathways(in_mask: bool) -> None:
    table = pathway_score(planted(in_mask=in_mask), PATHWAY_OF, n_repeats=2)
    assert list(table.index) == ["mask", "embedding", "permuted", "majority"]
    assert list(table.columns) == ["accuracy", "sd"]
    found, not_found = ("mask", "embedding") if in_mask else ("embedding", "mask")
    assert table.loc[found, "accuracy"] > 0.9
    assert table.loc[[not_found, "permuted"], "accuracy"].max() < 0.6
    assert table.loc["majority"].tolist() == [0.25, 0]


class Spy:
    """Stands in for the forest: remembers what it is asked, and answers 0, 1, 2 and so on."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, ...]] = []

    def __call__(self, *arguments: Any) -> float:
        self.calls.append(arguments)
        return float(len(self.calls) - 1)


def test_all_predictors_have_the_same_stratified_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    monkeypatch.setattr(pathways, "_accuracy", spy)
    model = planted(in_mask=True)
    table = pathway_score(model, PATHWAY_OF, seed=3)
    assert len(spy.calls) == 30
    labels = np.array(list(PATHWAY_OF.values()))
    for start in range(0, 30, 3):
        own, embedding, permuted = spy.calls[start : start + 3]
        for _, _, train, test, _ in (own, embedding, permuted):
            assert sorted([*train, *test]) == list(range(40))
            assert np.unique(labels[test], return_counts=True)[1].tolist() == [3, 3, 3, 3]
            assert np.array_equal(test, own[3])
        assert np.array_equal(own[0], model.probabilities > 0.5)
        assert np.array_equal(embedding[0], model.table)
        assert np.array_equal(permuted[0], own[0])
        assert np.array_equal(own[1], labels)
        assert np.array_equal(embedding[1], labels)
        assert sorted(permuted[1]) == sorted(labels)
        assert (permuted[1] != labels).any()
    assert len({tuple(call[3]) for call in spy.calls}) == 10
    assert len({tuple(call[1]) for call in spy.calls}) == 11
    np.testing.assert_allclose(table["accuracy"], [13.5, 14.5, 15.5, 0.25])
    np.testing.assert_allclose(table["sd"][:3], np.std(np.arange(10) * 3, ddof=1))


def test_the_seed_and_the_share_decide_the_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathways, "_accuracy", lambda *a: float(a[3] @ np.arange(len(a[3]))))
    model = planted(in_mask=True)
    tables = [pathway_score(model, PATHWAY_OF, seed=seed) for seed in (0, 0, 1, 2**40)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert len({table.loc["mask", "accuracy"] for table in tables}) == 3
    monkeypatch.setattr(pathways, "_accuracy", lambda *a: float(len(a[3])))
    table = pathway_score(model, PATHWAY_OF, test_share=0.45, n_repeats=2)
    assert table.loc["mask"].tolist() == [18, 0]


def test_the_majority_is_the_share_of_the_largest_pathway() -> None:
    pathway_of = dict(zip(PERTURBATIONS, ["a"] * 8 + ["b"] * 24 + ["c"] * 8, strict=True))
    table = pathway_score(planted(in_mask=True), pathway_of, n_repeats=1, test_share=0.25)
    assert table.loc["majority", "accuracy"] == pytest.approx(0.6, abs=0.05)
    assert table["sd"].isna().all()


def gmt(folder: Path, text: str) -> Path:
    path = folder / "sets.gmt"
    path.write_text(text)
    return path


def members() -> dict[str, list[str]]:
    return {one: [name for name, own in PATHWAY_OF.items() if own == one] for one in "dbca"}


def annotations(folder: Path) -> dict[str, Any]:
    series = pd.Series(PATHWAY_OF)
    shuffled = series.sample(frac=1, random_state=0)
    lines = [f"{name}\tsome words\t" + "\t".join(own) for name, own in members().items()]
    return {
        "mapping": PATHWAY_OF,
        "series": shuffled,
        "categories": shuffled.astype("category"),
        "missing": pd.concat([series, pd.Series({"P00": np.nan, "other": None})]),
        "columns": pd.DataFrame({"gene": shuffled.index, "set": shuffled.to_numpy()}),
        "named": pd.DataFrame(
            {"pathway": shuffled.to_numpy(), "size": 10, "perturbation": shuffled.index}
        ),
        "lists": {name: [*own, own[0]] for name, own in members().items()},
        "sets": {name: set(own) for name, own in members().items()},
        "gmt": gmt(folder, "\n".join(lines) + "\t\n\n"),
        "gmt by name": str(gmt(folder, "\r\n".join(lines))),
    }


def test_annotations_of_all_kinds_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pathways, "_accuracy", lambda x, y, *a: float(x.sum() + (y == "a")[:9].sum())
    )
    model = planted(in_mask=True)
    expected = pathway_score(model, PATHWAY_OF)
    for kind, annotation in annotations(tmp_path).items():
        table = pathway_score(model, annotation)
        pd.testing.assert_frame_equal(table, expected, obj=kind)
        unknown = {"n_unknown": 0}
        assert table.attrs | unknown == expected.attrs | unknown, kind


def test_the_order_of_perturbations_does_not_matter() -> None:
    model = planted(in_mask=True)
    order = np.random.default_rng(1).permutation(PERTURBATIONS)
    mixed = Stub(model.probabilities.loc[order], model.table.loc[order[::-1]])
    table = pathway_score(model, PATHWAY_OF, n_repeats=1)
    backwards = dict(reversed(PATHWAY_OF.items()))
    pd.testing.assert_frame_equal(table, pathway_score(mixed, backwards, n_repeats=1))


def test_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    monkeypatch.setattr(pathways, "_accuracy", spy)
    model = planted(in_mask=True)
    model.probabilities.loc[["P04", "P08"]] = np.nan  # both of pathway a
    lists = members()
    lists["b"] += ["P00", "nobody", "P01"]  # P00 is of a, too; P01 is of b, once more
    lists["e"] = ["P02", "P06", "elsewhere", "P10"]  # of c, too
    lists["f"] = [lists["d"].pop(), lists["d"].pop(), "elsewhere"]
    table = pathway_score(model, lists, n_repeats=1)
    assert table.attrs == {
        "n_perturbations": 40 - 2 - 4 - 2,
        "n_pathways": 4,
        "n_unknown": 2,
        "n_unseen": 2,
        "n_ambiguous": 4,
        "n_small": 2,
        "n_small_pathways": 1,
    }
    labels = spy.calls[0][1]
    assert np.unique(labels, return_counts=True)[1].tolist() == [7, 10, 7, 8]
    used = model.probabilities.drop(index=["P00", "P02", "P04", "P06", "P08", "P10", "P39", "P35"])
    assert np.array_equal(spy.calls[0][0], used > 0.5)
    assert pathway_score(model, lists, n_repeats=1, min_size=2).attrs["n_pathways"] == 5
    assert pathway_score(model, lists, n_repeats=1, min_size=8).attrs["n_small_pathways"] == 3


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_pathways_of_the_family(kind: Kind) -> None:
    letters = "ABCDEFGHIJ"
    screen = read(make_adata(labels=("control", *letters)))
    model = kind(screen, **TINY)
    annotation = {name: "one" if name < "F" else "two" for name in letters}
    fails(lambda: pathway_score(model, annotation), "^the model is not trained: call train first$")
    model.is_trained = True
    if kind is ConditionalVAE:
        fails(lambda: pathway_score(model, annotation), "^a ConditionalVAE has no masks: it displ")
        return
    table = pathway_score(model, annotation, n_repeats=1)
    assert table["accuracy"].between(0, 1).all()
    assert table.attrs["n_perturbations"] == 10
    if kind is CPAVAE:
        assert table.loc["mask", "accuracy"] in (1 / 3, 2 / 3)  # always the same pathway


BAD: list[tuple[Any, str]] = [
    (3, "^the annotation is a int: expected a Series, a DataFrame, a mapping or the path of a GMT"),
    (
        {"P00": "a", "b": ["P01"]},
        "^the annotation's values are list and str: expected strings, the",
    ),
    ({"P00": 1, "P01": 2}, "^the annotation's values are int: expected strings, .*, or lists, the"),
    (
        pd.DataFrame({"pathway": "a"}, PERTURBATIONS),
        "^the annotation has the columns 'pathway': exp",
    ),
    ("nowhere.gmt", "^no file 'nowhere.gmt': expected a GMT file of pathways$"),
    ({}, "^0 pathways have 3 perturbations or more, expected at least two: of 0 perturbations"),
    (
        {"a": ["X", "Y"], "b": ["P00"], "c": ["P00", "P01", "P02", "P03"]},
        r"^1 pathways have 3 .*: of 6 perturbations the model does not know 2 \(it knows 'P00', "
        r"'P01', 'P02' and 37 more\), 0 were not seen in training, 1 are in several pathways$",
    ),
]


@pytest.mark.parametrize(("annotation", "message"), BAD)
def test_annotations_that_cannot_be_used(annotation: Any, message: str) -> None:
    fails(lambda: pathway_score(planted(in_mask=True), annotation), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_repeats": 0}, "^n_repeats is 0"),
        ({"test_share": 1}, "^test_share is 1: expected a number strictly between"),
        ({"min_size": 1}, "^min_size is 1: expected a whole number of at least 2"),
        ({"seed": -1}, "^seed is -1"),
        ({"test_share": 0.07}, "^with test_share 0.07 3 of 40 .* are scored: expected one of each"),
        ({"test_share": 0.93}, "^with test_share 0.93 38 of 40 .*each of the 4 pathways at least"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    fails(lambda: pathway_score(planted(in_mask=True), PATHWAY_OF, **settings), message)


def test_gene_sets_are_read(tmp_path: Path) -> None:
    path = gmt(tmp_path, "ONE\thttp://x\tA\tB \t\n\nTWO\t\tC\r\n")
    assert read_gmt(path) == read_gmt(str(path)) == {"ONE": ["A", "B"], "TWO": ["C"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ONE\tx\tA\nTWO\tx\n", "line 2 of .* has 2 fields: expected a name, a description and"),
        ("ONE A B C", "line 1 of .* has 1 fields: expected a name, .* separated by tabs"),
        ("\tx\tA", "line 1 of .* has 3 fields: expected a name"),
        ("ONE\tx\tA\n\nONE\tx\tB", "line 3 of .* names 'ONE' again: expected each pathway once"),
        ("\n", "is empty: expected a GMT file of pathways"),
    ],
)
def test_gene_sets_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    fails(lambda: read_gmt(gmt(tmp_path, text)), message)


def test_a_packed_file_of_gene_sets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt.gz"
    path.write_bytes(b"\x1f\x8b\x08\xff")
    fails(lambda: read_gmt(path), "cannot be read as text: .*; expected a GMT file, unpacked$")


# Inclusion ---------------------------------------------------------------------------------------

COLUMNS = [
    "perturbation",
    "dimension",
    "probability",
    "prior",
    "log_bayes_factor",
    "shift",
    "n_train_cells",
]


class PriorByDimension(BernoulliMask):
    """A mask whose prior differs between latent dimensions, as `docs/extending.md` makes one."""

    name = "by_dimension"

    def prior(self) -> Bernoulli:
        return Bernoulli(probs=torch.tensor([0.01, 0.1, 0.2, 0.5]))


PRIORS: dict[str, Any] = {
    "bernoulli": 0.05,
    "beta_bernoulli": 2 / 7,
    "beta_bernoulli_point": 2 / 7,
    "by_dimension": np.array([0.01, 0.1, 0.2, 0.5]),
    "svae-plus": 2 / 7,
}


def inferring(mask: str, screen: Screen) -> Estimator:
    beta = {"beta_a": 2.0, "beta_b": 5.0}
    if mask == "svae-plus":
        return shaken(SVAEPlus, screen, **beta)
    return shaken(SAMSVAE, screen, **beta, mask=mask, mask_prob=0.05)


@pytest.mark.parametrize("mask", PRIORS)
def test_inclusion_by_hand(screen: Screen, mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samsvae.estimators.sams_vae.MASKS", [*MASKS, PriorByDimension])
    model = inferring(mask, screen)
    table = model.inclusion()
    assert list(table.columns) == COLUMNS
    probability, embedding = model.mask_probabilities(), model.embeddings()
    assert list(dict.fromkeys(table["perturbation"])) == list(probability.index)
    label = np.array(screen.condition_names)[screen.condition][screen.split == "train"]
    for name, own in table.groupby("perturbation"):
        received = [
            name == part if mask == "svae-plus" else name in part.split("+") for part in label
        ]
        assert set(own["n_train_cells"]) == {sum(received)}
        assert own["probability"].is_monotonic_decreasing
        by_dimension = own.set_index("dimension").loc[list(probability.columns)]
        p = probability.loc[name]
        np.testing.assert_array_equal(by_dimension["probability"], p)
        np.testing.assert_allclose(by_dimension["prior"], np.broadcast_to(PRIORS[mask], 4), 1e-6)
        expected = logit(p) - logit(PRIORS[mask])
        np.testing.assert_allclose(by_dimension["log_bayes_factor"], expected, 1e-5, 1e-5)
        np.testing.assert_allclose(by_dimension["shift"], p * embedding.loc[name])
    assert table["probability"].nunique() > 4


def test_with_a_beta_posterior_the_evidence_is_that_of_its_mean(screen: Screen) -> None:
    model = inferring("beta_bernoulli", screen)
    own: Any = model.module.mechanism.mask
    a, b = (log.detach().double().exp().numpy() for log in (own.log_a, own.log_b))
    table = model.inclusion().pivot(index="perturbation", columns="dimension")
    np.testing.assert_allclose(table["probability"], a / (a + b), rtol=1e-6)
    expected = np.log(a / b) - np.log(2 / 5)
    np.testing.assert_allclose(table["log_bayes_factor"], expected, 1e-5, 1e-5)


def test_evidence_stays_finite_and_sorts_where_probabilities_saturate(screen: Screen) -> None:
    model = inferring("bernoulli", screen)
    logits = torch.tensor([[-900.0, 40.0, 60.0, 0.0], [0, 0, 0, 0], [25, 30, 20, 35]])
    model.module.mechanism.mask.logits = nn.Parameter(logits)
    table = model.inclusion()
    assert table["dimension"][:4].tolist() == ["z2", "z1", "z3", "z0"]
    assert table["dimension"][4:].tolist() == ["z0", "z1", "z2", "z3", "z3", "z1", "z0", "z2"]
    evidence = np.array([60.0, 40.0, 0.0, -900.0]) - logit(0.05)
    np.testing.assert_allclose(table["log_bayes_factor"][:4], evidence)
    assert table["probability"][:4].tolist() == [1, 1, 0.5, 0]


def test_only_perturbations_seen_in_training_have_evidence() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "B", "split"] = "test"
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "test"
    table = inferring("bernoulli", read(adata)).inclusion()
    assert list(dict.fromkeys(table["perturbation"])) == ["A", "C"]
    assert list(table.index) == list(range(8))


def test_models_without_an_inferred_mask_say_so(
    family: dict[Kind, list[Estimator]], screen: Screen
) -> None:
    fails(
        lambda: family[CPAVAE][0].inclusion(),
        "^the mask of a CPAVAE is all ones, not inferred, so there is no evidence for it: emb",
    )
    fails(lambda: family[ConditionalVAE][0].inclusion(), "^a ConditionalVAE has no masks: it disp")
    fails(lambda: SAMSVAE(screen, **TINY).inclusion(), "^the model is not trained: call train")
    assert (family[CPAVAE][0].mask_probabilities() == 1).all(axis=None)
