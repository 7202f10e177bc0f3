"""Minibatches made on a device, from data there; needs torch and numpy alone.

The sizes of a batch do not depend on its cells, so that a step can be recorded as one CUDA graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from samsvae.types import Batch, Dosage


class ResidentCounts:
    """Counts on a device: data, indices and indptr of a CSR matrix, in small integers."""

    def __init__(
        self,
        values: np.ndarray,
        columns: np.ndarray,
        starts: np.ndarray,
        n_columns: int,
        device: torch.device,
    ) -> None:
        self.n_columns = n_columns
        self.values = _in_smallest_type(values).to(device)
        self.columns = _in_smallest_type(columns).to(device)
        self.starts = torch.from_numpy(np.asarray(starts, np.int64)).to(device)
        self.max_width = max(1, int(np.diff(starts).max(initial=0)))

    @property
    def n_bytes(self) -> int:
        """Memory that the counts take."""
        return sum(one.nbytes for one in (self.values, self.columns, self.starts))

    def rows(self, rows: Tensor) -> Tensor:
        """Return some rows, dense, `row column`, float32.

        Of each row as many entries are read as the longest one has: no size depends on the rows.
        """
        place = torch.arange(self.max_width, device=rows.device)
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
    """The cells of a split, on a device: what `Batch` has, of all cells and perturbations."""

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
        self.dose, self.reagent, self.presence = dosage.dose, dosage.reagent, dosage.presence
        self.cells_per_column = cells_per_column.clamp(min=1)

    def batch(self, rows: Tensor) -> Batch:
        """Return some cells, by position.

        The list of perturbations is padded, to the largest length that any batch needs, with
        perturbation 0, which is then drawn but received by no cell.
        """
        received = self.received[rows]
        n_columns = max(1, min(received.numel(), len(self.cells_per_column)))
        columns, position = distinct(received, n_columns)
        reagent = None if self.reagent is None else self.reagent[rows]
        presence = None if self.presence is None else self.presence[rows]
        return Batch(
            self.counts.rows(rows),
            self.library_size[rows],
            self.covariates[rows],
            Dosage(columns, position, self.dose[rows], reagent, presence),
            self.cells_per_column[columns],
        )


def distinct(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the distinct values, sorted and padded with 0, and the position of each value there.

    `torch.unique` would wait for the device, because its size depends on the data.
    """
    ordered, order = values.flatten().sort()
    differs = torch.zeros_like(ordered)
    differs[1:] = ordered[1:] != ordered[:-1]
    rank = differs.cumsum(0)
    place = torch.zeros_like(rank).scatter_(0, order, rank)
    filled = ordered.new_zeros(size).scatter_(0, rank, ordered)
    return filled, place.view_as(values)


def _in_smallest_type(values: np.ndarray) -> Tensor:
    """Return integers in the smallest type that torch gathers on any device."""
    if values.dtype.kind == "f":
        return torch.from_numpy(np.asarray(values, np.float32))
    largest = int(values.max(initial=0))
    kind = np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else np.int32
    return torch.from_numpy(values.astype(kind, copy=False))
