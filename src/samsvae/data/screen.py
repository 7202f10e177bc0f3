"""A screen: counts, what each cell received, and how the cells are split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data import dosage, matching
from samsvae.data.entrance import take
from samsvae.data.files.opening import opened
from samsvae.data.source import MemorySource, Source
from samsvae.data.table import Table
from samsvae.data.vocabulary import SPLITS, UNUSED, Vocabulary
from samsvae.errors import InputError, listed, unknown
from samsvae.settings.arguments import checked
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.takes import takes

_PARTS: WeakKeyDictionary[Screen, WeakValueDictionary[str, Screen]] = WeakKeyDictionary()
"""Cells of the splits of a screen, as long as somebody holds them: they are copied once."""


@dataclass(frozen=True, eq=False, repr=False)
class Screen:
    """The cells of a Perturb-seq screen. Make one with `Screen.from_anndata`.

    Subsets (`screen.train`, `screen[rows]`) share the names of the whole screen.
    """

    vocabulary: Vocabulary
    cells: pd.Index
    """Names of the cells."""
    counts: sp.csr_matrix
    """`cell gene`: CSR of the smallest unsigned integer type (float32 for real values)."""
    library_size: np.ndarray
    """`cell`, counts: total counts of the cell."""
    dosage: sp.csr_matrix
    """`cell perturbation`: doses, sparse; a control cell is an empty row."""
    condition_names: tuple[str, ...]
    """All conditions of the whole screen, control first."""
    condition: np.ndarray
    """`cell`: index into `condition_names`."""
    batch: np.ndarray
    """`cell`: index into `vocabulary.batches`; zeros where there are none."""
    split: np.ndarray | None = None
    """`cell`: "train", "valid", "test" (or "unused"); None before `with_split`."""
    sgrna: pd.Categorical | None = None
    """`cell`: the reagent that it received, where that is known."""

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
            Where it holds what: convention, perturbation_key ("perturbation"), control
            ("control"), separator ("+"), layer, dosage_key, batch_key, library_size_key,
            split_key, sgrna_key, gene_key, drop_empty_cells, drop_unlabelled, counts; see
            `samsvae.settings.screen.ScreenSettings`.

        Raises
        ------
        InputError
            If anything cannot be used: the message says what was got, what was expected and what
            to do.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from anndata import AnnData
        >>> labels = ["control", "A", "B+A", "control"]
        >>> obs = pd.DataFrame({"perturbation": labels}, index=["c1", "c2", "c3", "c4"])
        >>> adata = AnnData(np.array([[1, 2], [3, 0], [2, 2], [0, 1]]), obs=obs)
        >>> screen = Screen.from_anndata(adata)
        >>> screen.conditions
        ('control', 'A', 'A+B')
        >>> screen.library_size
        array([3., 3., 4., 1.])
        """
        return cls.from_table(Table.of(adata), ScreenSettings.of(settings))

    @classmethod
    @checked
    @takes(ScreenSettings)
    def open(cls, path: str | os.PathLike[str], **settings: Any) -> Screen:
        """Read a screen from a file, without ever holding its whole matrix as floats.

        Only what is needed is read: names, the columns that the settings name, one matrix.

        Parameters
        ----------
        path
            The file, by its suffix: .h5ad, .h5mu (with `modality`), .h5 of 10x Genomics; or a
            directory: .zarr, or 10x Genomics' matrix, barcodes and features (with `labels`).
            "~" and environment variables are filled in.
        **settings
            As in `Screen.from_anndata`.

        Raises
        ------
        InputError
            If there is no such file, it is of another kind, truncated or damaged, or its content
            cannot be used.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> labels = ["control", "A", "B+A", "control"]
        >>> obs = pd.DataFrame({"perturbation": labels}, index=["c1", "c2", "c3", "c4"])
        >>> adata = AnnData(np.array([[1, 2], [3, 0], [2, 2], [0, 1]]), obs=obs)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     adata.write_h5ad(f"{folder}/screen.h5ad")
        ...     screen = Screen.open(f"{folder}/screen.h5ad")
        >>> len(screen), screen.perturbations
        (4, ('A', 'B'))
        """
        given = ScreenSettings.of(settings)
        with opened(path, modality=given.modality, labels=given.labels) as table:
            return cls.from_table(table, given)

    @classmethod
    def from_table(cls, table: Table, given: ScreenSettings) -> Screen:
        """Take a screen from wherever its columns and matrices are; see `from_anndata`."""
        taken = take(table, given)
        screen = cls(**taken.parts._asdict())
        if taken.split is not None:
            split = np.where(taken.kept, taken.split, UNUSED)  # those left out have none
            screen = screen.with_split(split)
        return screen if taken.kept.all() else screen[taken.kept]

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
    def source(self) -> Source:
        """Where minibatches take the counts from."""
        return MemorySource(self.counts)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes."""
        return self.vocabulary.genes

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations: the columns of dosage."""
        return self.vocabulary.perturbations

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of these cells, control first."""
        return tuple(self.condition_names[i] for i in np.unique(self.condition))

    @property
    def covariates(self) -> np.ndarray:
        """`cell covariate`: batches, one-hot in each batch column; of width 0 without any."""
        if not self.vocabulary.batches:
            return np.zeros((len(self), 0), np.float32)
        return self.vocabulary.design[self.batch]

    @property
    def control(self) -> Screen:
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
    def digest(self) -> str:
        """Return a digest of what these cells show and received, and of the names of that."""
        digest = hashlib.blake2b(repr(self.vocabulary).encode(), digest_size=16)
        arrays = [self.library_size, self.batch]
        for matrix in (self.counts, self.dosage):
            arrays += [matrix.data, matrix.indices, matrix.indptr]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
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
        part = parts.get(name)
        if part is None:
            part = parts[name] = self[self.split == name]
        return part

    @checked
    def of(self, condition: str | float | Sequence[str | float]) -> Screen:
        """Return the cells of one condition ("B+A" is "A+B"); none if it does not occur.

        Examples
        --------
        >>> from samsvae.datasets import simulated_screen
        >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
        >>> len(screen.of("G01")), len(screen.of("G02+G01"))
        (150, 0)
        """
        name = self.vocabulary.stored(condition)
        if name not in self.condition_names:
            return self[:0]
        return self[self.condition == self.condition_names.index(name)]

    @checked
    def with_split(self, split: pd.Series | Sequence[str]) -> Screen:
        """Return the screen with another split.

        Parameters
        ----------
        split
            One of "train", "valid", "test" (or "unused") per cell: a Series by cell name, such as
            the functions of `samsvae.splits` return, or a sequence in the order of the cells.
        """
        if isinstance(split, pd.Series):
            if not split.index.equals(self.cells):
                missing = self.cells.difference(split.index)
                if len(missing):
                    raise InputError(
                        f"the split lacks {len(missing)} of {len(self)} cells: {listed(missing)}"
                    )
                if not split.index.is_unique or not self.cells.is_unique:
                    raise InputError("cell names are not unique: the split cannot be matched")
                split = split.loc[self.cells]
            split = split.to_numpy()
        values = np.asarray(split, dtype=object)
        if values.shape != (len(self),):
            raise InputError(f"the split has {len(values)} values for {len(self)} cells")
        for value in pd.unique(values):
            if value not in (*SPLITS, UNUSED):
                raise unknown("split", value, SPLITS)
        return replace(self, split=values)

    def matched_to(self, vocabulary: Vocabulary) -> tuple[Screen, int]:
        """Return the screen with a model's genes and perturbations, and how many genes it lost.

        Genes and perturbations are matched by name, whatever their order; other genes are left
        out.

        Raises
        ------
        InputError
            If a gene of the model is missing, a cell received a perturbation the model does not
            know, or a batch is one it has never seen.
        """
        if vocabulary == self.vocabulary:
            return self, 0
        matching.check_kinds(self.vocabulary, vocabulary)
        counts = matching.columns(self.counts, self.genes, vocabulary.genes)
        library_size = self.library_size
        if vocabulary.own_library_size:
            library_size = np.asarray(counts.sum(1), dtype=np.float64).ravel()
        extended, batch = matching.recoded(self.batch, self.vocabulary, vocabulary)
        notation = self.vocabulary.notation
        conditions = [notation.read(name, self.perturbations) for name in self.condition_names]
        present = np.unique(self.condition)
        received = dosage.rows([conditions[i] for i in present], vocabulary.perturbations)
        named_alike = replace(
            self,
            vocabulary=extended,
            counts=counts,
            library_size=library_size,
            dosage=received[np.searchsorted(present, self.condition)],
            condition_names=tuple(map(vocabulary.notation.write, conditions)),
            batch=batch,
        )
        return named_alike, len(self.genes) - len(vocabulary.genes)

    def to_anndata(self) -> AnnData:
        """Return the cells as AnnData: counts, and conditions, library sizes, batches, splits.

        Doses, where they are not all 1, stand in a column of their own, in the labels' order.
        """
        notation = self.vocabulary.notation
        read = [notation.read(name, self.perturbations) for name in self.condition_names]
        labels = [notation.write(dict.fromkeys(condition, 1.0)) for condition in read]
        obs = pd.DataFrame(
            {
                "perturbation": np.asarray(labels)[self.condition],
                "library_size": self.library_size,
            },
            index=self.cells,
        )
        if (self.dosage.data != 1).any():
            doses = [notation.write_doses(condition) for condition in read]
            obs["dosage"] = np.asarray(doses)[self.condition]
        levels = np.array(self.vocabulary.batches, object)
        for i in range(len(self.vocabulary.batch_levels)):
            obs["batch" if i == 0 else f"batch_{i + 1}"] = levels[self.batch, i].astype(str)
        if self.sgrna is not None:
            obs["sgrna"] = self.sgrna
        if self.split is not None:
            obs["split"] = self.split.astype(str)
        return AnnData(self.counts, obs=obs, var=pd.DataFrame(index=list(self.genes)))

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

    def __repr__(self) -> str:
        combinations = sum(
            len(self.vocabulary.notation.parts(name)) > 1 for name in self.conditions
        )
        lines = [
            f"Screen: {len(self):,} cells x {len(self.genes):,} genes",
            f"  {len(self.perturbations):,} perturbations, {len(self.conditions):,} conditions "
            f"({combinations:,} combinations), {int(self.is_control.sum()):,} control cells",
        ]
        if self.vocabulary.batches:
            lines.append(f"  {len(self.vocabulary.batches):,} batches")
        if self.split is not None:
            sizes = pd.Series(self.split).value_counts()
            lines.append("  " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()) + " cells")
        if len(self):
            lines.append(f"  median library size {np.median(self.library_size):,.0f} counts")
        return "\n".join(lines)
