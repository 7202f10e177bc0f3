"""A screen: counts, what each cell received, and how the cells are split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import pandas as pd
from anndata import AnnData

from samsvae._deprecated import matched_to
from samsvae.data.cells import Cells
from samsvae.data.files.anndata_files import Table
from samsvae.data.files.opening import opened
from samsvae.data.names import SPLITS, UNUSED
from samsvae.data.reader import take
from samsvae.errors import InputError, listed, unknown
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.screen import ScreenSettings

_PARTS: WeakKeyDictionary[Screen, WeakValueDictionary[str, Screen]] = WeakKeyDictionary()
"""Cells of the splits of a screen, as long as somebody holds them: they are copied once."""


@dataclass(frozen=True, eq=False, repr=False)
class Screen(Cells):
    """The cells of a Perturb-seq screen. Make one with `Screen.from_anndata` or `Screen.open`.

    Subsets (`screen.train`, `screen[rows]`) share the names of the whole screen.
    """

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
        position = self.position_of_condition.get(self.registry.stored(condition))
        return self[:0] if position is None else self[self.condition == position]

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

    matched_to = matched_to

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
