"""Pathways told from masks by a forest, and annotations of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.messages import fails
from helpers.models import TINY, Kind, Stub
from helpers.screens import make_adata, read
from samsvae import CPAVAE, ConditionalVAE
from samsvae.analysis.gene_sets import pathway_score, read_gmt
from samsvae.estimators import ESTIMATORS

PERTURBATIONS = [f"P{i:02d}" for i in range(40)]
PATHWAY_OF = {name: "abcd"[i % 4] for i, name in enumerate(PERTURBATIONS)}


def planted(*, in_mask: bool) -> Stub:
    """Return a model whose mask (or embedding) gives a perturbation's pathway away."""
    rng = np.random.default_rng(0)
    pathway = np.arange(40) % 4
    telling = (pathway[:, None] == np.arange(8) % 4) ^ (rng.random((40, 8)) < 0.02)
    telling = np.where(telling, 0.6, 0.4)
    unexpressed = rng.random((40, 8))
    both = (telling, unexpressed) if in_mask else (unexpressed, telling)
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


def telling(model: Stub) -> Stub:
    """Return a model whose embedding says what its mask does."""
    return Stub(model.probabilities, (model.probabilities > 0.5).astype(float))


@pytest.mark.parametrize("in_mask", [True, False])
def test_all_predictors_have_the_same_splits(in_mask: bool) -> None:
    table = pathway_score(telling(planted(in_mask=in_mask)), PATHWAY_OF, n_repeats=2, seed=3)
    assert table.loc["mask"].tolist() == table.loc["embedding"].tolist()


@pytest.mark.slow
def test_permuted_pathways_are_named_as_often_as_by_chance() -> None:
    table = pathway_score(planted(in_mask=True), PATHWAY_OF, n_repeats=6)
    # Of one split the standard deviation is at most 1 / 2 root 12; the splits' are not apart.
    assert table.loc["permuted", "accuracy"] == pytest.approx(0.25, abs=0.15)
    assert table.loc["permuted", "sd"] > 0.05
    assert table.loc["mask", "accuracy"] > 0.9


def test_the_accuracy_is_the_mean_over_splits_of_shares_that_are_right() -> None:
    model, n_scored = planted(in_mask=False), 12
    table = pathway_score(model, PATHWAY_OF, n_repeats=2).drop("majority")
    first, second = (
        (table["accuracy"] + sign * table["sd"] / 2**0.5) * n_scored for sign in (-1, 1)
    )
    for right in (first, second):
        np.testing.assert_allclose(right, right.round(), atol=1e-9)
    assert (first != second).any()


@pytest.mark.slow
def test_the_seed_and_the_share_decide_the_splits() -> None:
    pathway = np.arange(40) % 4
    misleading = np.random.default_rng(0).permutation(40)[:10]  # is wrong wherever it is scored
    pathway[misleading] = (pathway[misleading] + 1) % 4
    shown = pd.DataFrame(np.eye(4)[pathway], PERTURBATIONS)
    model = Stub(shown, shown)
    tables = [pathway_score(model, PATHWAY_OF, n_repeats=2, seed=s) for s in (0, 0, 1, 2**40)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert len({table.loc["mask", "accuracy"] for table in tables}) == 3
    right = pathway_score(model, PATHWAY_OF, test_share=0.45, n_repeats=1)["accuracy"] * 18
    np.testing.assert_allclose(right[:3], right[:3].round(), atol=1e-9)


def test_the_majority_is_the_share_of_the_largest_pathway() -> None:
    pathway_of = dict(zip(PERTURBATIONS, ["a"] * 8 + ["b"] * 24 + ["c"] * 8, strict=True))
    table = pathway_score(planted(in_mask=True), pathway_of, n_repeats=2, test_share=0.25)
    np.testing.assert_allclose(table.loc["majority"], [0.6, 0], atol=1e-12)  # in every split
    once = pathway_score(planted(in_mask=True), pathway_of, n_repeats=1, test_share=0.25)
    assert once["sd"].isna().all()


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


@pytest.mark.slow
def test_annotations_of_all_kinds_are_one(tmp_path: Path) -> None:
    model = planted(in_mask=True)
    expected = pathway_score(model, PATHWAY_OF, n_repeats=1)
    for kind, annotation in annotations(tmp_path).items():
        table = pathway_score(model, annotation, n_repeats=1)
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


def test_what_is_left_out_is_counted() -> None:
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
    used = PERTURBATIONS.copy()
    for name in ("P00", "P02", "P04", "P06", "P08", "P10", "P39", "P35"):
        used.remove(name)
    alone = Stub(model.probabilities.loc[used], model.table.loc[used])
    clear = {name: PATHWAY_OF[name] for name in used}
    pd.testing.assert_frame_equal(table, pathway_score(alone, clear, n_repeats=1))
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
    (3, "^annotation is 3: expected a Series or a DataFrame or a mapping"),
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
