"""Tables with one line per pair as AnnData, for scanpy and the tools around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.errors import InputError, check_unique, listed
from samsvae.settings.arguments import checked

_ROWS = ("cell", "dimension", "condition")
_COLUMNS = ("gene", "perturbation")
_MAIN = ("estimate", "loading", "probability")
"""The column that X holds, if a table has it."""
_OF_CONDITIONS = ("n_cells", "composition")
"""Numbers with one value per condition."""
_GROUPS = 200
"""Maximum number of groups in `uns["rank_genes_groups"]`: HDF5 has no room for many more."""


@checked
def as_anndata(table: pd.DataFrame, *, obs: pd.DataFrame | None = None) -> AnnData:
    """Return a table as AnnData: a row per condition, a column per gene, a layer per number.

    For the tables of `samsvae.discoveries`, `samsvae.regulators` and `samsvae.combinations`
    (conditions x genes, or sgRNAs x genes), of `model.programs` (dimensions x genes), and the
    `cells` of `model.responders` (cells x perturbations, sparse). X is the estimate, the loading or
    the probability (else the first number), each other number is a layer; columns of rows, such
    as `n_cells`, are in `obs`. A pair without a line is NaN.

    Genes are ranked in `uns["rank_genes_groups"]`, where scanpy's `sc.get.rank_genes_groups_df`
    and `sc.pl.rank_genes_groups` look: `scores` is estimate / sd, `logfoldchanges` the estimate,
    `pvals` the lfsr and `pvals_adj` the q_value (neither is a p value); of programs `scores` is
    loading / error. It is left out if there are more than 200 rows: HDF5 files have no room for it.

    `table` has one line per pair; `obs` holds more columns of `obs` by the names of the rows, such
    as `model.mechanisms()` for programs, with lists joined by commas. A table without such pairs,
    with a pair twice, or without a number is an error.

    Examples
    --------
    >>> table = samsvae.discoveries(model, screen, n_particles=20, progress=False)
    >>> effects = as_anndata(table)
    >>> effects.shape, list(effects.layers)[:3]
    ((3, 20), ['sd', 'lower', 'upper'])
    """
    key, rows = _rows(table)
    other = next((name for name in _COLUMNS if name in table.columns and name != key), None)
    table = table.astype(dict.fromkeys(table.select_dtypes(bool).columns, float))
    numbers = [
        name
        for name in table.columns
        if name not in _OF_CONDITIONS and pd.api.types.is_float_dtype(table[name])
    ]
    if not key or other is None or not numbers:
        raise InputError(
            f"a table of the columns {listed(list(table.columns))} cannot be made wide: expected "
            "condition, dimension or cell, gene or perturbation, and a column of numbers"
        )
    row, names = pd.factorize(rows)
    column, genes = _columns(table[other])
    repeated = pd.DataFrame({"row": row, "column": column}).duplicated().to_numpy()
    if repeated.any():
        first = int(np.flatnonzero(repeated)[0])
        raise InputError(
            f"{key} {names[row[first]]!r} and {other} {genes[column[first]]!r} stand in the table "
            "more than once: expected one line per pair"
        )
    main = next((name for name in _MAIN if name in numbers), numbers[0])
    layers: dict[str, Any] = {}
    for name in numbers:
        values = table[name].to_numpy(float)
        if key == "cell":
            layers[name] = sp.csr_matrix((values, (row, column)), (len(names), len(genes)))
        else:
            layers[name] = np.full((len(names), len(genes)), np.nan)
            layers[name][row, column] = values
    adata = AnnData(
        layers.pop(main),
        obs=_obs(table.drop(columns=other), row, numbers, with_single=key == "cell").set_axis(
            pd.Index(names, dtype=str)
        ),
        var=pd.DataFrame(index=pd.Index(genes, dtype=str)),
        layers=layers,
        uns={"samsvae": {"X": main, **{k: str(v) for k, v in table.attrs.items()}}},
    )
    if obs is not None:
        check_unique(obs.index, "names in obs", "expected one row of each")
        for name, column_of_obs in obs.reindex(adata.obs_names).items():
            adata.obs[str(name)] = [_joined(value) for value in column_of_obs]
    if other == "gene" and main in ("estimate", "loading") and 0 < len(names) <= _GROUPS:
        adata.uns["rank_genes_groups"] = _ranked(adata, key, main)
    return adata


def with_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table such as `mechanisms()`, with each list as one text, for CSV.

    >>> with_texts(pd.DataFrame({"up": [["g1", "g2"], []]}))["up"].tolist()
    ['g1; g2', '']
    """
    lists = [name for name in table if table[name].map(lambda one: isinstance(one, list)).any()]
    return table.assign(**{k: ["; ".join(map(str, one)) for one in table[k]] for k in lists})


