"""New data with the names of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.names import NameRegistry
from samsvae.data.source import StoredCounts
from samsvae.errors import InputError, listed


def check_kinds(data: NameRegistry, model: NameRegistry) -> None:
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


def matched_columns(
    counts: sp.csr_matrix | StoredCounts, ours: Sequence[str], theirs: Sequence[str]
) -> sp.csr_matrix | StoredCounts:
    """Return the columns of counts that a model names, in its order."""
    known = set(ours)
    missing = [gene for gene in theirs if gene not in known]
    if missing:
        raise InputError(
            f"the data lack {len(missing)} of the model's {len(theirs)} genes: {listed(missing)}"
        )
    if theirs == ours:
        return counts
    place = pd.Index(ours).get_indexer(pd.Index(theirs))
    if isinstance(counts, StoredCounts):
        return counts.genes(place)
    named = counts[:, place].tocsr()
    named.sort_indices()
    return named


def recoded(
    codes: np.ndarray, ours: NameRegistry, theirs: NameRegistry
) -> tuple[NameRegistry, np.ndarray]:
    """Return batch codes of our vocabulary in those of theirs.

    Theirs gets combinations of levels that it does not have: the levels are what a model knows.
    """
    if not theirs.batches:
        return theirs, np.zeros_like(codes)
    n_columns = len(theirs.batch_levels)
    if len(ours.batch_levels) != n_columns:
        had = f" ({n_columns} columns, not {len(ours.batch_levels)})" if ours.batches else ""
        raise InputError(
            f"the model was trained with batches{had}: give batch_key for the new data"
        )
    present = [ours.batches[i] for i in np.unique(codes)]
    for i, known in enumerate(theirs.batch_levels):
        strange = sorted({levels[i] for levels in present} - set(known))
        if strange:
            raise InputError(
                f"batches never seen in training: {listed(strange)}; the model knows "
                f"{listed(known)}"
            )
    new = [levels for levels in present if levels not in theirs.batches]
    extended = replace(theirs, batches=(*theirs.batches, *new)) if new else theirs
    place = {levels: i for i, levels in enumerate(extended.batches)}
    position = np.array([place.get(levels, -1) for levels in ours.batches], np.int32)
    return extended, position[codes]
