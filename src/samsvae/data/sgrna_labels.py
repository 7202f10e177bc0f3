"""From counts of sgRNAs to the label of each cell: the targets of what it holds."""

from __future__ import annotations

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


class SgrnaLabels(NamedTuple):
    """A table with the labels that sgRNAs give."""

    table: Table
    """With columns "perturbation" and "sgrna"."""
    settings: ScreenSettings
    """That read those columns."""
    assignment: SgrnaAssignment
    is_used: np.ndarray
    """`cell`: whether it has a label: the others are left out."""


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
    combine = settings.several_sgrnas == "combine"
    if settings.several_sgrnas is None:
        n_several = int((assignment.status == SEVERAL).sum())
        combine = n_several > int(assignment.has_one.sum())
    if combine and not separator:
        raise InputError(
            "most cells hold several sgRNAs, or several_sgrnas='combine' is given: expected a "
            "separator that joins their targets, such as '+'"
        )
    label, sgrna = _labels(assignment, separator)
    is_used = assignment.has_one | (combine & np.asarray(assignment.status == SEVERAL))
    if not is_used.any():
        raise InputError(f"no cell is left: {assignment.summary()}")
    joined = sorted({t for t in assignment.targets if separator and separator in t})
    if joined:
        raise InputError(
            f"the separator {separator!r} stands inside targets of sgRNAs, {listed(joined, 3)}: "
            "give another one (--separator)"
        )
    text = assignment.summary()
    if combine:
        text += "; those with several are combinations of their targets"
    if not is_used.all():
        text += f"; {int((~is_used).sum()):,} cells are left out"
    note(text)
    columns = {_PERTURBATION: np.where(is_used, label, CONTROL), _SGRNA: sgrna}
    control = tuple(dict.fromkeys([CONTROL, *settings.controls]))
    keys = {"perturbation_key": _PERTURBATION, "sgrna_key": _SGRNA}
    chosen = replace(settings, **keys, control=control)
    return SgrnaLabels(_with_columns(table, columns), chosen, assignment, is_used)


def _labels(one: SgrnaAssignment, separator: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets of the sgRNAs that each cell holds, joined, and its sgRNA if it is one."""
    targets = sorted(set(one.targets) - {CONTROL})
    column = pd.Index(targets).get_indexer(pd.Index(one.targets))
    hits = np.flatnonzero(column >= 0)
    of_target = sp.csr_matrix(
        (np.ones(len(hits), np.int8), (hits, column[hits])), shape=(len(column), len(targets))
    )
    held = sp.csr_matrix(one.called.astype(np.int32) @ of_target.astype(np.int32))
    held.sort_indices()
    names = np.array(targets, object)
    rows = np.split(held.indices, held.indptr[1:-1])
    label = np.array([separator.join(names[row]) or CONTROL for row in rows], object)
    called = one.called
    n = np.diff(called.indptr)
    sgrna = np.full(len(label), None, object)
    sgrna[n == 1] = np.asarray(one.sgrnas, object)[called.indices[called.indptr[:-1][n == 1]]]
    return label, sgrna


def _with_columns(table: Table, columns: dict[str, np.ndarray]) -> Table:
    """Return a table with columns of the cells, in place of those of the same names."""
    own = table.cells

    def read(key: str) -> pd.Series:
        return pd.Series(columns[key], own.names) if key in columns else own.read(key)

    names = list(dict.fromkeys([*own.columns, *columns]))
    return replace(table, cells=Frame(own.names, names, read))
