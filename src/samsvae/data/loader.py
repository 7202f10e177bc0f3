"""Minibatches of a screen, as tensors on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.names import Encoding, Separate
from samsvae.data.resident import ResidentCells, ResidentCounts
from samsvae.data.screen import Screen
from samsvae.data.source import PrefetchedSource, read_rows
from samsvae.types import Batch, Dosage


class Loader:
    """Makes batches of the cells of one split, with this split's own n_t.

    `encoding` gives the columns of dosage, by default the screen's perturbations. With `sgrnas`,
    each with its perturbation, `Dosage.reagent` is a position in the perturbations (for cells of
    other sgRNAs) followed by these, and `Dosage.presence` is there if sgRNAs are uncertain.
    """

    def __init__(
        self,
        screen: Screen,
        device: torch.device | str = "cpu",
        *,
        encoding: Encoding | None = None,
        sgrnas: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.screen = screen
        self.device = torch.device(device)
        self._made_with: dict[str, Any] = {"encoding": encoding, "sgrnas": sgrnas}
        encoding = encoding or Separate(screen.registry)
        self.dosage = encoding(screen.dosage, screen.batch)
        n_columns = self.dosage.shape[1]
        self.cells_per_column = np.bincount(self.dosage.indices, minlength=n_columns)  # n_t
        self.n_slots = int(np.diff(self.dosage.indptr).max(initial=0))
        self.received, self._dose = _slots(self.dosage, self.n_slots)
        """`cell slot`: the columns of dosage that each cell received; -1 where empty."""
        self._reagent: np.ndarray | None = None
        self._presence: np.ndarray | None = None  # cell slot
        if sgrnas is None:
            return
        if screen.absence is not None:
            every = np.arange(len(screen))[:, None]
            absence = screen.absence[every, np.maximum(self.received, 0)].toarray()
            self._presence = np.where(self.received >= 0, 1 - absence, 1).astype(np.float32)
        reagent = self._reagent = np.maximum(self.received, 0)  # cell slot
        if screen.sgrna is None or not len(sgrnas):
            return
        columns, names = encoding.columns, screen.sgrna.categories
        place = {pair: len(columns) + i for i, pair in enumerate(sgrnas)}
        codes = np.broadcast_to(screen.sgrna.codes.astype(np.int64)[:, None], reagent.shape)
        has_sgrna = (codes >= 0) & (self.received >= 0)
        pairs, inverse = np.unique(
            np.stack([codes, self.received])[:, has_sgrna], axis=1, return_inverse=True
        )
        rows = [place.get((str(names[a]), columns[b]), b) for a, b in pairs.T]
        reagent[has_sgrna] = np.asarray(rows, np.int64)[inverse.ravel()]

    @property
    def is_resident(self) -> bool:
        """Whether batches are made on the device, of cells that stay there."""
        return self.device.type != "cpu" and self.screen.is_in_memory

    def batch(self, rows: np.ndarray | slice, source: PrefetchedSource | None = None) -> Batch:
        """Return some cells, by position; with their counts from another source, if given."""
        if source is None and self.is_resident:
            positions = np.arange(len(self.screen))[rows]
            return self.resident.batch(torch.from_numpy(positions).to(self.device))
        screen, received = self.screen, self._dosage(rows)
        counts = read_rows(screen.counts, rows) if source is None else source.rows(rows)
        n_t = self.cells_per_column[received.columns.numpy()]
        return Batch(
            counts.to(self.device, non_blocking=True),
            self._tensor(screen.library_size[rows]),
            self._tensor(screen.covariates_of(rows)),
            on_device(received, self.device),
            self._tensor(np.maximum(n_t, 1)),
        )

    @cached_property
    def resident(self) -> ResidentCells:
        """The cells with all their data on the device."""
        counts: Any = self.screen.to_memory().counts
        parts = counts.data, counts.indices, counts.indptr, counts.shape[1]
        return ResidentCells(
            ResidentCounts(*parts, self.device),
            self._tensor(self.screen.library_size),
            self._tensor(self.screen.covariates),
            on_device(self._dosage(slice(None)), self.device),
            self._tensor(self.cells_per_column),
        )

    def _dosage(self, rows: np.ndarray | slice) -> Dosage:
        received = _as_lists(self.received[rows], self._dose[rows])
        if self._reagent is None:
            return received
        presence = None if self._presence is None else torch.from_numpy(self._presence[rows])
        return received._replace(reagent=torch.from_numpy(self._reagent[rows]), presence=presence)

    def columns_of(self, rows: np.ndarray | slice) -> Tensor:
        """Return the columns of dosage that some cells received, sorted, on the device."""
        return self._dosage(rows).columns.to(self.device)

    @property
    def present(self) -> Tensor:
        """The columns of dosage that any of the cells received, sorted, on the device."""
        return torch.from_numpy(np.flatnonzero(self.cells_per_column)).to(self.device)

    def sample(self, n_cells: int) -> Loader:
        """Return the loader of at most so many cells, at random: the same ones every time."""
        n = len(self.screen)
        if n <= n_cells:
            return self
        rows = np.sort(np.random.default_rng(0).choice(n, n_cells, replace=False))
        return Loader(self.screen[rows], self.device, **self._made_with)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all cells once, in their order."""
        for start in range(0, len(self.screen), batch_size):
            yield self.batch(slice(start, start + batch_size))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device, non_blocking=True)


def encode(dosage: sp.csr_matrix, n_slots: int) -> Dosage:
    """Return rows of dosage as lists of the columns that occur in them.

    `n_slots`, the width of the lists, is the largest number of perturbations of a cell.
    """
    return _as_lists(*_slots(dosage, n_slots))


def _slots(dosage: sp.csr_matrix, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the perturbations of each cell and their doses, `cell slot`; -1 and 0 if empty."""
    filled = np.arange(n_slots) < np.diff(dosage.indptr)[:, None]
    received = np.full(filled.shape, -1, np.int64)
    dose = np.zeros(filled.shape, np.float32)
    received[filled] = dosage.indices
    dose[filled] = dosage.data
    return received, dose


def _as_lists(received: np.ndarray, dose: np.ndarray) -> Dosage:
    """Return the slots of some cells, as lists of the columns that occur in them."""
    columns, position = np.unique(received, return_inverse=True)
    if len(columns) > 0 and columns[0] < 0:  # empty slots point at any column
        columns, position = columns[1:], np.maximum(position - 1, 0)
    if len(columns) == 0:  # also where there are only controls
        columns = np.zeros(1, np.int64)
    return Dosage(
        torch.from_numpy(columns),
        torch.from_numpy(position.reshape(received.shape)),
        torch.from_numpy(dose),
    )


def on_device(dosage: Dosage, device: torch.device) -> Dosage:
    """Return the same lists on a device."""
    moved = (None if v is None else v.to(device, non_blocking=True) for v in dosage)
    return Dosage(*moved)  # type: ignore[arg-type]  # only what may be None is
