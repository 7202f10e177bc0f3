"""Conditions as rows of dosage: {A: 1, B: 2} -> a sparse row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from samsvae.data.notation import Condition
from samsvae.errors import InputError, listed


def rows(
    conditions: Sequence[Condition], perturbations: Sequence[str] | Mapping[str, int]
) -> sp.csr_matrix:
    """Return conditions as a sparse dosage matrix, `condition perturbation`.

    Parameters
    ----------
    conditions
        Dose by perturbation.
    perturbations
        In the order of the columns, or the column of each.

    Raises
    ------
    InputError
        If a condition holds a perturbation that is not among `perturbations`.
    """
    position = perturbations
    if not isinstance(position, Mapping):
        position = {name: i for i, name in enumerate(position)}
    strange = sorted({name for c in conditions for name in c if name not in position})
    if strange:
        raise InputError(f"perturbations never seen in training: {listed(strange)}")
    indptr = np.cumsum([0, *map(len, conditions)])
    indices = [position[name] for c in conditions for name in sorted(c)]
    doses = [c[name] for c in conditions for name in sorted(c)]
    shape = (len(conditions), len(position))
    data = np.asarray(doses, np.float32)
    return sp.csr_matrix((data, np.asarray(indices, np.int64), indptr), shape=shape)
