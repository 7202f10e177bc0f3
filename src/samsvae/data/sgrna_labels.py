"""From counts of sgRNAs to the label of each cell: the targets of what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.sgrna_assignment import SEVERAL, SgrnaAssignment, assignment_of
from samsvae.data.sgrna_targets import CONTROL
from samsvae.errors import InputError, listed, note
from samsvae.settings.screen import ScreenSettings
from samsvae.storage.anndata_files import Frame, Table

_PERTURBATION, _SGRNA = "perturbation", "sgrna"
"""The columns that an assignment makes."""
_PRESENT, _SURE, _POSSIBLE = 0.5, 0.95, 0.05
"""Posteriors of presence above which an sgRNA is more likely there than not, surely, possibly."""
_MAX_TARGETS = 2
"""Targets that may be in an uncertain cell: all their subsets are summed over in training."""
_LEAST = 1e-9
"""Probability of absence below which an sgRNA is there."""


class SgrnaLabels(NamedTuple):
    """A table with the labels that sgRNAs give."""

    table: Table
    """With columns "perturbation" and "sgrna"."""
    settings: ScreenSettings
    """That read those columns."""
    assignment: SgrnaAssignment
    is_used: np.ndarray
    """`cell`: whether it has a label: the others are left out."""
    absent: sp.csr_matrix | None
    """`cell target`: the probability that the cell has not what its label says, where sgRNAs are
    uncertain."""
    targets: tuple[str, ...]

    def absence(self, perturbations: Sequence[str]) -> sp.csr_matrix | None:
        """Return `absent` by perturbation: those targets that are no control."""
        if self.absent is None or not self.absent.nnz:
            return None
        return sp.csr_matrix(
            self.absent[:, pd.Index(self.targets).get_indexer(pd.Index(perturbations))]
        )


def sgrnas_are_used(table: Table, settings: ScreenSettings) -> bool:
    """Whether labels are to come from sgRNA counts: if asked for, or where there are no others."""
    if settings.sgrna_assignment is not None:
        return True
    key = settings.perturbation_key
    has_labels = key in table.cells.columns
    if table.sgrnas is not None and has_labels:
        note(
            f"the sgRNA counts are not used, obs[{key!r}] has the labels: sgrna_assignment="
            "'dominant' (--sgrna-assignment) assigns them"
        )
    return table.sgrnas is not None and not has_labels and key == _PERTURBATION


def labels_by_sgrna(table: Table, settings: ScreenSettings) -> SgrnaLabels:
    """Return a table with the target of each cell's sgRNA as its label; say how many have one.

    Cells with several sgRNAs are left out where most cells hold one, or as `several_sgrnas` says.
    """
    assignment = assignment_of(table, settings.sgrna_assignment)
    separator = settings.separator or ""
    is_several = np.asarray(assignment.status == SEVERAL)
    combine = settings.several_sgrnas == "combine"
    if settings.several_sgrnas is None:
        combine = int(is_several.sum()) > int(assignment.has_one.sum())
    if (combine or settings.uncertain_sgrnas) and not separator:
        raise InputError(
            "cells may hold several sgRNAs (most do, or several_sgrnas or uncertain_sgrnas is "
            "given): expected a separator that joins their targets, such as '+'"
        )
    joined = sorted({t for t in assignment.targets if separator and separator in t})
    if joined:
        raise InputError(
            f"the separator {separator!r} stands inside targets of sgRNAs, {listed(joined, 3)}: "
            "give another one (--separator)"
        )
    is_used = assignment.has_one | (combine & is_several)
    presence, text = assignment.called, assignment.summary()
    if combine:
        text += "; those with several are combinations of their targets"
    if settings.uncertain_sgrnas:
        is_uncertain = _uncertain(assignment, combine=combine) & ~is_used
        presence = _either(assignment.posterior, presence, is_uncertain)
        is_used |= is_uncertain
        text += f"; {int(is_uncertain.sum()):,} of the others are kept as uncertain"
    if not is_used.any():
        raise InputError(f"no cell is left: {text}")
    if not is_used.all():
        text += f"; {int((~is_used).sum()):,} cells are left out"
    note(text)
    of_target, targets = _by_target(assignment, presence)
    names = np.array(targets, object)
    rows = np.split(of_target.indices, of_target.indptr[1:-1])
    label = np.array([separator.join(names[row]) or CONTROL for row in rows], object)
    columns = {
        _PERTURBATION: np.where(is_used, label, CONTROL),
        _SGRNA: _only(assignment, presence),
    }
    control = tuple(dict.fromkeys([CONTROL, *settings.controls]))
    chosen = replace(settings, perturbation_key=_PERTURBATION, sgrna_key=_SGRNA, control=control)
    absent = None
    if settings.uncertain_sgrnas:
        absent = of_target.copy()
        absent.data = 1 - absent.data
        absent.eliminate_zeros()
    return SgrnaLabels(
        _with_columns(table, columns), chosen, assignment, is_used, absent, tuple(targets)
    )


def _uncertain(one: SgrnaAssignment, *, combine: bool) -> np.ndarray:
    """Return `cell`: whether one or two targets, or control, may be there, and not surely several.

    With `combine` cells with several sure sgRNAs count, too.
    """
    posterior = one.posterior
    n_sure = np.asarray((posterior > _SURE).sum(1)).ravel()
    is_there = np.asarray((posterior > _PRESENT).sum(1)).ravel() > 0
    n_targets = np.diff(_by_target(one, _possible(posterior))[0].indptr)
    is_told = is_there | (n_targets > 0)
    return is_told & (n_targets <= _MAX_TARGETS) & ((n_sure <= 1) | combine)


def _possible(posterior: sp.csr_matrix) -> sp.csr_matrix:
    """Return the posterior of presence of sgRNAs that may be there."""
    return sp.csr_matrix(posterior.multiply(posterior > _POSSIBLE))


def _either(
    posterior: sp.csr_matrix, called: sp.csr_matrix, is_uncertain: np.ndarray
) -> sp.csr_matrix:
    """Return the posterior of presence of uncertain cells, 1 for what is called in the others."""
    uncertain, others = (
        sp.diags_array(rows.astype(float)) for rows in (is_uncertain, ~is_uncertain)
    )
    return sp.csr_matrix(uncertain @ _possible(posterior) + others @ called.astype(float))


def _by_target(one: SgrnaAssignment, presence: sp.csr_matrix) -> tuple[sp.csr_matrix, list[str]]:
    """Return the probability that any sgRNA of a target is present, `cell target`; and targets."""
    targets = sorted(set(one.targets) - {CONTROL})
    column = pd.Index(targets).get_indexer(pd.Index(one.targets))
    rows = np.flatnonzero(column >= 0)
    shape = len(column), len(targets)
    of_target = sp.csr_matrix((np.ones(len(rows)), (rows, column[rows])), shape=shape)
    log_absent = sp.csr_matrix(presence, dtype=float, copy=True)
    log_absent.eliminate_zeros()
    log_absent.data = np.log1p(-np.minimum(log_absent.data, 1 - _LEAST))
    of_cells = sp.csr_matrix(log_absent @ of_target)
    of_cells.data = -np.expm1(of_cells.data)
    of_cells.data[of_cells.data > 1 - 2 * _LEAST] = 1.0
    of_cells.sort_indices()
    return of_cells, targets


def _only(one: SgrnaAssignment, presence: sp.csr_matrix) -> np.ndarray:
    """Return the only sgRNA that a cell may hold, `cell`; None where there are others, or none."""
    presence = sp.csr_matrix(presence)
    presence.eliminate_zeros()
    n = np.diff(presence.indptr)
    sgrna = np.full(len(n), None, object)
    sgrna[n == 1] = np.asarray(one.sgrnas, object)[presence.indices[presence.indptr[:-1][n == 1]]]
    return sgrna


def _with_columns(table: Table, columns: dict[str, np.ndarray]) -> Table:
    """Return a table with columns of the cells, in place of those of the same names."""
    own = table.cells

    def read(key: str) -> pd.Series:
        return pd.Series(columns[key], own.names) if key in columns else own.read(key)

    names = list(dict.fromkeys([*own.columns, *columns]))
    return replace(table, cells=Frame(own.names, names, read))
