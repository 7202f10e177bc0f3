"""Conditions as text and as rows of dosage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samsvae import InputError
from samsvae.data.conditions import ConditionParser, dosage_rows

NOTATION = ConditionParser()
KNOWN = ("CEBPA", "KLF1", "drugA")

# Doses from 1e16 on are left to `test_doses_with_an_exponent_round_trip`.
DOSES = st.one_of(st.just(1.0), st.floats(1e-30, 1e30))
NAMES = st.text(st.characters(exclude_characters="+@", exclude_categories=["Cs"]), min_size=1)
CONDITIONS = st.dictionaries(
    NAMES.filter(lambda name: name == name.strip() and name != "control"), DOSES, max_size=4
)


@given(CONDITIONS)
@settings(deadline=None)
def test_text_round_trip(condition: dict[str, float]) -> None:
    assert NOTATION.read(NOTATION.write(condition), [*condition, "another"]) == condition


@given(CONDITIONS)
@settings(deadline=None)
def test_order_of_parts_does_not_matter(condition: dict[str, float]) -> None:
    parts = NOTATION.write(condition).split("+")
    read = [NOTATION.read("+".join(p), list(condition)) for p in itertools.permutations(parts)]
    assert {NOTATION.write(one) for one in read} == {NOTATION.write(condition)}


@pytest.mark.parametrize(("separator", "dose"), [("+", 1e20), ("-", 1e-5)])
def test_doses_with_an_exponent_round_trip(separator: str, dose: float) -> None:
    parser = ConditionParser(separator=separator)
    assert parser.read(parser.write({"A": dose}), ["A"]) == {"A": dose}


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("control", []),
        (" control ", []),
        ("A", ["A"]),
        ("B+A", ["B", "A"]),
        (" B + A ", ["B", "A"]),
        ("A-B", ["A-B"]),
    ],
)
def test_parts(label: str, parts: list[str]) -> None:
    assert NOTATION.parts(label) == parts


def test_parts_with_another_separator_and_control() -> None:
    parser = ConditionParser(control="neg_ctl", separator="_")
    assert parser.parts("neg_ctl") == []
    assert parser.parts("B_A+C") == ["B", "A+C"]
    assert parser.write({"B": 1, "A": 1}) == "A_B"
    assert parser.write({}) == "neg_ctl"


@pytest.mark.parametrize("label", ["A+", "+A", "A++B", "A+ ", "+", "", "  "])
def test_label_with_an_empty_part(label: str) -> None:
    with pytest.raises(InputError, match="has an empty part: expected perturbations joined by"):
        NOTATION.parts(label)


@pytest.mark.parametrize("label", ["A+A", "A+B+ A"])
def test_label_with_a_repeated_part(label: str) -> None:
    with pytest.raises(InputError, match="names a perturbation twice"):
        NOTATION.parts(label)


def test_b_and_a_is_a_and_b() -> None:
    assert NOTATION.condition("B+A") == NOTATION.condition("A+B") == {"A": 1.0, "B": 1.0}
    assert NOTATION.write(NOTATION.condition("B+A")) == "A+B"


def test_control_as_a_part_adds_nothing() -> None:
    assert NOTATION.condition("A+control") == NOTATION.condition("control+A") == {"A": 1.0}
    assert NOTATION.read("KLF1+control", KNOWN) == {"KLF1": 1.0}
    assert NOTATION.condition("control") == NOTATION.read("control", KNOWN) == {}


def test_doses_belong_to_the_parts_as_they_are_written() -> None:
    assert NOTATION.condition("B+A", [0.5, 2.0]) == {"B": 0.5, "A": 2.0}


def test_dose_zero_was_not_received() -> None:
    assert NOTATION.condition("B+A", [0.0, 2.0]) == {"A": 2.0}
    assert NOTATION.read("KLF1@0+CEBPA", KNOWN) == {"CEBPA": 1.0}
    assert NOTATION.write(NOTATION.condition("A", [0.0])) == "control"


@pytest.mark.parametrize("doses", [[1.0], [1.0, 2.0, 3.0], []])
def test_one_dose_per_part(doses: list[float]) -> None:
    with pytest.raises(InputError, match=f"'B\\+A' has 2 perturbations but {len(doses)} doses"):
        NOTATION.condition("B+A", doses)


@pytest.mark.parametrize(
    ("text", "doses"),
    [(2, [2.0]), (0.5, [0.5]), ("3", [3.0]), ("0.5+2", [0.5, 2.0]), (" 0 + 1e-3 ", [0.0, 1e-3])],
)
def test_doses(text: object, doses: list[float]) -> None:
    assert NOTATION.doses(text) == doses


@pytest.mark.parametrize(
    "text", ["high", "", -1, -0.5, "-1", np.nan, "nan", np.inf, "inf", "0.5+", "0.5+x", "1+-2"]
)
def test_dose_that_is_not_a_number_of_at_least_0(text: object) -> None:
    with pytest.raises(InputError, match="is not a number of at least 0, nor several joined"):
        NOTATION.doses(text)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({}, "control"),
        ({"KLF1": 1.0}, "KLF1"),
        ({"KLF1": 1.0, "CEBPA": 1.0}, "CEBPA+KLF1"),
        ({"drugA": 0.5}, "drugA@0.5"),
        ({"drugA": 2, "CEBPA": 1}, "CEBPA+drugA@2"),
    ],
)
def test_write(condition: dict[str, float], text: str) -> None:
    assert NOTATION.write(condition) == text
    assert NOTATION.read(text, KNOWN) == condition


def test_name_with_an_at_sign_is_a_name_where_it_is_known() -> None:
    assert NOTATION.read("drug@5", ["drug@5"]) == {"drug@5": 1.0}
    assert NOTATION.read("drug@5@0.5", ["drug@5"]) == {"drug@5": 0.5}
    assert NOTATION.read("drug@5", ["drug"]) == {"drug": 5.0}


@pytest.mark.parametrize(
    ("text", "name", "nearest"),
    [("KLF1+KLF", "KLF", "KLF1"), ("KLF@2", "KLF", "KLF1"), ("cebpa", "cebpa", "cebpb")],
)
def test_unknown_perturbation_names_the_nearest(text: str, name: str, nearest: str) -> None:
    message = f"no perturbation '{name}': the nearest is '{nearest}'"
    with pytest.raises(InputError, match=message):
        NOTATION.read(text, ("KLF1", "cebpb", "TP53"))


def test_unknown_perturbation_near_none_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="no perturbation 'zzz': there are 'CEBPA', 'KLF1'"):
        NOTATION.read("zzz", KNOWN)


def test_perturbation_at_two_doses() -> None:
    with pytest.raises(InputError, match="names 'KLF1' twice"):
        NOTATION.read("KLF1+KLF1@2", KNOWN)


def test_bad_dose_behind_the_at_sign() -> None:
    with pytest.raises(InputError, match="the dosage 'x' is not a number"):
        NOTATION.read("KLF1@x", KNOWN)


@given(st.lists(st.dictionaries(st.sampled_from(KNOWN), st.integers(1, 9)), max_size=5))
@settings(deadline=None)
def test_rows(conditions: list[dict[str, int]]) -> None:
    dosage = dosage_rows(conditions, KNOWN)
    expected = np.array([[c.get(name, 0) for name in KNOWN] for c in conditions])
    assert dosage.shape == (len(conditions), len(KNOWN))
    assert dosage.has_canonical_format
    np.testing.assert_array_equal(np.diff(dosage.indptr), [len(c) for c in conditions])
    np.testing.assert_array_equal(dosage.toarray(), expected.reshape(dosage.shape))


def test_rows_of_an_unknown_perturbation() -> None:
    with pytest.raises(InputError, match="never seen in training: 'TP53'"):
        dosage_rows([{"KLF1": 1.0}, {"TP53": 1.0}], KNOWN)


@pytest.mark.parametrize("dose", [1e39, 1e-50, -1e-40])
def test_doses_beyond_single_precision(dose: float) -> None:
    with pytest.raises(InputError, match="one above 0 lies between 1e-30 and 1e\\+30"):
        NOTATION.doses(dose)


@pytest.mark.parametrize("separator", [" ", "@", ".", "and", "1"])
def test_separators_that_could_stand_in_a_name_or_number(separator: str) -> None:
    with pytest.raises(InputError, match="expected what joins perturbations"):
        ConditionParser(separator=separator)


def test_control_as_a_part_needs_no_dose() -> None:
    assert NOTATION.condition("A+control", [0.5]) == {"A": 0.5}
