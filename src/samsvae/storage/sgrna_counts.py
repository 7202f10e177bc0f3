"""Counts of sgRNAs in files: among the features, in a modality of their own, or in obsm."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from samsvae.errors import InputError, check_unique, check_unique_cells, listed, note
from samsvae.storage.anndata_files import (
    RAW,
    Frame,
    SgrnaCounts,
    StoredMatrix,
    Table,
    X,
    as_csr,
    check_declared_size,
    is_array,
    layer_name,
    member,
)

GUIDE_CAPTURE = "CRISPR Guide Capture"
"""The type of feature that sgRNAs are, of 10x Genomics."""
_CUSTOM = "Custom"
"""The type that they are where a feature reference of one's own was used: not of them alone."""
_TYPES = ("feature_types", "feature_type")
"""Columns of var with the type of each feature."""
_NAMES = re.compile(
    r"(x[-_])?(guide|sgrna|grna|gdo|crispr|protospacer)s?([-_]?(capture|counts?|umis?))*",
    re.IGNORECASE,
)
"""What modalities, and matrices in obsm, of sgRNA counts are called."""
_CALLS = layer_name("guide_assignment")
"""The layer in which the IGVF consortium's files hold which sgRNAs a cell has."""


def is_sgrna(
    features: pd.DataFrame, kinds: pd.Series, reference: pd.DataFrame | None
) -> np.ndarray:
    """Return `feature`: whether it is an sgRNA, by its type, or as a feature reference says.

    `features` has their names and identifiers, `reference` is by identifier.
    """
    own: np.ndarray = (kinds == GUIDE_CAPTURE).to_numpy()
    if reference is not None:
        own |= (kinds == _CUSTOM).to_numpy() & _rows_in(reference, features).notna().to_numpy()
    return own


def checked_reference(reference: pd.DataFrame) -> pd.DataFrame:
    """Return the sgRNAs of a feature reference of Cell Ranger, by identifier."""
    if not {"id", "name"} <= set(reference):
        raise InputError(
            f"the feature reference has the columns {listed(reference)}: expected 'id', 'name' "
            "and such as 'feature_type', 'target_gene_name', as Cell Ranger takes it"
        )
    if "feature_type" in reference:
        reference = reference[reference["feature_type"].isin([GUIDE_CAPTURE, _CUSTOM])]
    check_unique(list(reference["id"]), "identifiers in the feature reference", "keep one of each")
    return reference.set_index("id", drop=False).drop(columns="feature_type", errors="ignore")


def described(counts: SgrnaCounts, reference: pd.DataFrame | None) -> SgrnaCounts:
    """Return the counts with what a feature reference says of their sgRNAs."""
    if reference is None:
        return counts
    features = counts.features
    rows = _rows_in(reference, features.assign(name=features.index))
    if rows.isna().all():
        raise InputError(
            f"the feature reference names none of the {len(features)} sgRNAs: it has "
            f"{listed(reference['id'], 3)}, they are called {listed(features.index, 3)}"
        )
    more = reference.reindex(rows).set_axis(features.index)
    others = features.drop(columns=more.columns, errors="ignore")
    return replace(counts, features=pd.concat([more, others], axis=1))


def _rows_in(reference: pd.DataFrame, features: pd.DataFrame) -> pd.Series:
    """Return the identifier in a feature reference of each feature, missing where it has none."""
    by_name = reference.drop_duplicates("name", keep=False).set_index("name")["id"]
    rows = pd.Series(np.nan, features.index, dtype=object)
    for column, of in (("id", reference["id"]), ("gene_ids", reference["id"]), ("name", by_name)):
        if column in features:
            texts = features[column].astype(str)
            rows = rows.where(rows.notna(), texts.map(of))
    return rows


def among_genes(
    counts: sp.csr_matrix, features: pd.DataFrame, reference: pd.DataFrame | None
) -> SgrnaCounts:
    """Return the counts of features that are sgRNAs, `cell feature`, called by their names."""
    names = pd.Index(features["name"].to_numpy(object))
    named = features.set_axis(names if names.is_unique else pd.Index(features["id"]))
    own = SgrnaCounts(counts, named, f"features of the type {GUIDE_CAPTURE!r}")
    return described(own, reference)


def with_sgrnas(table: Table, obsm: Any, uns: Any, reference: pd.DataFrame | None) -> Table:
    """Return a table whose sgRNAs stand apart from its genes, if it has counts of any.

    They are features of that type, or a matrix in `obsm`: a mapping, or a group of a file.
    """
    column = next((name for name in _TYPES if name in table.genes.columns), None)
    if column is not None:
        kinds = table.genes.read(column).astype(str)
        names = pd.DataFrame({"name": table.genes.names.astype(str)}, kinds.index)
        if "gene_ids" in table.genes.columns:
            names["gene_ids"] = table.genes.read("gene_ids").astype(str)
        own = is_sgrna(names, kinds, reference)
        if own.any():
            return _apart(table, own, reference)
    found = [name for name in (obsm if obsm is not None else ()) if _NAMES.fullmatch(name)]
    if not found:
        return table
    if len(found) > 1:
        note(f"obsm has several matrices of sgRNA counts, {listed(found)}: the first is taken")
    return replace(
        table, sgrnas=lambda: described(_in_obsm(obsm, found[0], uns, reference), reference)
    )


