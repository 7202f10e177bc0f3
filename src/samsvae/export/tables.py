"""Tables of one number per line as AnnData: what scanpy and the tools around it read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.errors import InputError, listed
from samsvae.settings.arguments import checked

_ROWS = ("cell", "dimension", "condition")
_COLUMNS = ("gene", "perturbation")
_MAIN = ("estimate", "loading", "probability")
"""What X holds, where a table has it."""
_GROUPS = 200
"""Conditions of `uns["rank_genes_groups"]`, at most: HDF5 has no room for many more."""


@checked
def as_anndata(table: pd.DataFrame, *, obs: pd.DataFrame | None = None) -> AnnData:
    """Return a table as AnnData: a row per condition, a column per gene, a layer per number.

    For what `samsvae.discoveries`, `samsvae.regulators` and a table of `samsvae.combinations`
    return (conditions x genes, or sgRNAs x genes), `model.programs` (dimensions x genes), and the
    `cells` of `model.responders` (cells x perturbations, sparse). X is the estimate, the loading or
    the probability (else the first number), every other number a layer; what is the same in all
    lines of a row, such as `n_cells`, is in `obs`. A pair that has no line is NaN.

    Genes are ranked in `uns["rank_genes_groups"]`, where scanpy's `sc.get.rank_genes_groups_df`
    and `sc.pl.rank_genes_groups` look: `scores` is estimate / sd, `logfoldchanges` the estimate,
    `pvals` the lfsr and `pvals_adj` the q_value (neither is a p value); of programs `scores` is the
    loading. It is left out where there are more than 200 rows: HDF5 files have no room for it.

    Parameters
    ----------
    table
        One line per pair.
    obs
        More columns of `obs`, by the names of the rows, such as `model.mechanisms()` of programs;
        lists are joined by commas.

    Raises
    ------
    InputError
        If the table has no such pairs, one of them twice, or no number.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {
    ...         "condition": ["A", "A", "B", "B"],
    ...         "gene": ["g1", "g2", "g1", "g2"],
    ...         "estimate": [0.5, -1.0, 0.0, 2.0],
    ...         "lfsr": [0.2, 0.01, 0.9, 0.001],
    ...         "n_cells": [40, 40, 25, 25],
    ...     }
    ... )
    >>> effects = as_anndata(table)
    >>> float(effects.to_df().loc["B", "g2"]), list(effects.layers), list(effects.obs["n_cells"])
    (2.0, ['lfsr'], [40, 25])
    """
    key, rows = _rows(table)
    other = next((name for name in _COLUMNS if name in table.columns and name != key), None)
    numbers = [name for name in table.columns if pd.api.types.is_float_dtype(table[name])]
    if other is None or not numbers:
        raise InputError(
            f"a table of the columns {listed(list(table.columns))} cannot be made wide: expected "
            "condition, dimension or cell, beside gene or perturbation, and a column of numbers"
        )
    row, names = pd.factorize(rows)
    column, genes = pd.factorize(table[other].astype(str).to_numpy(object))
    shape = (len(names), len(genes))
    at = row * shape[1] + column
    if len(np.unique(at)) < len(at):
        twice = int(np.flatnonzero(pd.Series(at).duplicated())[0])
        raise InputError(
            f"{key} {names[row[twice]]!r} and {other} {genes[column[twice]]!r} stand in the table "
            "more than once: expected one line per pair"
        )
    main = next((name for name in _MAIN if name in numbers), numbers[0])
    layers = {
        name: _matrix(table[name], row, column, shape, sparse=key == "cell") for name in numbers
    }
    metadata = _facts(table.drop(columns=[other, *numbers]), row, shape[0])
    if key == "cell":
        metadata |= _of_single_pairs(table[numbers], row, shape[0])
    found = AnnData(
        layers.pop(main),
        obs=pd.DataFrame(metadata, index=pd.Index(names, dtype=str)),
        var=pd.DataFrame(index=pd.Index(genes, dtype=str)),
        layers=layers,
        uns={"samsvae": {"X": main, **{k: str(v) for k, v in table.attrs.items()}}},
    )
    if obs is not None:
        for name, values in obs.reindex(found.obs_names).items():
            found.obs[str(name)] = [_joined(one) for one in values]
    if other == "gene" and main in ("estimate", "loading") and 0 < shape[0] <= _GROUPS:
        found.uns["rank_genes_groups"] = _ranked(found, key, main)
    return found


def _rows(table: pd.DataFrame) -> tuple[str, np.ndarray]:
    """Return what a row of the wide table is, and the name of that of each line."""
    key = next((name for name in _ROWS if name in table.columns), "")
    if not key:
        return "", np.empty(0, object)
    names = table[key].astype(str).to_numpy(object)
    if key != "condition" or "sgrna" not in table.columns:
        return key, names
    sgrnas = table["sgrna"].astype(str).to_numpy(object)
    pairs = pd.DataFrame({"condition": names, "sgrna": sgrnas}).drop_duplicates()
    if pairs["sgrna"].is_unique:
        return "sgrna", sgrnas
    return "sgrna", names + "_" + sgrnas  # an sgRNA of several conditions


def _matrix(
    values: pd.Series, row: np.ndarray, column: np.ndarray, shape: tuple[int, int], *, sparse: bool
) -> np.ndarray | sp.csr_matrix:
    """Return numbers of pairs as a matrix; what is not there is NaN, or nothing."""
    if sparse:
        return sp.csr_matrix((values.to_numpy(float), (row, column)), shape)
    found = np.full(shape, np.nan)
    found[row, column] = values
    return found


def _facts(table: pd.DataFrame, row: np.ndarray, n: int) -> dict[str, Any]:
    """Return the columns that have one value in all lines of a row."""
    first = np.full(n, -1)
    first[row[::-1]] = np.arange(len(row))[::-1]
    found: dict[str, Any] = {}
    for name, values in table.items():
        codes = pd.factorize(values)[0]
        if (codes == codes[first[row]]).all():
            found[str(name)] = values.iloc[first].to_numpy()
    return found


def _of_single_pairs(table: pd.DataFrame, row: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return the numbers of rows that have one line, NaN for others."""
    alone = np.bincount(row, minlength=n)[row] == 1
    found = {}
    for name, values in table.items():
        found[str(name)] = np.full(n, np.nan)
        found[str(name)][row[alone]] = values[alone]
    return found


