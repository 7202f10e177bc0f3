"""Which matrix of a file holds the counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from samsvae.data.counts import looks_like_counts, to_counts
from samsvae.data.normalised import looks_normalised
from samsvae.data.stored import StoredCounts, left_in_file, rows_in_file
from samsvae.data.table import Table
from samsvae.errors import InputError, listed, note, unknown

RAW = "raw"
"""The name under which `.raw` is asked for, where no layer is called so."""


def chosen(table: Table, layer: str | None, *, real: bool) -> tuple[Table, Any, str]:
    """Return the table (that of `.raw`, where it is asked for), its matrix, and what it is called.

    Without X the one layer that holds counts is taken, with a note.

    Raises
    ------
    InputError
        If there is no such layer, or nothing to take.
    """
    if layer == RAW and RAW not in table.layers:
        raw = table.raw()
        if raw is None:
            raise unknown("layer", layer, list(table.layers))
        return raw, raw.x, "adata.raw"
    if layer is not None:
        if layer not in table.layers:
            raise unknown("layer", layer, list(table.layers))
        return table, table.layers[layer], f"layer {layer!r}"
    if table.x is not None:
        return table, table.x, "adata.X"
    held = [name for name in table.layers if real or looks_like_counts(table.layers[name])]
    if len(held) == 1:
        note(f"adata.X is empty: layer {held[0]!r} is taken")
        return table, table.layers[held[0]], f"layer {held[0]!r}"
    if held:
        raise InputError(
            f"adata.X is empty, and several layers hold counts: give a layer, one of {listed(held)}"
        )
    raise InputError(
        f"adata.X is empty: expected counts there or in a layer; there are {_named(table)}"
    )


def counts(
    table: Table, matrix: Any, where: str, *, real: bool, in_memory: bool
) -> tuple[sp.csr_matrix | StoredCounts, np.ndarray]:
    """Return a matrix as counts, `cell gene`, and their sums, `cell`; `real` admits real values.

    Raises
    ------
    InputError
        If it does not hold counts, with where they may be instead.
    """
    if not in_memory:
        matrix = rows_in_file(matrix, where)
    try:
        if not in_memory:
            return left_in_file(matrix, where, counts=not real)
        found = to_counts(matrix, where, counts=not real)
        return found, np.asarray(found.sum(1), np.float64).ravel()
    except InputError as error:
        if real:
            raise
        raise InputError(f"{error}; {_hint(table, matrix, where)}") from None


def places(table: Table) -> Mapping[str, Any]:
    """Return all matrices of a table by what they are called; None for one that is empty."""
    raw = table.raw()
    found: dict[str, Any] = {"adata.X": table.x}
    found |= {f"layer {name!r}": table.layers[name] for name in table.layers}
    return found if raw is None else {**found, "adata.raw": raw.x}


def _hint(table: Table, matrix: Any, where: str) -> str:
    alike = [
        name
        for name, other in places(table).items()
        if name != where and other is not None and looks_like_counts(other)
    ]
    if "adata.X" in alike:
        return "adata.X looks like counts: leave layer out"
    layers = [name.removeprefix("layer ") for name in alike if name.startswith("layer ")]
    if layers:
        return f"layer {layers[0]} looks like counts: give layer={layers[0]}"
    if alike:
        return "adata.raw looks like counts: give layer='raw'"
    if looks_normalised(matrix):
        given = "" if where == "adata.X" else f", layer={where.removeprefix('layer ')}"
        return (
            "they are normalised counts that can be turned back exactly: take "
            f"samsvae.counts_from_normalised(adata{given}) first"
        )
    return "no layer looks like counts (counts=False takes real values as they are)"


def _named(table: Table) -> str:
    return f"the layers {listed(table.layers)}" if len(table.layers) else "no layers"
