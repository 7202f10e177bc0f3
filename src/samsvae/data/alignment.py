"""Match screens and tables with the genes and perturbations of a model, always by name.

Every public function that takes a model and a screen or table aligns them here: another order is
fine, genes that the model does not have are ignored with a note, and missing names are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.conditions import dosage_rows
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_unique, listed, note


def align_screen(screen: Screen, registry: NameRegistry) -> Screen:
    """Return a screen with the genes, perturbations and batches of a model.

    It is an error if the screen lacks a gene of the model, a cell received a perturbation or is of
    a batch that the model does not have, or the data are of another kind (counts, library sizes).

    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=0, n_genes=20, seed=0)
    >>> reversed_genes = replace(screen.registry, genes=screen.genes[::-1])
    >>> align_screen(screen, reversed_genes).genes[:2]
    ('gene020', 'gene019')
    """
    if registry == screen.registry:
        return screen
    if registry.counts != screen.registry.counts:
        kinds = ("real values", "counts")
        raise InputError(
            f"the model was trained on {kinds[registry.counts]}, the data hold "
            f"{kinds[screen.registry.counts]}: read them with counts={registry.counts}"
        )
    if screen.registry.own_library_size and not registry.own_library_size:
        raise InputError(
            "the model was trained with library sizes from a column: give library_size_key "
            "for the new data"
        )
    genes = align_genes(screen, registry.genes)
    extended, batch = _align_batches(screen.batch, screen.registry, registry)
    conditions = list(map(screen.registry.read, screen.condition_names))
    present = np.unique(screen.condition)
    received = dosage_rows([conditions[i] for i in present], registry.column)
    aligned = replace(
        screen,
        absence=_align_absence(screen, registry),
        registry=extended,
        counts=genes.counts,
        dosage=received[np.searchsorted(present, screen.condition)],
        condition_names=tuple(map(registry.parser.write, conditions)),
        batch=batch,
    )
    if registry.own_library_size:
        aligned = replace(aligned, library_size=genes.counted)
    return aligned


def _align_absence(screen: Screen, registry: NameRegistry) -> sp.csr_matrix | None:
    """Return the probability of absence by the perturbations of a registry."""
    if screen.absence is None:
        return None
    given, place = screen.absence.tocoo(), registry.column
    column = np.array([place.get(name, -1) for name in screen.perturbations], np.int64)[given.col]
    has_one = column >= 0
    parts = given.data[has_one], (given.row[has_one], column[has_one])
    return sp.csr_matrix(parts, shape=(len(screen), len(place)))


def align_genes(screen: Screen, genes: Sequence[str]) -> Screen:
    """Return a screen with these genes alone, in this order, and its own perturbations.

    Library sizes that are sums over genes are recomputed. It is an error if it lacks a gene.
    """
    if tuple(genes) == screen.genes:
        return screen
    return screen.with_genes(_positions(screen.genes, genes, "genes"))


def align_table(
    table: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return a table, conditions x genes, with these rows and columns, in this order.

    >>> table = pd.DataFrame([[1, 2], [3, 4]], ["A", "B"], ["x", "y"])
    >>> align_table(table, genes=["y", "x"], conditions=["B"])
       y  x
    B  4  3
    """
    if genes is not None:
        table = table.iloc[:, _positions(table.columns, genes, "genes")]
    if conditions is not None:
        table = table.iloc[_positions(table.index, conditions, "conditions")]
    return table


def _positions(data: Sequence[str], model: Sequence[str], kind: str) -> np.ndarray:
    """Return the position in the data of each name of a model; tell how many are not used."""
    wanted = pd.Index(model, dtype=object)
    check_unique(data, kind, "make the names of the table unique")
    position: np.ndarray = pd.Index(data, dtype=object).get_indexer(wanted)
    missing = wanted[position < 0]
    if len(missing):
        raise InputError(
            f"the data lack {len(missing)} of the model's {len(model)} {kind}: {listed(missing)}"
        )
    n_ignored = len(set(data) - set(model))
    if n_ignored and kind == "genes":
        note(f"{n_ignored} genes of the data are ignored: the model does not have them")
    return position


def _align_batches(
    codes: np.ndarray, data: NameRegistry, model: NameRegistry
) -> tuple[NameRegistry, np.ndarray]:
    """Return the model's registry with batches of the data added, and the batch of each cell in it.

    A batch may combine levels (of several columns) that the model has not seen together, but each
    level must be one of the model's.
    """
    if not model.batches:
        return model, np.zeros_like(codes)
    n_columns = len(model.batch_levels)
    if len(data.batch_levels) != n_columns:
        had = f" ({n_columns} columns, not {len(data.batch_levels)})" if data.batches else ""
        raise InputError(
            f"the model was trained with batches{had}: give batch_key for the new data"
        )
    present = [data.batches[i] for i in np.unique(codes)]
    for i, levels in enumerate(model.batch_levels):
        new_levels = sorted({batch[i] for batch in present} - set(levels))
        if new_levels:
            raise InputError(
                f"batches never seen in training: {listed(new_levels)}; the model knows "
                f"{listed(levels)}"
            )
    new = [batch for batch in present if batch not in model.batches]
    extended = replace(model, batches=(*model.batches, *new)) if new else model
    place = {batch: i for i, batch in enumerate(extended.batches)}
    position = np.array([place.get(batch, -1) for batch in data.batches], np.int32)
    return extended, position[codes]
