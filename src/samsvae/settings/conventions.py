"""How the files of other projects are laid out: `convention="gears"` and the like.

The conventions themselves are in conventions.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samsvae.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The layout of a project's files."""

    settings: Mapping[str, Any]
    """What it says, by the names of `samsvae.settings.screen.ScreenSettings`. Columns and layers
    other than the perturbations' are read where a file has them."""
    signs: tuple[tuple[str, ...], ...]
    """Columns of the cells by which a file of that layout is known: all those of any set."""
    marks: tuple[str, ...] = ()
    """Labels by which it is known besides: one of them is among the parts of the labels."""
    instead: tuple[str, ...] = ()
    """Other columns that hold the perturbations, in files without the first."""
    rewritten: tuple[tuple[str, str], ...] = ()
    """Patterns and what takes their place in a label, in turn, before it is split."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """What its splits are called here."""
    source: str
    """Where the layout is described."""

    def label(self, text: str) -> str:
        """Return a label as the separator takes it apart."""
        for pattern, replacement in self.rewritten:
            text = re.sub(pattern, replacement, text)
        return text

    def fits(self, columns: Collection[str], labels: Iterable[str] = ()) -> int:
        """Return how many signs a file shows; 0: it is not laid out so.

        >>> CONVENTIONS["gears"].fits(["condition", "cell_type"], ["A+ctrl", "ctrl"])
        2
        >>> CONVENTIONS["gears"].fits(["condition", "cell_type"], ["A+control", "control"])
        0
        """
        n_signs = max((len(one) for one in self.signs if set(one) <= set(columns)), default=0)
        if not (n_signs and self.marks):
            return n_signs
        separator = self.settings["separator"]
        parts = {part for text in labels for part in self.label(text).split(separator)}
        return n_signs if parts.intersection(self.marks) else 0

    def perturbation_key(self, columns: Collection[str]) -> str:
        """Return the column with the perturbations: the first of those that there may be."""
        first = str(self.settings["perturbation_key"])
        return next((key for key in (first, *self.instead) if key in columns), first)


def _frozen(value: Any) -> Any:
    """Return a value of a TOML file; its lists become tuples."""
    if isinstance(value, dict):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CONVENTIONS = {name: Convention(**_frozen(table)) for name, table in _TABLES.items()}
"""By name."""


def convention(name: str) -> Convention:
    """Return a convention by name; raise if there is none."""
    if name not in CONVENTIONS:
        raise unknown("convention", name, list(CONVENTIONS))
    return CONVENTIONS[name]


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, and what their convention says of those that are not given.

    >>> completed({"convention": "gears", "control": "unperturbed"})["control"]
    'unperturbed'
    >>> completed({"convention": "gears"})["perturbation_key"]
    'condition'
    """
    name = given.get("convention")
    return {**({} if name is None else convention(name).settings), **given}
