"""Cells of a screen: counts, and what each cell received."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.names import SPLITS, UNUSED, NameRegistry
from samsvae.data.source import MemorySource, Source, StoredCounts, StoredSource


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """Cells, with the names of the whole screen that they are of.

    Counts are in memory, or left in their file; all else takes a few bytes per cell.
    """

    registry: NameRegistry
    cells: pd.Index
    """Names of the cells."""
    counts: sp.csr_matrix | StoredCounts
    """`cell gene`: CSR of the smallest unsigned integer type (float32 for real values), or where
    that lies in a file."""
    library_size: np.ndarray
    """`cell`, counts: total counts of the cell."""
    dosage: sp.csr_matrix
    """`cell perturbation`: doses, sparse; a control cell is an empty row."""
    condition_names: tuple[str, ...]
    """All conditions of the whole screen, control first."""
    condition: np.ndarray
    """`cell`: index into `condition_names`."""
    batch: np.ndarray
    """`cell`: index into `registry.batches`; zeros where there are none."""
    split: np.ndarray | None = None
    """`cell`: "train", "valid", "test" (or "unused"); None before `with_split`."""
    sgrna: pd.Categorical | None = None
    """`cell`: the reagent that it received, where that is known."""

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, rows: Any) -> Self:
        """Return the screen of some cells: a boolean mask, a slice or positions."""
        return replace(
            self,
            cells=self.cells[rows],
            counts=self.counts[rows],
            library_size=self.library_size[rows],
            dosage=self.dosage[rows],
            condition=self.condition[rows],
            batch=self.batch[rows],
            sgrna=None if self.sgrna is None else self.sgrna[rows],
            split=None if self.split is None else self.split[rows],
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether counts are; else they are in a file."""
        return not isinstance(self.counts, StoredCounts)

    def to_memory(self) -> Self:
        """Return the same cells with their counts in memory."""
        if isinstance(self.counts, StoredCounts):
            return replace(self, counts=self.counts.to_memory())
        return self

    def blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield the counts of all cells in order: at once, or, from a file, some at a time."""
        if isinstance(self.counts, StoredCounts):
            yield from self.counts.blocks()
        else:
            yield slice(0, len(self)), self.counts

    @property
    def source(self) -> Source:
        """Where minibatches take the counts from."""
        if isinstance(self.counts, StoredCounts):
            return StoredSource(self.counts)
        return MemorySource(self.counts)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes."""
        return self.registry.genes

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations: the columns of dosage."""
        return self.registry.perturbations

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of these cells, control first."""
        return tuple(self.condition_names[i] for i in np.unique(self.condition))

    @cached_property
    def position_of_condition(self) -> Mapping[str, int]:
        """By condition of the whole screen, its position in `condition_names`."""
        return {name: i for i, name in enumerate(self.condition_names)}

    @property
    def covariates(self) -> np.ndarray:
        """`cell covariate`: batches, one-hot in each batch column; of width 0 without any."""
        return self.covariates_of(slice(None))

    def covariates_of(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return the covariates of some cells, by position."""
        batch = self.batch[rows]
        if not self.registry.batches:
            return np.zeros((len(batch), 0), np.float32)
        return self.registry.design[batch]

    @property
    def control(self) -> Self:
        """The control cells."""
        return self[self.is_control]

    @property
    def is_control(self) -> np.ndarray:
        """`cell`: whether the cell received no perturbation."""
        return np.diff(self.dosage.indptr) == 0

    @cached_property
    def cells_per_perturbation(self) -> np.ndarray:
        """n_t, `perturbation`: how many of these cells received each perturbation."""
        return np.bincount(self.dosage.indices, minlength=len(self.perturbations))

    @cached_property
    def counted(self) -> np.ndarray:
        """`cell`: sum of the cell's counts of these genes; library sizes may count more."""
        return self.library_size if self.registry.own_library_size else self.recounted()

    def recounted(self) -> np.ndarray:
        """Return the sum of each cell's counts of these genes, `cell`."""
        sums = [np.asarray(block.sum(1), np.float64).ravel() for _, block in self.blocks()]
        return np.concatenate(sums)

    @cached_property
    def unexpressed(self) -> np.ndarray:
        """`gene`: whether none of the cells has anything of it."""
        found = np.zeros(len(self.genes), np.int64)
        for _, block in self.blocks():
            found += block.getnnz(0)
        return found == 0

    @cached_property
    def digest(self) -> str:
        """Return a digest of what these cells show and received, and of the names of that."""
        parts = [hashlib.blake2b(digest_size=16) for _ in range(3)]
        for _, block in self.blocks():
            arrays = block.data, block.indices.astype(np.int32), np.diff(block.indptr)
            # A count is the same in any type, and what is hashed is the same in any blocks.
            kinds = np.uint32 if block.dtype.kind == "u" else np.float32, np.int32, np.int32
            for part, array, kind in zip(parts, arrays, kinds, strict=True):
                part.update(array.astype(kind, copy=False).tobytes())
        digest = hashlib.blake2b(repr(self.registry).encode(), digest_size=16)
        received = self.dosage.data, self.dosage.indices, self.dosage.indptr
        for array in (self.library_size, self.batch, *received):
            digest.update(array.tobytes())
        for part in parts:
            digest.update(part.digest())
        return digest.hexdigest()

    def to_anndata(self) -> AnnData:
        """Return the cells as AnnData: counts, and conditions, library sizes, batches, splits.

        Doses, where they are not all 1, stand in a column of their own, in the labels' order.
        """
        parser = self.registry.parser
        read = list(map(self.registry.read, self.condition_names))
        labels = [parser.write(dict.fromkeys(condition, 1.0)) for condition in read]
        obs = pd.DataFrame(
            {
                "perturbation": np.asarray(labels)[self.condition],
                "library_size": self.library_size,
            },
            index=self.cells,
        )
        if (self.dosage.data != 1).any():
            doses = [parser.write_doses(condition) for condition in read]
            obs["dosage"] = np.asarray(doses)[self.condition]
        levels = np.array(self.registry.batches, object)
        for i in range(len(self.registry.batch_levels)):
            obs["batch" if i == 0 else f"batch_{i + 1}"] = levels[self.batch, i].astype(str)
        if self.sgrna is not None:
            obs["sgrna"] = self.sgrna
        if self.split is not None:
            obs["split"] = self.split.astype(str)
        return AnnData(self.to_memory().counts, obs=obs, var=pd.DataFrame(index=list(self.genes)))

    def summary(self) -> pd.DataFrame:
        """Return the number of cells per condition and split (or in all, without a split)."""
        condition = pd.Categorical.from_codes(self.condition, list(self.condition_names))
        split = np.full(len(self), "cells", object) if self.split is None else self.split
        table = pd.crosstab(
            pd.Series(condition, name="condition"), pd.Series(split, name="split"), dropna=True
        )
        order = [name for name in (*SPLITS, UNUSED, "cells") if name in table.columns]
        table = table.reindex(index=list(self.conditions), columns=order, fill_value=0)
        table.index.name, table.columns.name = "condition", None
        if self.split is not None:
            table["total"] = table.sum(axis=1)
        return table
