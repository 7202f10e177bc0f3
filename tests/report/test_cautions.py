"""Cautions: each is given if, and only if, the numbers call for it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from helpers.report_tables import cells, history, inclusion, mechanisms, report_tables, scores
from samsvae.report.tables import cautions

AGREEING = pd.DataFrame(
    {"mask_jaccard": [0.9], "mask_jaccard_chance": [0.1], "effect_pearson": [0.99]}
)
CONDITIONS = ["A", "B", "C", "D", "E", "F"]


def cautions_of(**changed: Any) -> dict[str, str]:
    changed = {"stability": AGREEING, **changed}
    return {one.title: one.text for one in cautions(report_tables(**changed))}


def test_a_sound_result_gives_no_caution() -> None:
    assert cautions_of() == {}


def few() -> pd.DataFrame:
    table = cells()
    table.loc["B", "total"] = 29
    return table


def confounded() -> pd.DataFrame:
    table = cells()
    table.loc["C", "estimable"] = False
    return table


@pytest.mark.parametrize(
    ("title", "changed", "words"),
    [
        ("Still improving", {"history": history(improving=True)}, "--max-steps"),
        (
            "No validation cells",
            {"history": history().assign(valid_elbo=float("nan"))},
            "error rates",
        ),
        ("Few cells", {"cells": few()}, "1 of 5 conditions (B) has fewer than 30 cells"),
        ("Confounded with batches", {"cells": confounded()}, "1 of 5 conditions (C) has no"),
        ("Unexpressed genes", {"unexpressed": ("g1", "g2")}, "2 genes have no count"),
        ("Not evaluated", {"scores": None, "missing": {"evaluation": "do it"}}, "do it"),
        (
            "A baseline wins",
            {"scores": scores(ate_pearson=0.4)},
            "ate_pearson: condition-mean 0.500, sams-vae 0.400",
        ),
        ("A baseline wins", {"scores": scores(rmse=0.5)}, "rmse: condition-mean 0.400"),
        ("Intervals are off", {"scores": scores(coverage_90=0.7)}, "too narrow"),
        ("Intervals are off", {"scores": scores(coverage_90=1.01)}, "too wide"),
        (
            "Intervals are off",
            {"scores": scores(variance_ratio=0.7)},
            "0.60 to 0.80): they are too",
        ),
        (
            "Coverage is uninformative",
            {"scores": scores(coverage_90_zero_width=0.89)},
            "as many observed effects lie in intervals of no width",
        ),
        ("Axes are not identified", {"notes": ("nothing tells their axes apart",)}, "Nothing"),
        ("No mechanism found", {"mechanisms": mechanisms(["A"]).iloc[:0]}, "1/2"),
        (
            "Shifts are dense",
            {"inclusion": inclusion(CONDITIONS).assign(probability=0.9)},
            "100% of the pairs",
        ),
        ("One seed", {"stability": None}, "samsvae compare"),
        ("Seeds disagree on mechanisms", {"stability": AGREEING.assign(mask_jaccard=0.2)}, "20%"),
        ("Seeds disagree on effects", {"stability": AGREEING.assign(effect_pearson=0.8)}, "0.80"),
    ],
)
def test_each_problem_gives_one_caution(title: str, changed: dict[str, Any], words: str) -> None:
    found = cautions_of(**changed)
    assert set(found) == {title}
    assert words in found[title]


def test_the_technical_replicate_is_no_baseline() -> None:
    assert cautions_of(scores=scores(ate_pearson=0.55)) == {}  # the replicate has 0.7


def test_names_are_cut_short_and_counted() -> None:
    names = [f"P{i:03d}" for i in range(100)]
    text = cautions_of(cells=cells(names, n_cells=5))["Few cells"]
    assert "100 of 100 conditions (P000, " in text
    assert "and 92 more" in text
