"""Conditions as text: "B@2+A" <-> {A: 1, B: 2}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from samsvae.errors import InputError, unknown

Condition = Mapping[str, float]
"""Dose by perturbation; control is empty."""
Conditions: TypeAlias = "str | int | Iterable[str | int | tuple[str | int, ...]]"
"""Conditions as they are asked for: one, or several; a tuple names the parts of one."""

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Doses other than 0 lie between them: they are kept in single precision."""


@dataclass(frozen=True)
class Notation:
    """How conditions are written.

    A condition is the set of perturbations a cell received, joined by `separator` and sorted, so
    that "B+A" is "A+B". A dose other than 1 follows an "@": "drugA@0.5". The empty set is written
    as the control label, and control as a part adds nothing: "A+control" is "A".

    Examples
    --------
    >>> notation = Notation()
    >>> notation.read("B@2+A", ["A", "B"])
    {'B': 2.0, 'A': 1.0}
    >>> notation.write({"B": 2.0, "A": 1.0})
    'A+B@2'
    """

    control: str = "control"
    separator: str = "+"

    def __post_init__(self) -> None:
        if not self.separator.strip() or any(c.isalnum() or c in "@." for c in self.separator):
            raise InputError(
                f"the separator is {self.separator!r}: expected what joins perturbations, like "
                "'+', without letters, digits, '@' and '.'"
            )

    def parts(self, label: str) -> list[str]:
        """Split a label into its parts.

        Raises
        ------
        InputError
            If a part is empty ("A+") or repeated ("A+A").
        """
        if label.strip() == self.control:
            return []
        parts = [part.strip() for part in label.split(self.separator)]
        if "" in parts:
            raise InputError(
                f"the label {label!r} has an empty part: expected perturbations joined by "
                f"{self.separator!r}, or {self.control!r}"
            )
        if len(set(parts)) < len(parts):
            raise InputError(
                f"the label {label!r} names a perturbation twice: name each once, and give its "
                "dose by dosage_key"
            )
        return parts

    def condition(self, label: str, doses: Sequence[float] | None = None) -> dict[str, float]:
        """Read a label, each part at its dose (default 1). A part at dose 0 was not received."""
        parts = [part for part in self.parts(label) if part != self.control]
        doses = [1.0] * len(parts) if doses is None else doses
        if len(doses) != len(parts):
            raise InputError(
                f"the label {label!r} has {len(parts)} perturbations but {len(doses)} doses: "
                f"expected one dose each, joined by {self.separator!r}"
            )
        return {part: dose for part, dose in zip(parts, doses, strict=True) if dose != 0}

    def doses(self, text: object) -> list[float]:
        """Read doses: one number, or one per part of the label, like "0.5+2".

        Raises
        ------
        InputError
            If a dose is not a finite number of at least 0.
        """
        fields = [text] if isinstance(text, int | float) else str(text).split(self.separator)
        doses = []
        for field in fields:
            try:
                dose = float(field)
            except ValueError:
                dose = float("nan")
            if dose != 0 and not _SMALLEST <= dose <= _LARGEST:  # nan is not between them either
                raise InputError(
                    f"the dosage {str(text)!r} is not a number of at least 0, nor several joined "
                    f"by {self.separator!r} (one above 0 lies between {_SMALLEST:g} and "
                    f"{_LARGEST:g})"
                )
            doses.append(dose)
        return doses

    def write(self, condition: Condition) -> str:
        """Write a condition: sorted, doses other than 1 behind an "@"."""
        parts = [
            name if dose == 1 else f"{name}@{_positional(dose)}"
            for name, dose in sorted(condition.items())
        ]
        return self.separator.join(parts) or self.control

    def write_doses(self, condition: Condition) -> str:
        """Write the doses alone, in the order in which `write` names the perturbations."""
        return self.separator.join(_positional(dose) for _, dose in sorted(condition.items()))

    def label(self, condition: object) -> str:
        """Return a condition as text, however it is named: text, a number, a tuple of parts."""
        if isinstance(condition, tuple | list):
            return self.separator.join(map(str, condition))
        return str(condition)

    def asked(self, conditions: Conditions) -> list[str]:
        """Return the conditions that are asked for as text, once each.

        Raises
        ------
        InputError
            If there are none.

        Examples
        --------
        >>> Notation().asked(["B", ("A", "B"), 7, "B"])
        ['B', 'A+B', '7']
        """
        one = isinstance(conditions, str) or not isinstance(conditions, Iterable)
        several: Iterable[object] = [conditions] if one else conditions  # type: ignore[assignment]
        labels = list(dict.fromkeys(map(self.label, several)))
        if not labels:
            raise InputError("no conditions are asked for: give one or more")
        return labels

    def read(self, condition: object, perturbations: Sequence[str]) -> dict[str, float]:
        """Read a condition of known perturbations, with doses behind "@".

        Raises
        ------
        InputError
            If a perturbation is not among `perturbations`.
        """
        text, known = self.label(condition), set(perturbations)
        received: dict[str, float] = {}
        for part in self.parts(text):
            name, dose = part, 1.0
            if part not in known and "@" in part:
                name, _, number = part.rpartition("@")
                (dose,) = self.doses(number)
            if name == self.control:
                continue
            if name not in known:
                raise unknown("perturbation", name, perturbations)
            if name in received:
                raise InputError(f"the condition {text!r} names {name!r} twice")
            if dose != 0:
                received[name] = dose
        return received


def _positional(dose: float) -> str:
    """Write a number without an exponent, whose sign could be taken for a separator."""
    return np.format_float_positional(dose, trim="-")
