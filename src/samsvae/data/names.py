"""The names that give a screen's columns their meaning.

From what cells received to the columns that a model has parameters for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from samsvae.data.conditions import ConditionParser
from samsvae.errors import InputError, listed

SPLITS = ("train", "valid", "test")
UNUSED = "unused"
"""Split of cells that an experiment leaves out on purpose."""


@dataclass(frozen=True)
class NameRegistry:
    """The names that give a screen's columns their meaning; saved with every model."""

    genes: tuple[str, ...]
    perturbations: tuple[str, ...]
    batches: tuple[tuple[str, ...], ...] = ()
    """Those that occur: a level of each batch column. None without such a column."""
    parser: ConditionParser = field(default_factory=ConditionParser)
    counts: bool = True
    """Whether the data are counts (or real values)."""
    own_library_size: bool = True
    """Whether a cell's library size is the sum of its counts of these genes."""
    symbols: tuple[str, ...] = ()
    """Of the genes, where they have others than their names."""

    @cached_property
    def column(self) -> Mapping[str, int]:
        """By perturbation, its column of dosage."""
        return {name: i for i, name in enumerate(self.perturbations)}

    def read(self, condition: object) -> dict[str, float]:
        """Return what a condition, named in any way, is made of: dose by perturbation.

        Raises
        ------
        InputError
            If a perturbation is not known.
        """
        return self.parser.read(condition, self.column.keys())

    def stored(self, condition: object) -> str:
        """Return a condition as it is stored: sorted."""
        return self.parser.write(self.read(condition))

    def singles(self, condition: object) -> list[str]:
        """Return the single conditions that a condition is made of, as they are stored.

        >>> NameRegistry(("g",), ("A", "B")).singles("B+A")
        ['B', 'A']
        """
        return [self.parser.write({name: dose}) for name, dose in self.read(condition).items()]

    @cached_property
    def batch_names(self) -> tuple[str, ...]:
        """The batches as text.

        >>> NameRegistry(("g",), ("A",), (("day 1", "lane 2"),)).batch_names
        ('day 1, lane 2',)
        """
        return tuple(", ".join(levels) for levels in self.batches)

    @cached_property
    def batch_levels(self) -> tuple[tuple[str, ...], ...]:
        """Of each batch column, sorted."""
        return tuple(tuple(sorted(set(column))) for column in zip(*self.batches, strict=True))

    @cached_property
    def design(self) -> np.ndarray:
        """`batch covariate`: the batches as covariates, one-hot in each batch column.

        >>> NameRegistry(("g",), ("A",), (("x", "1"), ("x", "2"), ("y", "1"))).design
        array([[1., 0., 1., 0.],
               [1., 0., 0., 1.],
               [0., 1., 1., 0.]], dtype=float32)
        """
        parts = [
            np.array([[float(level == name) for name in names] for level in column], np.float32)
            for column, names in zip(
                zip(*self.batches, strict=True), self.batch_levels, strict=True
            )
        ]
        return np.concatenate(parts, 1) if parts else np.zeros((0, 0), np.float32)

    @property
    def even(self) -> np.ndarray:
        """`covariate`: the levels of each batch column in equal parts."""
        parts = [np.full(len(names), 1 / len(names), np.float32) for names in self.batch_levels]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    @cached_property
    def n_covariates(self) -> int:
        """Width of a batch as covariates."""
        return sum(map(len, self.batch_levels))

    @cached_property
    def position_of_target(self) -> Mapping[str, int]:
        """Positions of the genes, by name and by symbol: perturbations are named after targets."""
        by_symbol = {name: i for i, name in reversed(list(enumerate(self.symbols)))}
        return by_symbol | {name: i for i, name in enumerate(self.genes)}

    def header(self) -> dict[str, Any]:
        """Return the names, for saving as JSON, by the keys of the file's format."""
        header = asdict(self)
        header["notation"] = header.pop("parser")
        return header

    @classmethod
    def restored(cls, header: Mapping[str, Any]) -> Self:
        """Return the names that `header` returned."""
        parser = {**header["notation"], "also": tuple(header["notation"]["also"])}
        names = {key: tuple(header[key]) for key in ("genes", "perturbations", "symbols")}
        batches = tuple(map(tuple, header["batches"]))
        others = {key: value for key, value in header.items() if key != "notation"}
        return cls(**{**others, **names, "batches": batches, "parser": ConditionParser(**parser)})


class Encoding(ABC):
    """Turns rows of dosage, `cell perturbation`, into rows of a model's own columns."""

    columns: tuple[str, ...]
    """What each column stands for."""

    @abstractmethod
    def __call__(self, dosage: sp.csr_matrix) -> sp.csr_matrix:
        """Return the rows, `cell column`."""


class Separate(Encoding):
    """A column per perturbation: combinations are made of their parts."""

    def __init__(self, registry: NameRegistry) -> None:
        self.columns = registry.perturbations

    def __call__(self, dosage: sp.csr_matrix) -> sp.csr_matrix:
        return dosage


class Joint(Encoding):
    """A column per condition of the training cells: each combination is a perturbation of its own.

    Parameters
    ----------
    vocabulary
        Names of the screen.
    conditions
        Those of the training cells but control.
    unseen_as_control
        Encode a combination that is not among them as control; it is an error otherwise.
    """

    def __init__(
        self, registry: NameRegistry, conditions: Sequence[str], *, unseen_as_control: bool
    ) -> None:
        self.columns = tuple(conditions)
        self.registry = registry
        self.unseen_as_control = unseen_as_control
        self._column_of: dict[tuple[int, ...], int] = {}
        for column, name in enumerate(conditions):
            received = registry.read(name)
            _check_doses(np.array(list(received.values())))
            self._column_of[tuple(sorted(registry.column[part] for part in received))] = column

    def __call__(self, dosage: sp.csr_matrix) -> sp.csr_matrix:
        """Return the rows, `cell column`.

        Raises
        ------
        InputError
            If a dose is neither 0 nor 1, or a combination is unseen and not encoded as control.
        """
        _check_doses(dosage.data)
        received = [
            tuple(sorted(row)) for row in np.split(dosage.indices, dosage.indptr[1:-1].tolist())
        ]
        unseen = {row for row in received if row and row not in self._column_of}
        if unseen and not self.unseen_as_control:
            raise InputError(
                f"conditions never seen in training: {listed(sorted(map(self._name, unseen)))}; "
                "this model takes each combination as a perturbation of its own and knows only the "
                "conditions it has seen (one made with unseen_as_control=True predicts the others "
                "as control)"
            )
        columns = [[self._column_of[row]] if row in self._column_of else [] for row in received]
        indptr = np.cumsum([0, *map(len, columns)])
        indices = np.array([column for row in columns for column in row], np.int64)
        shape = (dosage.shape[0], len(self.columns))
        return sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=shape)

    def _name(self, row: tuple[int, ...]) -> str:
        names = self.registry.perturbations
        return self.registry.parser.write({names[t]: 1.0 for t in row})


def _check_doses(doses: np.ndarray) -> None:
    graded = doses[doses != 1]
    if len(graded):
        raise InputError(
            f"got a dose of {graded[0]:g}: this model takes each combination as a perturbation of "
            "its own, received or not, so doses are 0 or 1; take another model, or leave "
            "dosage_key out"
        )
