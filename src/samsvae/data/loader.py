"""Minibatches of a screen, as tensors on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
import torch

from samsvae.data.names import Encoding, Separate
from samsvae.data.resident import ResidentCells, ResidentCounts
from samsvae.data.screen import Screen
from samsvae.data.source import Source
from samsvae.types import Batch, Dosage


class Loader:
    """Makes batches of the cells of one split, each scored with this split's own n_t.

    Parameters
    ----------
    screen
        The cells, say `screen.train`.
    device
        Where the tensors go.
    encoding
        The columns of dosage that batches have; by default the screen's perturbations.
    sgrnas
        Those that are told apart, each with its perturbation: batches then say which reagent gave
        what a cell received. Perturbations come first, for cells of other sgRNAs; None: nothing is
        said.
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
        self.source = screen.source
        self.device = torch.device(device)
        encoding = encoding or Separate(screen.registry)
        self.dosage = encoding(screen.dosage)
        self.cells_per_column = np.bincount(
            self.dosage.indices, minlength=self.dosage.shape[1]
        )  # n_t
        self.n_slots = int(np.diff(self.dosage.indptr).max(initial=0))
        self._received, self._dose = _slots(self.dosage, self.n_slots)
        self._reagent: np.ndarray | None = None
        if sgrnas is not None:
            self._reagent = _reagents(self._received, screen, encoding.columns, sgrnas)

    def batch(self, rows: np.ndarray | slice, source: Source | None = None) -> Batch:
        """Return some cells, by position; their counts from another source, if it is given."""
        screen = self.screen
        received = self._named(rows)
        n_t = self.cells_per_column[received.columns.numpy()]
        return Batch(
            (source or self.source).rows(rows).to(self.device, non_blocking=True),
            self._tensor(screen.library_size[rows]),
            self._tensor(screen.covariates_of(rows)),
            on_device(received, self.device),
            self._tensor(np.maximum(n_t, 1)),
        )

    def resident(self) -> ResidentCells:
        """Return the cells with all their data on the device, to take batches from there."""
        counts, size = self.screen.to_memory().counts, self.screen.library_size
        assert isinstance(counts, sp.csr_matrix)
        return ResidentCells(
            ResidentCounts(
                counts.data, counts.indices, counts.indptr, counts.shape[1], self.device
            ),
            self._tensor(size),
            self._tensor(self.screen.covariates),
            on_device(self._named(slice(None)), self.device),
            self._tensor(self.cells_per_column),
        )

    def _named(self, rows: np.ndarray | slice) -> Dosage:
        received = _named(self._received[rows], self._dose[rows])
        if self._reagent is None:
            return received
        return received._replace(reagent=torch.from_numpy(self._reagent[rows]))

    def columns_of(self, rows: np.ndarray | slice) -> torch.Tensor:
        """Return the columns of dosage that some cells received, as `batch` lists them."""
        return self._named(rows).columns.to(self.device)

    @property
    def present(self) -> torch.Tensor:
        """The columns of dosage that any of the cells received, sorted, on the device."""
        return torch.from_numpy(np.flatnonzero(self.cells_per_column)).to(self.device)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all cells once, in their order."""
        for start in range(0, len(self.screen), batch_size):
            yield self.batch(slice(start, start + batch_size))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device, non_blocking=True)


def encode(dosage: sp.csr_matrix, n_slots: int) -> Dosage:
    """Return rows of dosage as lists of the columns that occur in them.

    Parameters
    ----------
    dosage
        `cell column`, sparse.
    n_slots
        Largest number of perturbations of a cell: the width of the lists.
    """
    return _named(*_slots(dosage, n_slots))


def _slots(dosage: sp.csr_matrix, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what each cell received and its dose, `cell slot`; -1 and 0 where a slot is empty."""
    filled = np.arange(n_slots) < np.diff(dosage.indptr)[:, None]
    received = np.full(filled.shape, -1, np.int64)
    dose = np.zeros(filled.shape, np.float32)
    received[filled] = dosage.indices
    dose[filled] = dosage.data
    return received, dose


def _named(received: np.ndarray, dose: np.ndarray) -> Dosage:
    """Return the slots of some cells, as lists of the columns that occur in them."""
    columns, position = np.unique(received, return_inverse=True)
    if len(columns) > 0 and columns[0] < 0:  # empty slots still point at something
        columns, position = columns[1:], np.maximum(position - 1, 0)
    if len(columns) == 0:  # controls only: so do they
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


def _reagents(
    received: np.ndarray,
    screen: Screen,
    columns: Sequence[str],
    sgrnas: Sequence[tuple[str, str]],
) -> np.ndarray:
    """Return which reagent gave what each cell received, `cell slot`; 0 where a slot is empty."""
    reagent = np.maximum(received, 0)
    if screen.sgrna is None or not len(sgrnas):
        return reagent
    place = {pair: len(columns) + i for i, pair in enumerate(sgrnas)}
    codes = np.broadcast_to(screen.sgrna.codes.astype(np.int64)[:, None], received.shape)
    known = (codes >= 0) & (received >= 0)
    pairs, inverse = np.unique(np.stack([codes, received])[:, known], axis=1, return_inverse=True)
    names = screen.sgrna.categories
    rows = [place.get((str(names[a]), columns[b]), b) for a, b in pairs.T]
    reagent[known] = np.asarray(rows, np.int64)[inverse.ravel()]
    return reagent
