"""Minibatches out of data that lie on the device, assembled there.

Needs torch alone, and nothing of a batch depends on the host but its rows: so a step with all that
belongs to it can be recorded as one CUDA graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from samsvae.types import Batch, Dosage


class ResidentCounts:
    """Counts as sparse rows of small integers, on a device.

    Parameters
    ----------
    values, columns, starts
        A CSR matrix: its data, indices and indptr.
    n_columns
        Its width.
    device
        Where it is to lie.
    """

    def __init__(
        self,
        values: np.ndarray,
        columns: np.ndarray,
        starts: np.ndarray,
        n_columns: int,
        device: torch.device,
    ) -> None:
        self.n_columns = n_columns
        self.values = _smallest(values).to(device)
        self.columns = _smallest(columns).to(device)
        self.starts = torch.from_numpy(np.asarray(starts, np.int64)).to(device)
        self.widest = max(1, int(np.diff(starts).max(initial=0)))

    @property
    def n_bytes(self) -> int:
        """Memory that the data take."""
        parts = (self.values, self.columns, self.starts)
        return sum(part.numel() * part.element_size() for part in parts)

    def rows(self, rows: Tensor) -> Tensor:
        """Return some rows, dense, `row column`, float32.

        As many entries are read of every row as the fullest row has, so that no size depends on
        the data; those beyond a row's end count 0.
        """
        place = torch.arange(self.widest, device=rows.device)
        start, end = self.starts[rows].unsqueeze(1), self.starts[rows + 1].unsqueeze(1)
        at = start + place
        inside = at < end
        at = at.clamp(max=max(0, len(self.values) - 1))
        dense = torch.zeros(len(rows), self.n_columns, device=rows.device)
        if not len(self.values):
            return dense
        columns = self.columns[at].long() * inside
        return dense.scatter_add_(1, columns, self.values[at].float() * inside)


class ResidentCells:
    """The cells of a split, on a device, with the interface of a loader's `batch`.

    Parameters
    ----------
    counts
        `cell gene`.
    library_size
        `cell`, counts.
    covariates
        `cell covariate`.
    dosage
        Of all cells: what each received.
    cells_per_column
        n_t of every perturbation of the model, `column`.
    """

    def __init__(
        self,
        counts: ResidentCounts,
        library_size: Tensor,
        covariates: Tensor,
        dosage: Dosage,
        cells_per_column: Tensor,
    ) -> None:
        self.counts = counts
        self.library_size, self.covariates = library_size, covariates
        self.received = dosage.columns[dosage.position]  # cell slot
        self.dose, self.reagent = dosage.dose, dosage.reagent
        self.cells_per_column = cells_per_column.clamp(min=1)

    def batch(self, rows: Tensor) -> Batch:
        """Return some cells, by position.

        Its list of perturbations has the length that the most varied batch would need. What the
        batch does not need stands there as perturbation 0: drawn, but received by no cell.
        """
        received = self.received[rows]
        n_columns = max(1, min(received.numel(), len(self.cells_per_column)))
        columns, position = distinct(received, n_columns)
        return Batch(
            self.counts.rows(rows),
            self.library_size[rows],
            self.covariates[rows],
            Dosage(
                columns,
                position,
                self.dose[rows],
                None if self.reagent is None else self.reagent[rows],
            ),
            self.cells_per_column[columns],
        )


def distinct(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the distinct values, sorted and filled up with 0, and where each value stands there.

    `torch.unique` with a size that does not depend on the data: it would wait for the device.
    """
    ordered, order = values.flatten().sort()
    differs = torch.zeros_like(ordered)
    differs[1:] = ordered[1:] != ordered[:-1]
    rank = differs.cumsum(0)
    place = torch.zeros_like(rank).scatter_(0, order, rank)
    filled = ordered.new_zeros(size).scatter_(0, rank, ordered)
    return filled, place.view_as(values)


def _smallest(values: np.ndarray) -> Tensor:
    """Return whole numbers in the smallest type that torch gathers on any device."""
    if values.dtype.kind == "f":
        return torch.from_numpy(np.asarray(values, np.float32))
    largest = int(values.max(initial=0))
    kind = np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else np.int32
    return torch.from_numpy(values.astype(kind, copy=False))