def _joined(value: Any) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    return ", ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in value)


def _ranked(found: AnnData, key: str, main: str) -> dict[str, Any]:
    """Return genes ranked by their scores, as scanpy keeps them: records of a field per row."""
    estimate = np.asarray(found.X)
    columns = {"scores": estimate}
    if main == "estimate":
        sd = np.asarray(found.layers["sd"]) if "sd" in found.layers else np.ones_like(estimate)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["scores"] = estimate / sd
        columns["logfoldchanges"] = estimate
        for name, layer in (("pvals", "lfsr"), ("pvals_adj", "q_value")):
            if layer in found.layers:
                columns[name] = np.asarray(found.layers[layer])
    scores = np.nan_to_num(columns["scores"])
    order = np.argsort(-scores, axis=1, kind="stable")
    names = [str(name) for name in found.obs_names]

    def records(values: np.ndarray, kind: str) -> np.ndarray:
        table = np.empty(values.shape[1], [(name, kind) for name in names])
        for name, own in zip(names, values, strict=True):
            table[name] = own
        return table

    genes = np.asarray(found.var_names, object)
    longest = max(map(len, genes), default=1)
    reference = "control" if main == "estimate" else "rest"
    return {
        "params": {"groupby": key, "reference": reference, "method": "samsvae", "use_raw": False},
        "names": records(genes[order], f"U{longest}"),
        **{
            name: records(np.take_along_axis(values, order, 1), "float64")
            for name, values in columns.items()
        },
    }
