"""A screen: counts, what each cell received, and how the cells are split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae._deprecated import matched_to
from samsvae.data.builder import check_split, screen_fields
from samsvae.data.names import SPLITS, UNUSED, NameRegistry
from samsvae.data.sgrna_assignment import SgrnaAssignment
from samsvae.data.source import StoredCounts
from samsvae.errors import InputError, check_unique_cells, listed
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.screen import ScreenSettings
from samsvae.storage.anndata_files import Table
from samsvae.storage.opening import opened, read_reference
from samsvae.storage.sgrna_counts import with_sgrnas

_PARTS: WeakKeyDictionary[Screen, WeakValueDictionary[str, Screen]] = WeakKeyDictionary()
"""Cells of the splits of a screen, as long as they are in use: they are copied once."""


@dataclass(frozen=True, eq=False, repr=False)
class Screen:
    """The cells of a Perturb-seq screen. Make one with `Screen.from_anndata` or `Screen.open`.

    Counts are in memory, or stay in their file. Subsets (`screen.train`, `screen[rows]`) share the
    names of the whole screen.
    """

    registry: NameRegistry
    cells: pd.Index
    """Names of the cells."""
    counts: sp.csr_matrix | StoredCounts
    """`cell gene`: CSR of the smallest unsigned type (float32 for real values), or in a file."""
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
    """`cell`: the sgRNA that it received, missing where that is unknown."""
    replicate: pd.Categorical | None = None
    """`cell`: the replicate that it is of, such as a clone; of no other condition."""
    sgrna_assignment: SgrnaAssignment | None = None
    """How cells were given their sgRNA, of all cells of the file, where it holds their counts."""
    absence: sp.csr_matrix | None = None
    """`cell perturbation`: the probability that the cell did not receive what `dosage` says, where
    its sgRNA is uncertain; None: all cells did."""
    obs: pd.DataFrame | None = None
    """`cell column`: what else the file says of cells, and a model is not told: numbers, and
    categories of few levels."""

    @classmethod
    @checked
    @takes(ScreenSettings)
    def from_anndata(cls, adata: AnnData, **settings: Any) -> Screen:
        """Take a screen from an AnnData object, checking everything.

        Parameters
        ----------
        adata
            Cells x genes. Dense, CSR, CSC, a view or a backed file.
        **settings
            What its columns and layers hold: convention, perturbation_key ("perturbation"),
            control ("control"), separator ("+"), layer, dosage_key, batch_key, context_key,
            library_size_key, split_key, sgrna_key, replicate_key, gene_key, sgrna_assignment,
            several_sgrnas, feature_reference, drop_empty_cells, drop_unlabelled, counts; see
            `samsvae.settings.screen.ScreenSettings`.

        Examples
        --------
        >>> labels = ["control", "A", "B+A", "control"]
        >>> obs = pd.DataFrame({"perturbation": labels}, index=["c1", "c2", "c3", "c4"])
        >>> adata = AnnData(np.array([[1, 2], [3, 0], [2, 2], [0, 1]]), obs=obs)
        >>> screen = Screen.from_anndata(adata)
        >>> screen.conditions
        ('control', 'A', 'A+B')
        >>> screen.library_size
        array([3., 3., 4., 1.])
        """
        read = ScreenSettings.of(settings)
        reference = read_reference(read.feature_reference)
        return cls.from_table(with_sgrnas(Table.of(adata), adata.obsm, adata.uns, reference), read)

    @classmethod
    @checked
    @takes(ScreenSettings)
    def open(cls, path: str | os.PathLike[str], **settings: Any) -> Screen:
        """Read a screen from a file, without ever holding its whole matrix as floats.

        Only what is needed is read: names, the columns that the settings name, one matrix. It is an
        error if there is no such file, it is of another kind or damaged, or cannot be used.

        Parameters
        ----------
        path
            The file, by its suffix: .h5ad, .h5mu (with `modality`), .h5 of 10x Genomics; or a
            directory: .zarr, or 10x Genomics' matrix, barcodes and features (with `labels`).
            "~" and environment variables are expanded.
        **settings
            As in `Screen.from_anndata`.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     screen.to_anndata().write_h5ad(f"{folder}/screen.h5ad")
        ...     Screen.open(f"{folder}/screen.h5ad").perturbations
        ('G01', 'G02', 'G03')
        """
        read = ScreenSettings.of(settings)
        places = {"modality": read.modality, "labels": read.labels}
        with opened(path, **places, feature_reference=read.feature_reference) as table:
            return cls.from_table(table, read)

    @classmethod
    def from_table(cls, table: Table, settings: ScreenSettings) -> Screen:
        """Take a screen from a table of any origin; see `from_anndata`."""
        fields, is_kept = screen_fields(table, settings)
        screen = cls(**fields)
        return screen if is_kept.all() else screen[is_kept]

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
            absence=None if self.absence is None else self.absence[rows],
            condition=self.condition[rows],
            batch=self.batch[rows],
            sgrna=None if self.sgrna is None else self.sgrna[rows],
            replicate=None if self.replicate is None else self.replicate[rows],
            obs=None if self.obs is None else self.obs.iloc[rows],
            split=None if self.split is None else self.split[rows],
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether counts are in memory (or in a file)."""
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
        """Position in `condition_names` of each condition of the whole screen."""
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
    def is_control(self) -> np.ndarray:
        """`cell`: whether the cell received no perturbation."""
        return np.diff(self.dosage.indptr) == 0

    @property
    def is_combination(self) -> np.ndarray:
        """`cell`: whether the cell received several perturbations."""
        return np.diff(self.dosage.indptr) > 1

    @property
    def control(self) -> Self:
        """The control cells."""
        return self[self.is_control]

    @cached_property
    def cells_per_perturbation(self) -> np.ndarray:
        """n_t, `perturbation`: number of these cells that received each perturbation."""
        return np.bincount(self.dosage.indices, minlength=len(self.perturbations))

    @cached_property
    def counted(self) -> np.ndarray:
        """`cell`: sum of the cell's counts of these genes; library sizes may count more."""
        return self.library_size if self.registry.own_library_size else self.recounted()

    def recounted(self) -> np.ndarray:
        """Return the sum of each cell's counts of these genes, `cell`."""
        sums = [np.asarray(block.sum(1), np.float64).ravel() for _, block in self.blocks()]
        return np.concatenate(sums)

    @property
    def unexpressed(self) -> np.ndarray:
        """`gene`: whether none of the cells expresses it."""
        return self._of_genes[0] == 0

    @property
    def gene_totals(self) -> np.ndarray:
        """`gene`: sum over the cells, counts."""
        return self._of_genes[1]

    @cached_property
    def _of_genes(self) -> tuple[np.ndarray, np.ndarray]:
        """How many cells express each gene, and its sum over the cells, `gene`."""
        n_expressing, total = np.zeros(len(self.genes), np.int64), np.zeros(len(self.genes))
        for _, block in self.blocks():
            n_expressing += block.getnnz(0)
            total += np.asarray(block.sum(0), float).ravel()
        return n_expressing, total

    @cached_property
    def digest(self) -> str:
        """A digest of the cells' counts, dosage and replicates, and of the names of all."""
        parts = [hashlib.blake2b(digest_size=16) for _ in range(3)]
        for _, block in self.blocks():
            arrays = block.data, block.indices.astype(np.int32), np.diff(block.indptr)
            # The same for counts of any type, and for blocks of any size.
            kinds = np.uint32 if block.dtype.kind == "u" else np.float32, np.int32, np.int32
            for part, array, kind in zip(parts, arrays, kinds, strict=True):
                part.update(array.astype(kind, copy=False).tobytes())
        digest = hashlib.blake2b(repr(self.registry).encode(), digest_size=16)
        dosage = self.dosage.data, self.dosage.indices, self.dosage.indptr
        for array in (self.library_size, self.batch, *dosage):
            digest.update(array.tobytes())
        if self.absence is not None:
            for array in (self.absence.data, self.absence.indices, self.absence.indptr):
                digest.update(array.tobytes())
        if self.replicate is not None:
            digest.update(repr(self.replicate.tolist()).encode())
        for part in parts:
            digest.update(part.digest())
        return digest.hexdigest()

    @property
    def train(self) -> Screen:
        """The training cells."""
        return self._part("train")

    @property
    def valid(self) -> Screen:
        """The validation cells."""
        return self._part("valid")

    @property
    def test(self) -> Screen:
        """The test cells."""
        return self._part("test")

    def _part(self, name: str) -> Screen:
        if self.split is None:
            raise InputError(
                "the screen has no split: give split_key, or take "
                "screen.with_split(samsvae.splits.random(screen, seed=0))"
            )
        parts = _PARTS.setdefault(self, WeakValueDictionary())
        if (part := parts.get(name)) is None:
            part = parts[name] = self[self.split == name]
        return part

    @checked
    def of(self, condition: str | float | Sequence[str | float]) -> Screen:
        """Return the cells of one condition ("B+A" is "A+B"); none if it does not occur.

        >>> len(screen.of("G01")), len(screen.of("G02+G01"))
        (150, 0)
        """
        position = self.position_of_condition.get(self.registry.stored(condition))
        return self[:0] if position is None else self[self.condition == position]

    @checked
    def with_split(self, split: pd.Series | Sequence[str]) -> Screen:
        """Return the screen with another split: "train", "valid", "test" or "unused" per cell.

        Either a Series by cell name, as the functions of `samsvae.splits` return, or a sequence in
        the order of the cells.
        """
        if isinstance(split, pd.Series) and not split.index.equals(self.cells):
            missing = self.cells.difference(split.index)
            if len(missing):
                raise InputError(
                    f"the split lacks {len(missing)} of {len(self)} cells: {listed(missing)}"
                )
            for names in (self.cells, split.index):
                check_unique_cells(names, "the split cannot be matched with cells")
            split = split.loc[self.cells]
        values = np.asarray(split, dtype=object)
        if values.shape != (len(self),):
            raise InputError(f"the split has {len(values)} values for {len(self)} cells")
        check_split(values)
        return replace(self, split=values)

    matched_to = matched_to

    def with_genes(self, positions: np.ndarray) -> Self:
        """Return the screen with some of its genes, by position, with their symbols.

        Library sizes become the sums of these genes' counts, unless they come from a column.
        """
        if isinstance(self.counts, StoredCounts):
            counts = self.counts.genes(positions)
        else:
            counts = self.counts[:, positions].tocsr()
            counts.sort_indices()
        registry = self.registry.with_genes([self.genes[i] for i in positions])
        screen = replace(self, registry=registry, counts=counts)
        if not registry.own_library_size:
            return screen
        return replace(screen, library_size=screen.recounted())

    def to_anndata(self) -> AnnData:
        """Return the cells as AnnData: counts, and conditions, library sizes, batches, splits.

        Doses, where they are not all 1, are a column of their own, in the order of the labels. The
        columns of `obs` follow, but for those whose name is taken.
        """
        parser = self.registry.parser
        conditions = list(map(self.registry.read, self.condition_names))
        labels = [parser.write(dict.fromkeys(condition, 1.0)) for condition in conditions]
        obs = pd.DataFrame(
            {"perturbation": np.asarray(labels)[self.condition], "library_size": self.library_size},
            index=self.cells,
        )
        if (self.dosage.data != 1).any():
            doses = [parser.write_doses(condition) for condition in conditions]
            obs["dosage"] = np.asarray(doses)[self.condition]
        levels = np.array(self.registry.batches, object)
        for i in range(len(self.registry.batch_levels)):
            obs["batch" if i == 0 else f"batch_{i + 1}"] = levels[self.batch, i].astype(str)
        if self.sgrna is not None:
            obs["sgrna"] = self.sgrna
        if self.replicate is not None:
            obs["replicate"] = self.replicate
        if self.split is not None:
            obs["split"] = self.split.astype(str)
        if self.obs is not None:
            obs = obs.join(self.obs.drop(columns=obs.columns, errors="ignore").set_axis(obs.index))
        return AnnData(self.to_memory().counts, obs=obs, var=self.registry.var.copy())

    def summary(self) -> pd.DataFrame:
        """Return the number of cells per condition and split (or in all, without a split)."""
        condition = pd.Categorical.from_codes(self.condition, list(self.condition_names))
        split = np.full(len(self), "cells", object) if self.split is None else self.split
        table = pd.crosstab(pd.Series(condition), pd.Series(split))
        order = [name for name in (*SPLITS, UNUSED, "cells") if name in table.columns]
        table = table.reindex(index=list(self.conditions), columns=order, fill_value=0)
        table = table.rename_axis(index="condition", columns=None)
        return table if self.split is None else table.assign(total=table.sum(axis=1))

    def __repr__(self) -> str:
        combinations = sum(len(self.registry.parser.parts(name)) > 1 for name in self.conditions)
        lines = [
            f"Screen: {len(self):,} cells x {len(self.genes):,} genes",
            f"  {len(self.perturbations):,} perturbations, {len(self.conditions):,} conditions "
            f"({combinations:,} combinations), {int(self.is_control.sum()):,} control cells",
        ]
        if self.registry.batches:
            lines.append(f"  {len(self.registry.batches):,} batches")
        if self.split is not None:
            sizes = pd.Series(self.split).value_counts()
            lines.append("  " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()) + " cells")
        if len(self):
            lines.append(f"  median library size {np.median(self.library_size):,.0f} counts")
        return "\n".join(lines)


@checked
@takes(ScreenSettings)
def read_h5ad(path: str | os.PathLike[str], **settings: Any) -> Screen:
    """Read a screen from a file, as `Screen.open` does, under the name of scverse packages."""
    return Screen.open(path, **settings)
