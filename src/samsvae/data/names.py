"""Names of genes, perturbations and batches, and the columns of dosage that models have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.conditions import ConditionParser, dosage_rows
from samsvae.errors import InputError, listed
from samsvae.types import Scale

SPLITS = ("train", "valid", "test")
UNUSED = "unused"
"""Split of cells that an experiment leaves out on purpose."""


@dataclass(frozen=True)
class NameRegistry:
    """The names that give a screen's columns their meaning; saved with every model."""

    genes: tuple[str, ...]
    perturbations: tuple[str, ...]
    batches: tuple[tuple[str, ...], ...] = ()
    """The batches that occur: a level of each batch column. Empty without such a column."""
    parser: ConditionParser = field(default_factory=ConditionParser)
    counts: bool = True
    """Whether the data are counts (or real values)."""
    own_library_size: bool = True
    """Whether a cell's library size is the sum of its counts of these genes."""
    symbols: tuple[str, ...] = ()
    """Symbols of the genes, in their order; empty where they have only their names."""
    context_columns: int = 0
    """How many of the batch columns, from the first, are contexts: perturbations may act
    differently in them."""

    def __post_init__(self) -> None:
        if len(self.symbols) not in (0, len(self.genes)):
            raise InputError(f"there are {len(self.symbols)} symbols for {len(self.genes)} genes")

    @cached_property
    def var(self) -> pd.DataFrame:
        """The genes as a frame, with their symbols as the column "symbol" where they have any."""
        columns = {"symbol": list(self.symbols)} if self.symbols else None
        return pd.DataFrame(columns, index=list(self.genes))

    def with_genes(self, genes: Sequence[str]) -> NameRegistry:
        """Return the names with other genes, and their symbols (of a new gene, its name).

        >>> registry = NameRegistry(("g1", "g2"), ("A",), symbols=("KLF1", "SPI1"))
        >>> registry.with_genes(["g2"]).symbols
        ('SPI1',)
        """
        symbol = dict(zip(self.genes, self.symbols, strict=False))
        symbols = tuple(symbol.get(gene, gene) for gene in genes) if symbol else ()
        return replace(self, genes=tuple(genes), symbols=symbols)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The scales of effects in these data, the default first."""
        return ("lfc", "log", "normalized", "mean") if self.counts else ("mean",)

    @cached_property
    def column(self) -> Mapping[str, int]:
        """The column of dosage of each perturbation."""
        return {name: i for i, name in enumerate(self.perturbations)}

    def read(self, condition: object) -> dict[str, float]:
        """Return the dose of each perturbation in a condition, however that is named."""
        return self.parser.read(condition, self.column.keys())

    def stored(self, condition: object) -> str:
        """Return a condition as it is stored: sorted."""
        return self.parser.write(self.read(condition))

    def singles(self, condition: object) -> list[str]:
        """Return the single conditions that a condition consists of, as they are stored.

        >>> NameRegistry(("g",), ("A", "B")).singles("B+A")
        ['B', 'A']
        """
        return [self.parser.write({name: dose}) for name, dose in self.read(condition).items()]

    @cached_property
    def batch_names(self) -> tuple[str, ...]:
        """The batches as text.

        >>> NameRegistry(("g",), ("A",), (("day 1", "lane 2"),)).batch_names
        ('day 1, lane 2',)
        """
        return tuple(", ".join(levels) for levels in self.batches)

    @cached_property
    def batch_levels(self) -> tuple[tuple[str, ...], ...]:
        """Levels of each batch column, sorted."""
        return tuple(tuple(sorted(set(column))) for column in zip(*self.batches, strict=True))

    @cached_property
    def design(self) -> np.ndarray:
        """`batch covariate`: the batches as covariates, one-hot in each batch column.

        >>> NameRegistry(("g",), ("A",), (("x", "1"), ("x", "2"), ("y", "1"))).design
        array([[1., 0., 1., 0.],
               [1., 0., 0., 1.],
               [0., 1., 1., 0.]], dtype=float32)
        """
        columns = zip(zip(*self.batches, strict=True), self.batch_levels, strict=True)
        blocks = [np.array(column)[:, None] == np.array(levels) for column, levels in columns]
        return np.concatenate([np.zeros((len(self.batches), 0)), *blocks], 1).astype(np.float32)

    @cached_property
    def context_of_batch(self) -> np.ndarray:
        """`batch`: the position of its context in `contexts`."""
        place = {name: i for i, name in enumerate(self.contexts)}
        names = (", ".join(levels[: self.context_columns]) for levels in self.batches)
        return np.array([place[name] for name in names], np.int64)

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The contexts as text, sorted; empty without any.

        >>> batches = (("rest", "1"), ("IFNG", "1"), ("rest", "2"))
        >>> NameRegistry(("g",), ("A",), batches, context_columns=1).contexts
        ('IFNG', 'rest')
        """
        if not self.context_columns:
            return ()
        return tuple(sorted({", ".join(levels[: self.context_columns]) for levels in self.batches}))

    @cached_property
    def n_covariates(self) -> int:
        """Number of covariates: levels of all batch columns."""
        return sum(map(len, self.batch_levels))

    @cached_property
    def position_of_target(self) -> Mapping[str, int]:
        """Positions of the genes, by name and by symbol: perturbations are named after targets."""
        by_symbol = {name: i for i, name in reversed(list(enumerate(self.symbols)))}
        return by_symbol | {name: i for i, name in enumerate(self.genes)}

    def targets(self, condition: object) -> list[int]:
        """Return the positions of the genes that a condition's perturbations are named after.

        >>> NameRegistry(("JAK2", "STAT1"), ("STAT1", "X")).targets("STAT1+X")
        [1]
        """
        genes = self.position_of_target
        return [genes[name] for name in self.read(condition) if name in genes]

    def header(self) -> dict[str, Any]:
        """Return the names, for saving as JSON, by the keys of the file's format."""
        header = asdict(self)
        header["notation"] = header.pop("parser")
        if not self.context_columns:  # as in files before there were contexts
            del header["context_columns"]
        return header

    @classmethod
    def restored(cls, header: Mapping[str, Any]) -> Self:
        """Return the names that `header` returned."""
        parser = {**header["notation"], "also": tuple(header["notation"]["also"])}
        fields = {key: value for key, value in header.items() if key != "notation"}
        fields |= {key: tuple(header[key]) for key in ("genes", "perturbations", "symbols")}
        fields["batches"] = tuple(map(tuple, header["batches"]))
        return cls(**fields, parser=ConditionParser(**parser))


