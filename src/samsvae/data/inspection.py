"""Guess what a file holds, and how to read it: `samsvae inspect`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.builder import fitting, screen_fields
from samsvae.data.conditions import ConditionParser
from samsvae.data.counts import looks_like_counts, looks_normalised
from samsvae.data.covariates import Covariate, covariates, proposed_batches
from samsvae.data.labels import SEPARATORS, joined, looks_like_control, text_of
from samsvae.data.names import SPLITS, UNUSED
from samsvae.data.screen import Screen
from samsvae.data.sgrna_assignment import SgrnaAssignment, assignment_of
from samsvae.errors import InputError
from samsvae.settings.conventions import convention
from samsvae.settings.screen import ScreenSettings
from samsvae.storage.anndata_files import RAW, Table, X, by_rows, layer_name
from samsvae.types import SgrnaRule

COUNTS, OTHER, EMPTY = "counts", "real values", "empty"
NORMALISED = "normalised counts (samsvae.counts_from_normalised turns them back)"
_COLUMN_NAMES = {
    "perturbation": (
        *("perturbation", "condition", "gene_target", "target_gene", "target", "gene"),
        *("perturbation_name", "guide_identity", "perturbed_gene", "treatment", "drug", "compound"),
    ),
    "sgrna": ("guide", "guide_id", "guide_ID", "sgrna", "sgRNA", "grna", "gRNA", "sgID_AB"),
    "batch": (
        *("batch", "bio_rep", "replicate", "gem_group", "gemgroup", "lane", "sample", "donor"),
        *("library", "channel"),
    ),
    "replicate": ("clone", "clone_id", "clone_barcode", "well", "well_id"),
    "dosage": ("dosage", "dose", "dose_val", "dose_value", "concentration"),
    "split": ("split",),
    "library size": ("total_counts", "n_counts", "nCount_RNA", "UMI_count", "ncounts"),
}
"""Usual names of the columns of each role, the most likely first."""
_MAX_BATCHES = 500


@dataclass(frozen=True)
class Inspection:
    """What a file holds, and how to read it."""

    n_cells: int
    n_genes: int
    matrices: Mapping[str, str]
    """Content by name."""
    columns: Mapping[str, str]
    """Columns of the cells by the role that they seem to have."""
    convention: str | None
    """The convention that the columns look like."""
    settings: Mapping[str, Any]
    """How to read the file, where that differs from the defaults."""
    screen: Screen | None
    """What is read so; None if it cannot be."""
    sgrnas: pd.DataFrame | None
    """Cells with one sgRNA, and without, by every rule of assignment; None without counts."""
    covariates: tuple[str, ...]
    """The other columns, each with what it could be."""
    remarks: tuple[str, ...]
    """Warnings when it is read so, or the error."""

    @property
    def cells(self) -> pd.Series | None:
        """Cells per condition, control first; None if the file cannot be read so."""
        if self.screen is None:
            return None
        names = list(self.screen.condition_names)
        n_cells = np.bincount(self.screen.condition, minlength=len(names))
        cells = pd.Series(n_cells, names, name="cells")
        return cells[(cells > 0) | (cells.index == names[0])]


def inspected(table: Table, rule: SgrnaRule | None = None) -> Inspection:
    """Guess what a table holds, and how to read it; `rule` assigns sgRNAs, where it has counts."""
    matrices = {}
    for name, matrix in table.matrices.items():
        values = matrix()
        kind = EMPTY if values is None else COUNTS if looks_like_counts(values) else OTHER
        matrices[name] = NORMALISED if kind == OTHER and looks_normalised(values) else kind
    layout = fitting(table)
    settings: dict[str, Any] = {} if layout is None else {"convention": layout}
    of_layout = {} if layout is None else convention(layout).settings
    roles = _roles(table, layout)
    sgrnas: pd.DataFrame | None = None
    remarks_of_sgrnas: tuple[str, ...] = ()
    if table.sgrnas is not None:
        assignment, remarks_of_sgrnas = _assigned(table, rule)
        if assignment is not None:
            sgrnas = assignment.rules()
            if rule is not None or "perturbation" not in roles:
                settings, layout, of_layout = {"sgrna_assignment": assignment.rule}, None, {}
                roles = {k: v for k, v in roles.items() if k not in ("perturbation", "sgrna")}
    if layout is None and "perturbation" in roles:
        settings |= _label_settings(table, roles["perturbation"])
    for role, column in roles.items():
        key = f"{role.replace(' ', '_')}_key"
        if role != "perturbation" and key not in of_layout:
            settings[key] = column
    usual = X, layer_name(str(of_layout.get("layer")))
    if all(matrices.get(name) != COUNTS for name in usual):
        names = {**{layer_name(layer): layer for layer in table.layers}, RAW: "raw"}
        layer = next((names[name] for name, kind in matrices.items() if kind == COUNTS), None)
        if layer is not None:
            settings["layer"] = layer
    settings.pop("batch_key", None)
    screen, is_kept, remarks = _read(table, settings)
    found: list[Covariate] = []
    if screen is not None:
        columns = _levels(table, is_kept, used=set(roles.values()) - {roles.get("batch")})
        found = covariates(screen, columns)
        if "batch_key" not in of_layout:
            batches, found = proposed_batches(screen, columns, found, _COLUMN_NAMES["batch"])
            roles.pop("batch", None)
            if batches:
                settings["batch_key"] = tuple(batches)
                roles["batch"] = ", ".join(batches)
                screen, _, remarks = _read(table, settings)
    shape = len(table.cells.names), len(table.genes.names)
    covariates_, remarks = tuple(map(str, found)), (*remarks_of_sgrnas, *remarks)
    return Inspection(
        *shape, matrices, roles, layout, settings, screen, sgrnas, covariates_, remarks
    )


def _assigned(
    table: Table, rule: SgrnaRule | None
) -> tuple[SgrnaAssignment | None, tuple[str, ...]]:
    """Return the assignment of sgRNAs, or why there is none."""
    try:
        return assignment_of(table, rule), ()
    except InputError as error:
        return None, (f"sgRNA counts cannot be used: {error}",)


def _read(
    table: Table, settings: Mapping[str, Any]
) -> tuple[Screen | None, np.ndarray, tuple[str, ...]]:
    """Return the screen that settings read, if they do, its cells in the table, and remarks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fields, is_kept = screen_fields(table, ScreenSettings.of(settings))
        except InputError as error:
            return None, np.zeros(len(table.cells.names), bool), (str(error),)
    screen = Screen(**fields)[is_kept]
    return screen, is_kept, tuple(str(warning.message) for warning in caught)


