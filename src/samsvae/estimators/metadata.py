"""Training metadata: what a model needs to know of its training cells to answer without data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.conditions import Conditions, dosage_rows
from samsvae.data.expression import training_cells
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, note, unknown
from samsvae.inference.unmeasured import UnmeasuredEffects

_MANY_COUNTS = 100.0
"""Of a gene in a condition, with which validation cells show how far a prediction is off."""

_OF_OTHERS = (
    "of one without cells, features can tell: model.with_features(samsvae.features.read(...)), or "
    "samsvae features RUN DATA FILE"
)


@dataclass(frozen=True, eq=False)
class TrainingMetadata:
    """Names and numbers of the training cells."""

    registry: NameRegistry
    conditions: tuple[str, ...]
    """Conditions of the training cells, control first."""
    cells_per_condition: np.ndarray
    """`condition`: number of training cells."""
    cells_per_perturbation: np.ndarray
    """`perturbation`: n_t, number of training cells that received it."""
    median_dose: np.ndarray
    """`perturbation`: median dose of the training cells that received it, in which the model counts
    its doses; 1 if none did."""
    library_size: np.ndarray
    """`cell`, counts: of the training cells, sorted by condition."""
    batch_shares: np.ndarray
    """`batch`: share of the training cells in each; empty where there are none."""
    cells_per_batch: np.ndarray
    """`condition batch`: number of training cells; without batches, one column holds all."""
    unexpressed: np.ndarray
    """`gene`: whether all training cells have zero counts of it."""
    unobserved: bool
    """Whether library sizes count more than the screen's genes."""
    spread_of_condition: np.ndarray | None = None
    """`condition`: u of the variance u_c w_g + b m^2 by which effects differ from the model's (see
    `samsvae.inference.discrepancy`); None: not learned. Control's is 0."""
    spread_of_gene: np.ndarray | None = None
    """`gene`: w of it."""
    discrepancy_slope: np.ndarray | None = None
    """`one`: b of it."""
    counts_of_gene: np.ndarray | None = None
    """`gene`: counts in all training cells; None: no counts, or an older model."""
    counts_of_condition: np.ndarray | None = None
    """`condition`: counts of all these genes."""
    sgrnas: tuple[tuple[str, str], ...] = ()
    """Pairs of sgRNA and perturbation in the training cells, where sgRNAs are known: sorted."""
    unmeasured: UnmeasuredEffects | None = None
    """What features say of perturbations; None: no features were given."""

    @classmethod
    def of(cls, screen: Screen) -> TrainingMetadata:
        """Return the metadata of a screen's training cells.

        It is an error if there are none, or no control or no perturbed cells among them.
        """
        train = training_cells(screen)
        unexpressed = train.unexpressed
        if unexpressed.any():
            note(
                f"{unexpressed.sum()} of {len(unexpressed)} genes are zero in all training cells: "
                "the model learns nothing about them"
            )
        _note_untrained(screen, train)
        order = np.argsort(train.condition, kind="stable")
        n_batches = len(screen.registry.batches)
        kinds, place, n_cells = np.unique(train.condition, return_inverse=True, return_counts=True)
        per_batch = np.zeros((len(kinds), max(1, n_batches)), np.int64)
        np.add.at(per_batch, (place, train.batch), 1)
        received = train.dosage.tocsc()
        doses = np.split(received.data, received.indptr[1:-1].tolist())
        of_gene = of_condition = None
        if screen.registry.counts:
            of_gene, of_condition = train.gene_totals, np.bincount(place, train.counted)
        metadata = cls(
            screen.registry,
            train.conditions,
            n_cells,
            train.cells_per_perturbation,
            np.array([np.median(some) if len(some) else 1.0 for some in doses]),
            train.library_size[order],
            np.bincount(train.batch, minlength=n_batches)[:n_batches] / len(train),
            per_batch,
            unexpressed,
            unobserved=bool((train.library_size > train.counted + 0.5).any()),
            counts_of_gene=of_gene,
            counts_of_condition=of_condition,
            sgrnas=_sgrnas(train),
        )
        strange = [
            name for name in metadata.trained_perturbations if name not in metadata.estimable
        ]
        if strange:
            note(
                f"the effects of {listed(strange)} are confounded with those of their batches: "
                "none of these has control cells, or conditions that link it to control; the "
                "effects are marked as not estimable"
            )
        return metadata

    @cached_property
    def trained_perturbations(self) -> tuple[str, ...]:
        """Perturbations that training cells received."""
        names = self.registry.perturbations
        return tuple(
            n for n, cells in zip(names, self.cells_per_perturbation, strict=True) if cells
        )

    @cached_property
    def estimable(self) -> frozenset[str]:
        """Perturbations whose effects are not confounded with batches.

        They have cells in a batch with control cells, or one that conditions link to such a batch.
        """
        present = self.cells_per_batch > 0
        linked = present[0]  # control comes first
        while (more := linked | present[(present & linked).any(1)].any(0)).sum() > linked.sum():
            linked = more
        conditions = zip(self.conditions, (present & linked).any(1), strict=True)
        return frozenset(
            part
            for name, linked_to_control in conditions
            if linked_to_control
            for part in self.registry.read(name)
        )

    def is_estimable(self, condition: str) -> bool:
        """Whether the effect of a condition is not confounded with batches."""
        return self.estimable.issuperset(self.registry.read(self.measured_part(condition)))

    @cached_property
    def _of_features_only(self) -> dict[str, int]:
        """The column of each perturbation that has features, but no training cells."""
        if self.unmeasured is None:
            return {}
        rows = np.flatnonzero(self.unmeasured.has_features & (self.cells_per_perturbation == 0))
        return {self.registry.perturbations[row]: int(row) for row in rows}

    def unmeasured_parts(self, condition: str) -> dict[int, float]:
        """Return the dose of each perturbation of a condition that only features are known of.

        By its column of dosage.
        """
        columns = self._of_features_only
        read = self.registry.read(condition) if columns else {}
        return {columns[name]: dose for name, dose in read.items() if name in columns}

    def has_features_only(self, condition: str) -> bool:
        """Return whether no perturbation of a condition has training cells, but features."""
        control = self.registry.parser.control
        return condition != control and self.measured_part(condition) == control

    def measured_part(self, condition: str) -> str:
        """Return a condition without the perturbations that only features are known of."""
        columns = self._of_features_only
        if not columns:
            return condition
        read = self.registry.read(condition)
        return self.registry.parser.write({k: v for k, v in read.items() if k not in columns})

    @cached_property
    def _places(self) -> dict[str, int]:
        """The row of each condition of the training cells."""
        return {name: i for i, name in enumerate(self.conditions)}

    @property
    def cells_per_context(self) -> np.ndarray:
        """`perturbation context`: number of training cells."""
        registry = self.registry
        by_context = self.of_contexts(self.cells_per_batch)
        received = dosage_rows(list(map(registry.read, self.conditions)), registry.column) != 0
        return np.asarray(received.T @ by_context)

    def of_contexts(self, by_batch: np.ndarray) -> np.ndarray:
        """Return sums over the batches of each context, `... context`, of `... batch`."""
        context = self.registry.context_of_batch
        is_of = context[:, None] == np.arange(len(self.registry.contexts))
        return np.asarray(by_batch[..., : len(context)] @ is_of)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of perturbations that training cells received together, as columns of dosage."""
        column, read = self.registry.column, self.registry.read
        received = (sorted(map(column.__getitem__, read(name))) for name in self.conditions)
        return sorted({pair for parts in received for pair in combinations(parts, 2)})

    def discrepancy(self, conditions: Sequence[str], effect: np.ndarray) -> np.ndarray:
        """Return the variance of true effects about those predicted, `condition gene`.

        What was learned of it, 0 if nothing was; of a condition that it was not learned of, u is
        the mean of the others. Besides that of genes with few counts, of which nothing can be
        learned.
        """
        of_counts = self._variance_of_counts(conditions)
        if self.spread_of_condition is None or self.spread_of_gene is None:
            return of_counts + np.zeros_like(effect)
        u = self.spread_of_condition
        place = [self._places.get(name, -1) for name in conditions]
        of_condition = np.array([u[i] if i >= 0 else u[1:].mean() for i in place])
        slope = 0.0 if self.discrepancy_slope is None else float(self.discrepancy_slope[0])
        return of_condition[:, None] * self.spread_of_gene + slope * effect**2 + of_counts

    def _variance_of_counts(self, conditions: Sequence[str]) -> np.ndarray:
        """Return the variance of log2 fold changes that few counts leave, `condition gene`.

        With n the counts of a gene that are expected in a condition's training cells, 1 / (n + 1/2)
        less that of 100 counts, and never below 0. Of a combination without cells n is the least
        of its parts. Such genes contradict no prediction: the weights of the decoder may be what
        they were when training began.
        """
        if self.counts_of_gene is None or self.counts_of_condition is None:
            return np.zeros((len(conditions), len(self.registry.genes)))
        of_perturbation: dict[str, float] = {}
        for name, counts in zip(self.conditions, self.counts_of_condition, strict=True):
            for part in self.registry.read(name):
                of_perturbation[part] = of_perturbation.get(part, 0.0) + counts
        totals = [
            self.counts_of_condition[self._places[name]]
            if name in self._places
            else min(of_perturbation[part] for part in self.registry.read(name))
            for name in conditions
        ]
        share = self.counts_of_gene / max(self.counts_of_gene.sum(), 1)
        expected = np.outer(totals, share)
        few = 1 / (expected + 0.5) - 1 / (_MANY_COUNTS + 0.5)
        is_control = np.array([[name == self.conditions[0]] for name in conditions])
        variance: np.ndarray = np.where(is_control, 0, np.maximum(few, 0) / np.log(2) ** 2)
        return variance

    def n_cells(self, condition: str, context: str | None = None) -> int:
        """Return the number of training cells of a condition (as it is stored), in a context."""
        place = self._places.get(condition)
        if place is None:
            return 0
        if context is None:
            return int(self.cells_per_condition[place])
        return int(self.cells_per_batch[place] @ self.is_of_context(context))

    def library_sizes(self, condition: str) -> np.ndarray:
        """Return the library sizes of a condition's training cells; of all, if it has none."""
        place = self._places.get(condition)
        if place is None:
            return self.library_size
        end = int(self.cells_per_condition[: place + 1].sum())
        return self.library_size[end - self.n_cells(condition) : end]

    def check_trained(self, perturbations: np.ndarray) -> None:
        """Raise if no training cell received one of these perturbations (columns of dosage)."""
        names, known = self.registry.perturbations, self._of_features_only
        untrained = [names[t] for t in perturbations if not self.cells_per_perturbation[t]]
        strange = [name for name in untrained if name not in known]
        if strange:
            why = _OF_OTHERS if self.unmeasured is None else "no features are known of these"
            raise InputError(
                f"perturbations never seen in training: {listed(strange)}; combinations need not "
                f"be seen, but each of their perturbations must; {why}"
            )

    def check_batches(self, batches: Iterable[tuple[str, ...]]) -> None:
        """Raise if a level of one of these batches is not in the training cells."""
        shares = zip(self.registry.batches, self.batch_shares, strict=True)
        seen = [levels for levels, share in shares if share]
        for i, known in enumerate(map(set, zip(*seen, strict=True))):
            strange = sorted({levels[i] for levels in batches} - known)
            if strange:
                raise InputError(
                    f"batches never seen in training: {listed(strange)}; the model knows "
                    f"{listed(sorted(known))}"
                )

    def labels(self, conditions: Conditions | None) -> list[str]:
        """Return the requested conditions, once each; by default those of the training cells."""
        wanted = self.conditions[1:] if conditions is None else conditions
        return self.registry.parser.labels(wanted)

    def stored(self, condition: object) -> str:
        """Return a condition as it is stored: sorted."""
        return self.registry.parser.write(self._read(condition))

    def _read(self, condition: object) -> dict[str, float]:
        """Return the dose of each perturbation in a condition; say what tells of unknown ones."""
        try:
            return self.registry.read(condition)
        except InputError as error:
            if str(error).startswith("no perturbation "):
                raise InputError(f"{error}; {_OF_OTHERS}") from None
            raise

    def received(self, conditions: Sequence[str]) -> sp.csr_matrix:
        """Return conditions, refusing perturbations never seen in training."""
        rows = dosage_rows(list(map(self._read, conditions)), self.registry.column)
        self.check_trained(np.unique(rows.indices))
        return rows

    def observed_shares(self, condition: str) -> np.ndarray:
        """Return the share of each batch in a condition's training cells (in all, without any)."""
        n_cells = self.n_cells(condition)
        if not (n_cells and len(self.batch_shares)):
            return self.batch_shares
        shares: np.ndarray = self.cells_per_batch[self._places[condition]] / n_cells
        return shares

    def in_context(self, context: str | None, n: int) -> np.ndarray | None:
        """Return a batch of a context, n times: what an `Encoding` takes; None without one."""
        if context is None:
            return None
        return np.full(n, np.flatnonzero(self.is_of_context(context))[0])

    def is_of_context(self, context: str) -> np.ndarray:
        """Return whether each batch is of a context, `batch`; raise if there are no such cells."""
        registry = self.registry
        if not registry.contexts:
            raise InputError(
                f"got context={context!r}, but the model has no contexts: read the screen with "
                "context_key"
            )
        shares = self.of_contexts(self.batch_shares)
        known = [name for name, share in zip(registry.contexts, shares, strict=True) if share]
        if context not in known:
            raise unknown("context", context, known)
        is_of: np.ndarray = registry.context_of_batch == registry.contexts.index(context)
        return is_of

    def within(self, shares: np.ndarray, context: str | None) -> np.ndarray:
        """Return the shares of batches, `batch`, among those of a context (training's, if 0)."""
        if context is None:
            return shares
        is_of = self.is_of_context(context)
        own = shares * is_of
        own = own if own.sum() else self.batch_shares * is_of
        return np.asarray(own / own.sum())

    def shares_of(self, batch: str | None) -> np.ndarray:
        """Return the share of each batch: that of the training cells, or 1 for a given batch."""
        if batch is None:
            return self.batch_shares
        names = self.registry.batch_names
        if batch not in names:
            raise unknown("batch", batch, names)
        self.check_batches([self.registry.batches[names.index(batch)]])
        return np.array([float(name == batch) for name in names])

    def tensors(self) -> dict[str, Tensor]:
        """Return the arrays, for saving."""
        arrays = {name: v for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        arrays["silent"] = arrays.pop("unexpressed")  # its name in the file's format
        own = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in arrays.items()}
        return own | ({} if self.unmeasured is None else self.unmeasured.tensors())

    def header(self) -> dict[str, Any]:
        """Return the names and flags, for saving as JSON."""
        return {
            "vocabulary": self.registry.header(),
            "conditions": list(self.conditions),
            "unobserved": self.unobserved,
            "dose_unit": "median",
            "sgrnas": [list(pair) for pair in self.sgrnas],
        }

    @classmethod
    def restored(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainingMetadata:
        """Return the metadata that `header` and `tensors` returned."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        arrays["unexpressed"] = arrays.pop("silent")
        unmeasured = UnmeasuredEffects.taken_from(arrays)
        if header.get("dose_unit") != "median":  # saved when doses were those of the screen
            arrays["median_dose"] = np.ones_like(arrays["median_dose"])
        return cls(
            registry=NameRegistry.restored(header["vocabulary"]),
            conditions=tuple(header["conditions"]),
            unobserved=header["unobserved"],
            sgrnas=tuple((str(a), str(b)) for a, b in header.get("sgrnas", ())),
            unmeasured=unmeasured,
            **arrays,
        )


def _sgrnas(train: Screen) -> tuple[tuple[str, str], ...]:
    if train.sgrna is None:
        return ()
    received = train.dosage.tocoo()
    codes = train.sgrna.codes[received.row]
    pairs = np.unique(np.stack([codes, received.col])[:, codes >= 0], axis=1).T
    names, sgrnas = train.perturbations, train.sgrna.categories
    return tuple(sorted((str(sgrnas[code]), names[column]) for code, column in pairs))


def _note_untrained(screen: Screen, train: Screen) -> None:
    """Warn of perturbations and batches that only validation and test cells have."""
    scored = screen[np.isin(np.asarray(screen.split), ["valid", "test"])]
    names = screen.perturbations
    is_untrained = (scored.cells_per_perturbation > 0) & (train.cells_per_perturbation == 0)
    untrained = {"perturbations": [names[t] for t in np.flatnonzero(is_untrained)]}
    levels = screen.registry.batches
    if levels:
        of_scored, of_train = (
            [
                set(column)
                for column in zip(*(levels[i] for i in np.unique(cells.batch)), strict=True)
            ]
            for cells in (scored, train)
        )
        pairs = zip(of_scored, of_train, strict=False)
        untrained["batches"] = sorted(
            name for names_scored, trained in pairs for name in names_scored - trained
        )
    for what, those in untrained.items():
        if those:
            note(
                f"{what} that only validation or test cells have: {listed(those)}; the model "
                "learns nothing about them, and cannot score these cells"
            )
