"""New data with the names of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from samsvae.data import dosage
from samsvae.data.vocabulary import Vocabulary
from samsvae.errors import InputError, listed

if TYPE_CHECKING:
    from samsvae.data.screen import Screen


def matched(screen: Screen, vocabulary: Vocabulary) -> tuple[Screen, int]:
    """Return a screen with other names, and how many genes it lost; see `Screen.matched_to`."""
    if vocabulary == screen.vocabulary:
        return screen, 0
    if vocabulary.counts != screen.vocabulary.counts:
        kinds = ("real values", "counts")
        raise InputError(
            f"the model was trained on {kinds[vocabulary.counts]}, the data hold "
            f"{kinds[screen.vocabulary.counts]}: read them with counts={vocabulary.counts}"
        )
    if screen.vocabulary.own_library_size and not vocabulary.own_library_size:
        raise InputError(
            "the model was trained with library sizes from a column: give library_size_key "
            "for the new data"
        )
    ours = set(screen.genes)
    missing = [gene for gene in vocabulary.genes if gene not in ours]
    if missing:
        raise InputError(
            f"the data lack {len(missing)} of the model's {len(vocabulary.genes)} genes: "
            f"{listed(missing)}"
        )
    counts = screen.counts
    if vocabulary.genes != screen.genes:
        columns = pd.Index(screen.genes).get_indexer(pd.Index(vocabulary.genes))
        counts = counts[:, columns].tocsr()
        counts.sort_indices()
    library_size = screen.library_size
    if vocabulary.own_library_size:
        library_size = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    notation = screen.vocabulary.notation
    conditions = [notation.read(name, screen.perturbations) for name in screen.condition_names]
    present = np.unique(screen.condition)
    dosage_rows = dosage.rows([conditions[i] for i in present], vocabulary.perturbations)
    names = [vocabulary.notation.write(condition) for condition in conditions]
    named_alike = replace(
        screen,
        vocabulary=vocabulary,
        counts=counts,
        library_size=library_size,
        dosage=dosage_rows[np.searchsorted(present, screen.condition)],
        condition_names=tuple(names),
        batch=_recoded(screen.batch, screen.vocabulary.batches, vocabulary.batches),
    )
    return named_alike, len(screen.genes) - len(vocabulary.genes)


def _recoded(codes: np.ndarray, ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
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
