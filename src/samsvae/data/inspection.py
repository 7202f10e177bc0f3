"""What a file holds, and how it is to be read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data import columns
from samsvae.data.conditions import ConditionParser
from samsvae.data.counts import looks_like_counts
from samsvae.data.files.anndata_files import Table, by_rows
from samsvae.data.labels import SEPARATORS, joined, looks_like_control, text_of
from samsvae.data.names import SPLITS
from samsvae.data.normalised import looks_normalised
from samsvae.data.reader import places, take
from samsvae.errors import InputError
from samsvae.settings.conventions import convention
from samsvae.settings.screen import ScreenSettings

COUNTS, NORMALISED, OTHER, EMPTY = (
    "counts",
    "normalised counts (samsvae.counts_from_normalised turns them back)",
    "real values",
    "empty",
)
_NAMES = {
    "perturbation": (
        *("perturbation", "condition", "gene_target", "target_gene", "target", "gene"),
        *("perturbation_name", "guide_identity", "perturbed_gene", "treatment", "drug", "compound"),
    ),
    "sgrna": ("guide", "guide_id", "guide_ID", "sgrna", "sgRNA", "grna", "gRNA", "sgID_AB"),
    "batch": (
        *("batch", "bio_rep", "replicate", "gem_group", "gemgroup", "lane", "sample", "donor"),
        *("library", "channel"),
    ),
    "dosage": ("dosage", "dose", "dose_val", "dose_value", "concentration"),
    "split": ("split",),
    "library size": ("total_counts", "n_counts", "nCount_RNA", "UMI_count", "ncounts"),
}
"""What columns are called that hold something, the likeliest first."""
_MOST_BATCHES = 500


@dataclass(frozen=True)
class Inspection:
    """What a file holds, and how it is to be read."""

    n_cells: int
    n_genes: int
    matrices: Mapping[str, str]
    """What each holds, by what it is called."""
    columns: Mapping[str, str]
    """Of the cells, by what they seem to hold."""
    convention: str | None
    """That the columns look like."""
    settings: Mapping[str, Any]
    """How to read it, where that differs from the defaults."""
    cells: pd.Series | None
    """Cells per condition, control first; None if it cannot be read so."""
    remarks: tuple[str, ...]
    """What reading it so tells: notes, or the error."""


def inspected(table: Table) -> Inspection:
    """Look at what a table holds; nothing is asked of it but to be one."""
    held = {name: _kind(matrix) for name, matrix in places(table).items()}
    fits = columns.fitting(table)
    chosen: dict[str, Any] = {} if fits is None else {"convention": fits}
    known = {} if fits is None else convention(fits).settings
    found = _roles(table, fits)
    if fits is None and "perturbation" in found:
        chosen |= _notation(table, found["perturbation"])
    for role, column in found.items():
        key = f"{role.replace(' ', '_')}_key"
        if role != "perturbation" and key not in known:
            chosen[key] = column
    chosen |= _layer(held, known.get("layer"))
    cells, remarks = _read(table, chosen)
    shape = len(table.cells.names), len(table.genes.names)
    return Inspection(*shape, held, found, fits, chosen, cells, remarks)


def _kind(matrix: Any) -> str:
    if matrix is None:
        return EMPTY
    if looks_like_counts(matrix):
        return COUNTS
    return NORMALISED if looks_normalised(matrix) else OTHER


def _roles(table: Table, fits: str | None) -> dict[str, str]:
    """Return columns by what they seem to hold."""
    there = table.cells.columns
    found = {}
    if fits is not None:
        layout = convention(fits)
        found["perturbation"] = layout.perturbation_key(there)
        for name, value in layout.settings.items():
            role = {"sgrna_key": "sgrna", "dosage_key": "dosage", "split_key": "split"}.get(name)
            if role is not None and value in there:
                found[role] = value
    for role, names in _NAMES.items():
        taken = found.values()
        candidates = [name for name in names if name in there and name not in taken]
        good = [name for name in candidates if _may_be(role, name, table)]
        if good and role not in found:
            found[role] = good[0]
    return found


def _may_be(role: str, name: str, table: Table) -> bool:
    values = table.cells.read(name)
    if role == "perturbation":
        return values.dtype.kind != "f" and values.nunique() > 1
    if role == "batch":
        return 1 < values.nunique() <= _MOST_BATCHES
    if role == "split":
        return set(values.dropna().astype(str)) <= {*SPLITS, "unused", "ood"}
    if role == "library size":
        return _counts_more(values, table)
    return True


def _counts_more(values: pd.Series, table: Table) -> bool:
    """Whether a column counts more than the matrix has of the first cells: that of a panel."""
    if table.x is None or values.dtype.kind not in "iuf":
        return False
    first = sp.csr_matrix(by_rows(table.x)[:256])
    here = np.asarray(first.sum(1)).ravel()
    return bool(np.median(values.to_numpy()[: len(here)]) > 1.05 * np.median(here))


def _notation(table: Table, key: str) -> dict[str, Any]:
    """Return how labels are written, where that differs from the defaults."""
    with warnings.catch_warnings(action="ignore"):  # told when it is read
        texts = text_of(table.cells.read(key), "", "")
    label = {str(name) for name in pd.unique(texts) if name is not None}
    chosen: dict[str, Any] = {} if key == "perturbation" else {"perturbation_key": key}
    named = {part for text in label for part in (text, *text.split("+"))}
    alike = sorted(name for name in named if looks_like_control(name) and "+" not in name)
    if alike and alike != ["control"]:
        chosen["control"] = tuple(alike)
    parser = ConditionParser.of(alike or ["control"])
    if not any("+" in text for text in label):
        by = {one: len(joined(label, parser, one)) for one in SEPARATORS if one != "+"}
        best = max(by, key=lambda one: by[one])
        if by[best]:
            chosen["separator"] = best
    return chosen


def _layer(held: Mapping[str, str], known: str | None) -> dict[str, Any]:
    """Return where the counts are, if they are not in X."""
    if held["adata.X"] == COUNTS or held.get(f"layer {known!r}") == COUNTS:
        return {}
    found = [name for name, kind in held.items() if kind == COUNTS]
    if not found:
        return {}
    return {"layer": "raw" if found[0] == "adata.raw" else found[0][len("layer '") : -1]}


def _read(table: Table, chosen: Mapping[str, Any]) -> tuple[pd.Series | None, tuple[str, ...]]:
    """Return cells per condition, and what is told when a table is read so."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            parts, _, kept = take(table, ScreenSettings.of(chosen))
        except InputError as error:
            return None, (str(error),)
    n_cells = np.bincount(parts.condition[kept], minlength=len(parts.condition_names))
    cells = pd.Series(n_cells, list(parts.condition_names), name="cells")
    return cells[cells > 0], tuple(str(one.message) for one in told)
