"""New data with the names of a trained model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError, listed


def check_kinds(data: Vocabulary, model: Vocabulary) -> None:
    """Raise if data are not of the kind that a model was trained on."""
    if model.counts != data.counts:
        kinds = ("real values", "counts")
        raise InputError(
            f"the model was trained on {kinds[model.counts]}, the data hold "
            f"{kinds[data.counts]}: read them with counts={model.counts}"
        )
    if data.own_library_size and not model.own_library_size:
        raise InputError(
            "the model was trained with library sizes from a column: give library_size_key "
            "for the new data"
        )


def columns(counts: sp.csr_matrix, ours: Sequence[str], theirs: Sequence[str]) -> sp.csr_matrix:
    """Return the columns of counts that a model names, in its order."""
    known = set(ours)
    missing = [gene for gene in theirs if gene not in known]
    if missing:
        raise InputError(
            f"the data lack {len(missing)} of the model's {len(theirs)} genes: {listed(missing)}"
        )
    if theirs == ours:
        return counts
    named = counts[:, pd.Index(ours).get_indexer(pd.Index(theirs))].tocsr()
    named.sort_indices()
    return named


def recoded(codes: np.ndarray, ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
    """Return batch codes of one vocabulary in those of another."""
    if not theirs:
        return np.zeros_like(codes)
    if not ours:
        raise InputError("the model was trained with batches: give batch_key for the new data")
    present = [ours[i] for i in np.unique(codes)]
    strange = [name for name in present if name not in theirs]
    if strange:
        raise InputError(
            f"batches never seen in training: {listed(strange)}; the model knows {listed(theirs)}"
        )
    position = np.array([theirs.index(name) if name in theirs else -1 for name in ours])
    return position[codes]