def _apart(table: Table, own: np.ndarray, reference: pd.DataFrame | None) -> Table:
    """Return a table whose features of one kind stand apart, as sgRNAs."""
    genes, sgrnas = np.flatnonzero(~own), np.flatnonzero(own)

    def part(matrix: Callable[[], Any], positions: np.ndarray) -> Any:
        values = matrix()
        if values is None:
            return None
        if hasattr(values, "group"):  # of a backed AnnData object
            values = StoredMatrix(values.group, tuple(values.shape), X)
        return (
            values.columns(positions) if isinstance(values, StoredMatrix) else values[:, positions]
        )

    def counts() -> SgrnaCounts:
        names = [X, *(layer_name(name) for name in table.layers)]
        parts = ((name, part(table.matrices[name], sgrnas)) for name in names)
        name, values = next((name, one) for name, one in parts if one is not None)
        where = f"features of the type {GUIDE_CAPTURE!r} in {name}"
        features = _columns_of(table.genes.rows(sgrnas))
        return described(SgrnaCounts(as_csr(values[:]), features, where), reference)

    matrices: dict[str, Callable[[], Any]] = {}
    for name, matrix in table.matrices.items():
        is_raw = table.raw_genes is not None and name == RAW  # it has its own genes
        matrices[name] = matrix if is_raw else partial(part, matrix, genes)
    return replace(table, genes=table.genes.rows(genes), matrices=matrices, sgrnas=counts)


def _in_obsm(obsm: Any, name: str, uns: Any, reference: pd.DataFrame | None) -> SgrnaCounts:
    """Return the matrix in obsm, with its names: its own, in uns, or of a feature reference."""
    values = _element(obsm, name)
    where = f"obsm[{name!r}]"
    if isinstance(values, pd.DataFrame):
        names = values.columns.astype(str)
        values = values.to_numpy()
    elif uns is not None and not is_array(uns) and f"{name}_names" in uns:
        names = pd.Index(np.asarray(_element(uns, f"{name}_names"))).astype(str)
    elif reference is not None and len(reference) == values.shape[1]:
        names = pd.Index(reference["name"], dtype=object)
    else:
        raise InputError(
            f"{where} has no names of its {values.shape[1]} sgRNAs: give a data frame, "
            f"uns['{name}_names'], or a feature reference (--feature-reference) with as many rows, "
            "in their order"
        )
    if len(names) != values.shape[1]:
        raise InputError(f"{where} has {values.shape[1]} columns and {len(names)} names")
    return SgrnaCounts(as_csr(sp.csr_matrix(values)), pd.DataFrame(index=names), where)


def _element(group: Any, name: str) -> Any:
    """Return an element of a mapping, or of a group of a file."""
    if not hasattr(group, "attrs"):
        return group[name]
    node = member(group, name)
    check_declared_size(node, name)
    return read_elem(node)


def sgrna_modalities(modalities: Any) -> list[str]:
    """Return the modalities, in the group of a file, that hold counts of sgRNAs."""
    return [name for name in modalities if _NAMES.fullmatch(name) or _of_guides(modalities[name])]


def _of_guides(group: Any) -> bool:
    with suppress(InputError, KeyError, OSError, TypeError, ValueError):
        genes = Table.stored(group).genes
        column = next((name for name in _TYPES if name in genes.columns), None)
        return column is not None and bool((genes.read(column) == GUIDE_CAPTURE).all())
    return False


def with_modality(table: Table, other: Table, name: str, reference: pd.DataFrame | None) -> Table:
    """Return a table with the counts of sgRNAs that another modality holds, matched by cell."""

    def counts() -> SgrnaCounts:
        wanted, names = (one.cells.names.astype(str) for one in (table, other))
        where = f"modality {name!r}"
        values, calls = other.matrices[X](), other.matrices.get(_CALLS, lambda: None)()
        if values is None:
            raise InputError(f"{where} holds no counts in X")
        order = None
        if not wanted.equals(names):
            for some in (wanted, names):
                check_unique_cells(some, f"{where} cannot be matched with cells")
            order = names.get_indexer(wanted)
            if (order < 0).all():
                raise InputError(f"{where} has none of the {len(wanted)} cells, by their names")
        matrices = [
            None if one is None else _in_order(as_csr(one[:]), order) for one in (values, calls)
        ]
        features = _columns_of(other.genes)
        return described(SgrnaCounts(matrices[0], features, where, matrices[1]), reference)

    return replace(table, sgrnas=counts)


def _in_order(matrix: sp.csr_matrix, rows: np.ndarray | None) -> sp.csr_matrix:
    """Return rows of a matrix; one at -1 is empty."""
    if rows is None:
        return matrix
    empty = sp.csr_matrix((1, matrix.shape[1]), dtype=matrix.dtype)
    return sp.vstack([matrix, empty], format="csr")[rows]


def _columns_of(frame: Frame) -> pd.DataFrame:
    """Return all columns of a frame, but for those that cannot be read."""
    columns: dict[str, Any] = {}
    for name in frame.columns:
        with suppress(InputError, KeyError, OSError, TypeError, ValueError):
            columns[name] = frame.read(name).to_numpy(object)
    return pd.DataFrame(columns, index=frame.names.astype(str))