def _levels(table: Table, rows: np.ndarray, used: Collection[str]) -> dict[str, pd.Series]:
    """Return the columns of some cells that have no role, and differ between cells.

    Real numbers stay numbers; whole numbers of few values are levels.
    """
    columns: dict[str, pd.Series] = {}
    for name in table.cells.columns:
        with suppress(InputError, KeyError, OSError, TypeError, ValueError):
            values = table.cells.read(name)[rows].reset_index(drop=True)
            n_levels = values.nunique()
            if name in used or n_levels < 2 or values.isna().all():
                continue
            is_number = values.dtype.kind in "iuf" if hasattr(values.dtype, "kind") else False
            if is_number and (values.dtype.kind == "f" or n_levels > _MAX_BATCHES):
                columns[name] = values.astype(float)
            elif n_levels <= len(values) // 2:  # else it names the cells
                columns[name] = values.astype(object).where(values.notna(), "missing")
    return columns


def _roles(table: Table, layout: str | None) -> dict[str, str]:
    """Return the column that seems to have each role."""
    present = table.cells.columns
    roles = {}
    if layout is not None:
        of_layout = convention(layout)
        roles["perturbation"] = of_layout.perturbation_key(present)
        for name, value in of_layout.settings.items():
            role = {"sgrna_key": "sgrna", "dosage_key": "dosage", "split_key": "split"}.get(name)
            if role is not None and value in present:
                roles[role] = value
    for role, names in _COLUMN_NAMES.items():
        taken = list(roles.values())
        candidates = (name for name in names if name in present and name not in taken)
        column = next((name for name in candidates if _may_be(role, name, table)), None)
        if column is not None:
            roles.setdefault(role, column)
    return roles


def _may_be(role: str, name: str, table: Table) -> bool:
    values = table.cells.read(name)
    if role == "perturbation":
        return values.dtype.kind != "f" and values.nunique() > 1
    if role == "batch":
        return 1 < values.nunique() <= _MAX_BATCHES
    if role == "replicate":  # within conditions, several cells of each
        return bool(values.notna().all()) and 1 < values.nunique() <= len(values) // 2
    if role == "split":
        return set(values.dropna().astype(str)) <= {*SPLITS, UNUSED, "ood"}
    if role == "library size":  # more than the counts: the file holds a panel of genes
        x = table.matrices[X]()
        if x is None or values.dtype.kind not in "iuf":
            return False
        counted = np.asarray(sp.csr_matrix(by_rows(x)[:256]).sum(1)).ravel()
        return bool(np.median(values.to_numpy()[: len(counted)]) > 1.05 * np.median(counted))
    return True


def _label_settings(table: Table, key: str) -> dict[str, Any]:
    """Return how labels are written, where that differs from the defaults."""
    with warnings.catch_warnings(action="ignore"):  # they are reported when it is read
        texts = text_of(table.cells.read(key), "", "")
    present = {str(name) for name in pd.unique(texts) if name is not None}
    settings: dict[str, Any] = {} if key == "perturbation" else {"perturbation_key": key}
    parts = {part for text in present for part in (text, *text.split("+"))}
    alike = sorted(name for name in parts if looks_like_control(name) and "+" not in name)
    if alike and alike != ["control"]:
        settings["control"] = tuple(alike)
    parser = ConditionParser.of(alike or ["control"])
    if not any("+" in text for text in present):
        n_joined = {one: len(joined(present, parser, one)) for one in SEPARATORS if one != "+"}
        best = max(n_joined, key=lambda one: n_joined[one])
        if n_joined[best]:
            settings["separator"] = best
    return settings