def _rows(table: pd.DataFrame) -> tuple[str, np.ndarray]:
    """Return what the rows of the wide table are, and the row of each line."""
    key = next((name for name in _ROWS if name in table.columns), "")
    if not key:
        return "", np.empty(0, object)
    names = table[key].astype(str).to_numpy(object)
    if key != "condition" or "sgrna" not in table.columns:
        return key, names
    sgrnas = table["sgrna"].astype(str).to_numpy(object)
    pairs = pd.DataFrame({"condition": names, "sgrna": sgrnas}).drop_duplicates()
    # An sgRNA of several conditions is a row for each of them.
    return "sgrna", sgrnas if pairs["sgrna"].is_unique else names + "_" + sgrnas


def _columns(names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the column of each line, and the names of columns: as a categorical orders them."""
    if not isinstance(names.dtype, pd.CategoricalDtype):
        codes, uniques = pd.factorize(names.astype(str).to_numpy(object))
        return codes, uniques
    present = names.cat.remove_unused_categories().cat
    return present.codes.to_numpy(int), present.categories.astype(str).to_numpy(object)


def _obs(
    table: pd.DataFrame, row: np.ndarray, numbers: list[str], *, with_single: bool
) -> pd.DataFrame:
    """Return columns with one value per row; `with_single`, numbers of rows with one line, too."""
    lines = np.flatnonzero(~pd.Series(row).duplicated())  # the first of each row
    others = table.drop(columns=numbers).items()
    codes = {name: pd.factorize(values)[0] for name, values in others}
    constant = [name for name, code in codes.items() if (code == code[lines][row]).all()]
    obs = table.iloc[lines].copy()
    obs.loc[np.bincount(row) > 1, numbers] = np.nan
    return obs[[*constant, *(numbers if with_single else ())]]


def _joined(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return ", ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in value)


def _ranked(adata: AnnData, key: str, main: str) -> dict[str, Any]:
    """Return genes ranked by their scores, as scanpy keeps them: records with a field per row."""
    estimate = np.asarray(adata.X)
    error = "sd" if main == "estimate" else "error"
    sd = np.asarray(adata.layers[error]) if error in adata.layers else np.ones_like(estimate)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {"scores": estimate / sd}
    if main == "estimate":
        columns["logfoldchanges"] = estimate
        for name, layer in (("pvals", "lfsr"), ("pvals_adj", "q_value")):
            if layer in adata.layers:
                columns[name] = np.asarray(adata.layers[layer])
    order = np.argsort(-np.nan_to_num(columns["scores"]), axis=1, kind="stable")
    genes = np.asarray(adata.var_names, object)

    def records(values: np.ndarray, kind: str) -> np.ndarray:
        table = pd.DataFrame(values.T, columns=adata.obs_names)
        return table.to_records(index=False, column_dtypes=kind)

    reference = "control" if main == "estimate" else "rest"
    if "against" in adata.obs:  # a contrast
        reference = ", ".join(map(str, adata.obs["against"].unique()))
    return {
        "params": {"groupby": key, "reference": reference, "method": "samsvae", "use_raw": False},
        "names": records(genes[order], f"U{max(map(len, genes), default=1)}"),
        **{
            name: records(np.take_along_axis(values, order, 1), "float64")
            for name, values in columns.items()
        },
    }