KINDS = ("shared", "deviation", "interaction")
"""Kinds of columns of dosage, each with a prior of its own."""


class Encoding(ABC):
    """Turns rows of dosage, `cell perturbation`, into rows of a model's own columns.

    Doses are divided by the `unit` of their perturbation, in training its median dose, so that
    nothing depends on the units in which a screen gives them.
    """

    columns: tuple[str, ...]
    """What each column stands for."""
    kinds: np.ndarray | None = None
    """`column`: position in `KINDS` of what each column is; None: all are shared effects."""

    def __init__(self, unit: np.ndarray) -> None:
        self.unit = unit
        """`perturbation`."""

    def __call__(self, dosage: sp.csr_matrix, batch: np.ndarray | None = None) -> sp.csr_matrix:
        """Return the rows, `cell column`.

        `batch`, `cell`, is the position of each among the batches; None: no batch in particular.
        """
        in_units = dosage.astype(np.float64)
        mantissa, exponent = np.frexp(in_units.data / self.unit[dosage.indices])
        # Rounded to 20 bits, since in other units the last digits of a dose are others.
        in_units.data = np.ldexp(np.round(mantissa * 2**20) / 2**20, exponent)
        return self.rows(in_units.astype(np.float32), batch)

    def among(self, registry: NameRegistry) -> Encoding:
        """Return the encoding of cells whose batches are those of a registry."""
        return self

    @property
    def is_shared(self) -> np.ndarray:
        """`column`: whether it is a shared effect, in all contexts and combinations."""
        kinds = np.zeros(len(self.columns), np.int64) if self.kinds is None else self.kinds
        return np.asarray(kinds == 0)

    @abstractmethod
    def rows(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> sp.csr_matrix:
        """Return the rows of doses in units, as above."""


class Separate(Encoding):
    """A column per perturbation: combinations are the sums of their parts."""

    def __init__(self, registry: NameRegistry, unit: np.ndarray | None = None) -> None:
        super().__init__(np.ones(len(registry.perturbations)) if unit is None else unit)
        self.columns = registry.perturbations

    def rows(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> sp.csr_matrix:
        return dosage


class Extended(Encoding):
    """Separate columns, and with them deviations by context, interactions of pairs, or both.

    z_i = z_i^b + sum_t d_it s_t + sum_t d_it v_t,c(i) + sum_{a<b} d_ia d_ib s_ab, where s_t is the
    shared effect of a perturbation: the mean over the k contexts in which it has training cells.
    The deviations sum to zero over these, so that no context is the reference: each has a column,
    v_tc = e_tc - mean_c' e_tc' (of k = 2 contexts one column, v = -+ e / sqrt(2), which is the same
    distribution). Pairs have columns where training cells received both. What has none - a
    perturbation in another context, another pair - is answered from the prior of its kind, by one
    column: of variance 1 + 1/k in a further context, as v_tc - mean_c' v_tc' has it, 1 for a pair.
    """

    def __init__(
        self,
        registry: NameRegistry,
        unit: np.ndarray,
        *,
        cells: np.ndarray,
        pairs: Sequence[tuple[int, int]] | None,
    ) -> None:
        """`cells` (`perturbation context`): training cells; `pairs`: measured ones, or None."""
        super().__init__(unit)
        self.registry = registry
        names, contexts = registry.perturbations, registry.contexts
        self.contexts = contexts
        self.deviations: list[tuple[int, int]] = []
        """Perturbation and context of each column of deviations."""
        n_contexts = len(contexts)
        place, column, value = [], [], []
        self._unseen = np.zeros(len(names) * n_contexts)
        for t, received in enumerate(cells > 0 if n_contexts > 1 else ()):
            known = np.flatnonzero(received)
            self._unseen.reshape(len(names), -1)[t, ~received] = np.sqrt(1 + 1 / max(1, len(known)))
            own = known if len(known) > 2 else known[1:]
            for c in own:
                weight = (known == c) - 1 / len(known)
                if len(known) == 2:
                    weight = weight * np.sqrt(2)
                place += (t * n_contexts + known).tolist()
                column += [len(self.deviations)] * len(known)
                value += weight.tolist()
                self.deviations.append((t, int(c)))
        shape = (len(names) * n_contexts, len(self.deviations))
        self.contrast = sp.csr_matrix((value, (place, column)), shape=shape)
        """`(perturbation context) deviation`: dose of each deviation per dose of perturbation."""
        self.pairs = list(pairs or ())
        """Perturbations of each column of interactions."""
        joined = registry.parser.separator or "+"
        columns = [*names, *(f"{names[t]} in {contexts[c]}" for t, c in self.deviations)]
        kinds = [0] * len(names) + [1] * len(self.deviations)
        if n_contexts > 1:
            columns, kinds = [*columns, "another deviation"], [*kinds, 1]
        columns += [f"{names[a]}{joined}{names[b]}" for a, b in self.pairs]
        kinds += [2] * len(self.pairs)
        self.has_interactions = pairs is not None
        if self.has_interactions:
            columns, kinds = [*columns, "another interaction"], [*kinds, 2]
        self.columns, self.kinds = tuple(columns), np.array(kinds)

    def among(self, registry: NameRegistry) -> Encoding:
        if registry.batches == self.registry.batches:
            return self
        other = copy(self)
        other.registry = registry
        return other

    def rows(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> sp.csr_matrix:
        blocks = [dosage]
        if len(self.contexts) > 1:
            blocks += self._deviations(dosage, batch)
        if self.has_interactions:
            blocks += self._interactions(dosage)
        encoded = sp.hstack(blocks, "csr", dtype=np.float32)
        encoded.eliminate_zeros()
        encoded.sort_indices()
        return encoded

    def _deviations(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> list[sp.spmatrix]:
        n = dosage.shape[0]
        if batch is None:  # the mean over contexts
            return [sp.csr_matrix((n, len(self.deviations) + 1), dtype=np.float32)]
        place = {name: i for i, name in enumerate(self.contexts)}
        of_context = np.array([place[name] for name in self.registry.contexts])
        own = of_context[self.registry.context_of_batch][batch]
        which = dosage.indices * len(self.contexts) + np.repeat(own, np.diff(dosage.indptr))
        shape = (n, self.contrast.shape[0])
        received = sp.csr_matrix((dosage.data.astype(float), which, dosage.indptr), shape=shape)
        unseen = np.sqrt(received.power(2) @ self._unseen**2)
        return [received @ self.contrast, sp.csr_matrix(unseen[:, None])]

    def _interactions(self, dosage: sp.csr_matrix) -> list[sp.spmatrix]:
        both = dosage.astype(float).tocsc()
        a, b = np.array(self.pairs, np.int64).reshape(-1, 2).T
        measured = sp.csr_matrix(both[:, a].multiply(both[:, b]))
        square = both.power(2)
        # The sum of (d_a d_b)^2 over all pairs of a cell, less that over those with a column.
        total, fourth = (np.asarray(x.sum(1)).ravel() for x in (square, square.power(2)))
        every = (total**2 - fourth) / 2
        rest = every - np.asarray(measured.power(2).sum(1)).ravel()
        unseen = np.sqrt(np.where(rest > 1e-6 * np.maximum(every, 1e-300), rest, 0))
        return [measured, sp.csr_matrix(unseen[:, None])]


class Joint(Encoding):
    """A column per training condition; others are an error, or encoded as control."""

    def __init__(
        self,
        registry: NameRegistry,
        unit: np.ndarray,
        conditions: Sequence[str],
        *,
        unseen_as_control: bool,
    ) -> None:
        super().__init__(unit)
        self.columns = tuple(conditions)
        self.registry = registry
        self.unseen_as_control = unseen_as_control
        self._column_of: dict[tuple[int, ...], int] = {}
        received = dosage_rows(list(map(registry.read, conditions)), registry.column)
        for column, row in enumerate(np.split(received.indices, received.indptr[1:-1].tolist())):
            self._column_of[tuple(sorted(row))] = column
        self(received)  # an error if a perturbation has several doses

    def rows(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> sp.csr_matrix:
        self._check_doses(dosage)
        rows = np.split(dosage.indices, dosage.indptr[1:-1].tolist())
        received = [tuple(sorted(row)) for row in rows]
        unseen = {row for row in received if row and row not in self._column_of}
        if unseen and not self.unseen_as_control:
            names, write = self.registry.perturbations, self.registry.parser.write
            conditions = sorted(write({names[t]: 1.0 for t in row}) for row in unseen)
            raise InputError(
                f"conditions never seen in training: {listed(conditions)}; "
                "this model takes each combination as a perturbation of its own and knows only the "
                "conditions it has seen (one made with unseen_as_control=True predicts the others "
                "as control)"
            )
        indptr = np.cumsum([0, *(row in self._column_of for row in received)])
        columns = [self._column_of[row] for row in received if row in self._column_of]
        ones, shape = np.ones(len(columns), np.float32), (len(received), len(self.columns))
        return sp.csr_matrix((ones, np.array(columns, np.int64), indptr), shape=shape)

    def _check_doses(self, dosage: sp.csr_matrix) -> None:
        graded = np.flatnonzero(dosage.data != 1)
        if len(graded):
            column = dosage.indices[graded[0]]
            got, usual = dosage.data[graded[0]] * self.unit[column], self.unit[column]
            raise InputError(
                f"got a dose of {got:g} of {self.registry.perturbations[column]!r}, whose median "
                f"dose is {usual:g}: this model takes each combination as a perturbation of "
                "its own, received or not, so each has one dose; take another model, or leave "
                "dosage_key out"
            )
