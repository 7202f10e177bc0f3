"""Cautions: each is given if, and only if, the numbers call for it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from helpers.report_tables import inclusion, mechanisms, report_tables, scores
from samsvae.data.cautions import Caution
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


@pytest.mark.parametrize(
    ("title", "changed", "words"),
    [
        ("Not evaluated", {"scores": None, "missing": {"evaluation": "do it"}}, "do it"),
        (
            "A baseline wins",
            {"scores": scores(ate_pearson=0.4)},
            "condition-mean 0.500, sams-vae 0.400, difference +0.100 (+0.050 to +0.150)",
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


def test_a_baseline_that_is_better_by_chance_does_not_win() -> None:
    assert cautions_of(scores=scores(ate_pearson=0.49)) == {}


def test_cautions_of_the_model_and_the_cells_come_first_if_they_are_serious() -> None:
    own = (Caution("Mild", "m", is_serious=False), Caution("Grave", "g"))
    assert list(cautions_of(cautions=own, stability=None)) == ["Grave", "Mild", "One seed"]
