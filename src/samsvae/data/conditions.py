"""Conditions as text, "B@2+A", as doses, {A: 1, B: 2}, and as sparse rows of dosage."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from samsvae.errors import InputError, listed, unknown

Condition = Mapping[str, float]
"""Dose by perturbation; control is empty."""
Name: TypeAlias = str | float
ConditionName: TypeAlias = Name | Sequence[Name]
Conditions: TypeAlias = Name | Iterable[ConditionName]
"""One condition or several; a tuple names the parts of one."""

_MIN_DOSE, _MAX_DOSE = 1e-30, 1e30
"""Range of doses other than 0, which are kept in single precision."""
_BRACKET = re.compile(r"\[(?![*?]\])")
"""A bracket of a pattern is not special; around "*" or "?" it makes them stand for themselves."""


@dataclass(frozen=True)
class ConditionParser:
    """Reads and writes conditions.

    A condition is the set of perturbations a cell received, joined by `separator` ("": a label is a
    single name) and sorted, so that "B+A" is "A+B". A dose other than 1 follows an "@":
    "drugA@0.5". The empty set is written as the control label, and control as a part adds nothing:
    "A+control" is "A". `also` holds other names of control, or patterns with "*" and "?".

    >>> parser = ConditionParser()
    >>> parser.read("B@2+A", ["A", "B"])
    {'B': 2.0, 'A': 1.0}
    >>> parser.write({"B": 2.0, "A": 1.0})
    'A+B@2'
    >>> parser = ConditionParser.of(["NT", "safe*"])
    >>> [parser.write(parser.condition(text)) for text in ("A+NT", "NT+safe-1", "B")]
    ['A', 'NT', 'B']
    """

    control: str = "control"
    separator: str = "+"
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.separator.isspace() or any(c.isalnum() or c in "@." for c in self.separator):
            raise InputError(
                f"the separator is {self.separator!r}: expected what joins perturbations, like "
                "'+', without letters, digits, '@' and '.'; or none, for labels that are single "
                "names"
            )

    @classmethod
    def of(
        cls, control: Sequence[object], separator: str = "+", labels: Collection[str] = ()
    ) -> ConditionParser:
        """Return the parser of these names of control, written as the first that is no pattern.

        One of the labels is no pattern. No label, "", is written as "control".

        >>> ConditionParser.of(["what?"], labels=["what?", "whats"]).is_control("whats")
        False
        """
        names = [written(name) for name in control]
        plain = [name for name in names if name and (name in labels or not _is_pattern(name))]
        first = plain[0] if plain else "control"
        others = (_literal(name) if name in labels else name for name in names if name != first)
        return cls(first, separator, tuple(others))

    def is_control(self, name: str) -> bool:
        """Whether a label, or part of one, is control; patterns do not match across separators."""
        if name == self.control or name in self.also:
            return True
        is_joined = bool(self.separator) and self.separator in name
        return any(
            fnmatchcase(name, _BRACKET.sub("[[]", pattern))
            for pattern in self.also
            if _is_pattern(pattern) and not (is_joined and self.separator not in pattern)
        )

    def parts(self, label: str) -> list[str]:
        """Split a label into its parts, control among them; none if all are control."""
        if self.is_control(label.strip()):
            return []
        parts = [part.strip() for part in self.split(label)]
        if "" in parts and not self.is_control(""):
            raise InputError(
                f"the label {label!r} has an empty part: expected perturbations joined by "
                f"{self.separator!r}, or {self.control!r}; if it is part of names, give another "
                "separator, or separator=None"
            )
        perturbations = [part for part in parts if not self.is_control(part)]
        if len(set(perturbations)) < len(perturbations):
            raise InputError(
                f"the label {label!r} names a perturbation twice: name each once, and give its "
                "dose by dosage_key"
            )
        return parts if perturbations else []

    def split(self, text: str) -> list[str]:
        """Split a label at the separator."""
        return text.split(self.separator) if self.separator else [text]

    def condition(self, label: str, doses: Sequence[float] | None = None) -> dict[str, float]:
        """Read a label, with doses (default 1) of all parts, or of those that are not control."""
        parts = self.parts(label)
        received = [part for part in parts if not self.is_control(part)]
        if doses is None:
            doses = [1.0] * len(received)
        elif len(doses) == len(parts):
            pairs = zip(parts, doses, strict=True)
            doses = [dose for part, dose in pairs if not self.is_control(part)]
        if len(doses) != len(received):
            raise InputError(
                f"the label {label!r} has {len(received)} perturbations but {len(doses)} doses: "
                f"expected one dose each, joined by {self.separator!r}"
            )
        return {part: dose for part, dose in zip(received, doses, strict=True) if dose != 0}

    def doses(self, text: object) -> list[float]:
        """Read doses: one number, or one per part of the label, like "0.5+2"."""
        parts = [text] if isinstance(text, int | float) else self.split(str(text))
        try:
            doses = list(map(float, parts))
        except ValueError:
            doses = [float("nan")]
        if any(dose != 0 and not _MIN_DOSE <= dose <= _MAX_DOSE for dose in doses):  # also nan
            raise InputError(
                f"the dosage {str(text)!r} is not a number of at least 0, nor several joined by "
                f"{self.separator!r} (one above 0 lies between {_MIN_DOSE:g} and {_MAX_DOSE:g})"
            )
        return doses

    def write(self, condition: Condition) -> str:
        """Write a condition: sorted, with doses other than 1 after an "@"."""
        parts = [
            name if dose == 1 else f"{name}@{_positional(dose)}"
            for name, dose in sorted(condition.items())
        ]
        return self.separator.join(parts) or self.control

    def write_doses(self, condition: Condition) -> str:
        """Write the doses alone, in the order of `write`."""
        return self.separator.join(_positional(dose) for _, dose in sorted(condition.items()))

    def label(self, condition: object) -> str:
        """Return a condition, which is text, a number or a tuple of parts, as text."""
        if isinstance(condition, tuple | list):
            return self.separator.join(map(written, condition))
        return written(condition)

    def labels(self, conditions: Conditions) -> list[str]:
        """Return conditions as text, once each.

        >>> ConditionParser().labels(["B", ("A", "B"), 7, "B"])
        ['B', 'A+B', '7']
        """
        is_one = isinstance(conditions, str) or not isinstance(conditions, Iterable)
        several: Iterable[object] = [conditions] if is_one else conditions  # type: ignore[assignment]
        labels = list(dict.fromkeys(map(self.label, several)))
        if not labels:
            raise InputError("no conditions are given: give one or more")
        return labels

    def read(self, condition: object, perturbations: Collection[str]) -> dict[str, float]:
        """Read a condition of some perturbations, with doses after "@"."""
        text = self.label(condition)
        names = perturbations if isinstance(perturbations, Set) else set(perturbations)
        if text in names:  # a name may contain the separator
            return {text: 1.0}
        received: dict[str, float] = {}
        for part in self.parts(text):
            name, dose = part, 1.0
            if part not in names and "@" in part:
                name, _, number = part.rpartition("@")
                (dose,) = self.doses(number)
            if self.is_control(name):
                continue
            if name not in names:
                raise unknown("perturbation", name, perturbations)
            if name in received:
                raise InputError(f"the condition {text!r} names {name!r} twice")
            if dose != 0:
                received[name] = dose
        return received


def written(name: object) -> str:
    """Return a name as text; an integer without a fraction.

    >>> written(2.0), written("2.0"), written(True)
    ('2', '2.0', 'True')
    """
    if isinstance(name, Real) and not isinstance(name, bool) and float(name).is_integer():
        return str(int(float(name)))
    return str(name)


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _literal(name: str) -> str:
    """Return a name so that "*" and "?" in it stand for themselves."""
    return re.sub(r"([*?])", r"[\1]", name)


def _positional(dose: float) -> str:
    """Write a number without an exponent, whose sign could be taken for a separator."""
    return np.format_float_positional(dose, trim="-")


def dosage_rows(
    conditions: Sequence[Condition], perturbations: Sequence[str] | Mapping[str, int]
) -> sp.csr_matrix:
    """Return conditions as a sparse dosage matrix, `condition perturbation`.

    `perturbations` are in the order of the columns, or map to their column.
    """
    position = perturbations
    if not isinstance(position, Mapping):
        position = {name: i for i, name in enumerate(position)}
    unseen = sorted({name for c in conditions for name in c if name not in position})
    if unseen:
        raise InputError(f"perturbations never seen in training: {listed(unseen)}")
    indptr = np.cumsum([0, *map(len, conditions)])
    indices = [position[name] for c in conditions for name in sorted(c)]
    doses = [c[name] for c in conditions for name in sorted(c)]
    shape = (len(conditions), len(position))
    data = np.asarray(doses, np.float32)
    return sp.csr_matrix((data, np.asarray(indices, np.int64), indptr), shape=shape)


def parts_matrix(
    conditions: Sequence[str], columns: Sequence[str], parser: ConditionParser
) -> sp.csr_matrix:
    """Return which single conditions each condition consists of, sparse `condition column`.

    `parts_matrix(...) @ values` sums values of single conditions, `column gene`, over the parts of
    each condition. Columns are single conditions such as "A", or "A@0.5" at a dose.

    >>> parts_matrix(["A+B", "B"], ["A", "B"], ConditionParser()).toarray()
    array([[1., 1.],
           [0., 1.]])
    """
    position = {name: i for i, name in enumerate(columns)}
    names = {*columns, *(name.rpartition("@")[0] for name in columns if "@" in name)}
    received = [parser.read(condition, names) for condition in conditions]
    parts = [[parser.write({name: dose}) for name, dose in one.items()] for one in received]
    missing = [part for some in parts for part in some if part not in position]
    if missing:
        raise unknown("single condition", missing[0], columns)
    indices = np.array([position[part] for some in parts for part in some], np.int64)
    indptr = np.cumsum([0, *map(len, parts)])
    return sp.csr_matrix((np.ones(len(indices)), indices, indptr), (len(parts), len(columns)))
