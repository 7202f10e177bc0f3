"""From what cells received to the columns that a model has parameters for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError, listed


class Encoding(ABC):
    """Turns rows of dosage, `cell perturbation`, into rows of a model's own columns."""

    columns: tuple[str, ...]
    """What each column stands for."""

    @abstractmethod
    def __call__(self, dosage: sp.csr_matrix) -> sp.csr_matrix:
        """Return the rows, `cell column`."""


class Separate(Encoding):
    """A column per perturbation: combinations are made of their parts."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.columns = vocabulary.perturbations

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
        self, vocabulary: Vocabulary, conditions: Sequence[str], *, unseen_as_control: bool
    ) -> None:
        self.columns = tuple(conditions)
        self.vocabulary = vocabulary
        self.unseen_as_control = unseen_as_control
        self._column_of: dict[tuple[int, ...], int] = {}
        for column, name in enumerate(conditions):
            received = vocabulary.read(name)
            _check_doses(np.array(list(received.values())))
            self._column_of[tuple(sorted(vocabulary.column[part] for part in received))] = column

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
        names = self.vocabulary.perturbations
        return self.vocabulary.notation.write({names[t]: 1.0 for t in row})


def _check_doses(doses: np.ndarray) -> None:
    graded = doses[doses != 1]
    if len(graded):
        raise InputError(
            f"got a dose of {graded[0]:g}: this model takes each combination as a perturbation of "
            "its own, received or not, so doses are 0 or 1; take another model, or leave "
            "dosage_key out"
        )
