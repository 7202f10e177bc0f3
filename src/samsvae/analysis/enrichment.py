"""Which gene sets a list of genes is rich in, and what the table of discoveries answers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom, mannwhitneyu

from samsvae.analysis.pathways import read_gmt
from samsvae.errors import InputError, listed, unknown
from samsvae.settings.arguments import checked

_CORRECTED = ("hypergeometric", "rank")


@checked
def enrichment(
    table: pd.DataFrame,
    gene_sets: str | os.PathLike[str] | Mapping[str, Collection[str]],
    *,
    score: str = "estimate",
    rate: float = 0.05,
    min_size: int = 5,
) -> pd.DataFrame:
    """Return which gene sets are rich in the genes that a table calls, or ranks high.

    Nothing is downloaded, and the background are the table's own genes: a set counts with those of
    its genes that the screen measures.

    Parameters
    ----------
    table
        With a column "gene" and one of scores; of several conditions, if it has a column
        "condition": each is looked at on its own. `samsvae.discoveries` gives such a table.
    gene_sets
        A GMT file, or genes by the name of their set.
    score
        Column by which genes are ranked, signed.
    rate
        Genes with a `q_value` below it are called, where the table has that column.
    min_size
        Sets with fewer measured genes are left out.

    Returns
    -------
    One row per condition and set, the surest first: `n_genes` of the set that are measured,
    `n_called` of them, `expected` by chance, `p_hypergeometric` (as many called or more),
    `direction` (of the set's scores against the others': +1 or -1), `p_rank` (Mann-Whitney,
    two-sided), and q values of both, Benjamini-Hochberg within a condition. Without called genes
    the hypergeometric columns are NaN.

    Raises
    ------
    InputError
        If a column is missing, a gene occurs twice, or no set has enough measured genes.

    Examples
    --------
    >>> genes = [f"g{i}" for i in range(20)]
    >>> scores = [5.0, 4.0, 6.0, 5.5, 4.5] + [0.1 * i for i in range(15)]
    >>> table = pd.DataFrame({"gene": genes, "estimate": scores, "q_value": 0.9})
    >>> table.loc[:4, "q_value"] = 0.01
    >>> found = enrichment(table, {"first": genes[:5], "others": genes[5:]})
    >>> found["gene_set"][0], int(found["n_called"][0]), bool(found["q_rank"][0] < 0.01)
    ('first', 5, True)
    """
    for name in ("gene", score):
        if name not in table.columns:
            raise unknown("column of the table:", name, list(table.columns))
    sets = gene_sets if isinstance(gene_sets, Mapping) else read_gmt(gene_sets)
    if "condition" not in table.columns:
        return _of_one(table, sets, score, rate, min_size)
    found = [
        _of_one(rows, sets, score, rate, min_size).assign(condition=name)
        for name, rows in table.groupby("condition", observed=True, sort=False)
    ]
    whole = pd.concat(found, ignore_index=True)
    return whole[["condition", *whole.columns.drop("condition")]]


def _of_one(
    table: pd.DataFrame,
    sets: Mapping[str, Collection[str]],
    score: str,
    rate: float,
    min_size: int,
) -> pd.DataFrame:
    genes = pd.Index(table["gene"].astype(str))
    if not genes.is_unique:
        twice = genes[genes.duplicated()].unique()
        raise InputError(f"genes occur more than once in the table: {listed(twice, 3)}")
    values = table[score].to_numpy(float)
    ranked = np.isfinite(values)
    called = np.zeros(len(genes), bool)
    if "q_value" in table.columns:
        called = (table["q_value"] < rate).to_numpy()
    rows = []
    for name, members in sets.items():
        inside = genes.isin([str(gene) for gene in members])
        n = int(inside.sum())
        if n < min_size:
            continue
        row: dict[str, object] = {"gene_set": name, "n_genes": n}
        n_called = int((inside & called).sum())
        row |= {"n_called": n_called, "expected": n * called.mean()}
        of_all = (len(genes), int(called.sum()), n)
        row["p_hypergeometric"] = hypergeom.sf(n_called - 1, *of_all) if called.any() else np.nan
        own, others = values[inside & ranked], values[~inside & ranked]
        row["direction"], row["p_rank"] = 0, np.nan
        if len(own) and len(others):
            test = mannwhitneyu(own, others)
            row["direction"] = int(np.sign(test.statistic - len(own) * len(others) / 2))
            row["p_rank"] = test.pvalue
        rows.append(row)
    if not rows:
        raise InputError(
            f"none of {len(sets)} gene sets has {min_size} of the {len(genes)} genes, such as "
            f"{listed(genes, 3)}: expected sets of the same gene names"
        )
    found = pd.DataFrame(rows)
    for test in _CORRECTED:
        p = found[f"p_{test}"].to_numpy(float)
        q = np.full(len(p), np.nan)
        q[np.isfinite(p)] = false_discovery_control(p[np.isfinite(p)])
        found[f"q_{test}"] = q
    return found.sort_values(["p_rank", "p_hypergeometric"], kind="stable", ignore_index=True)


@checked
def regulators(table: pd.DataFrame, gene: str, *, rate: float = 1.0) -> pd.DataFrame:
    """Return what changes a gene: its rows of `samsvae.discoveries`, the surest first.

    Parameters
    ----------
    table
        As `samsvae.discoveries` gives it.
    gene
        Its name.
    rate
        Leave out conditions with a larger lfsr.

    Raises
    ------
    InputError
        If there is no such gene.
    """
    names = pd.unique(table["gene"].astype(str)) if "gene" in table.columns else []
    if gene not in names:
        raise unknown("gene", gene, list(names))
    own = table[(table["gene"].astype(str) == gene) & (table["lfsr"] <= rate)]
    size = own["estimate"].abs().rank(ascending=False)
    return (
        own.assign(_size=size)
        .sort_values(["lfsr", "_size"])
        .drop(columns="_size")
        .reset_index(drop=True)
    )


@checked
def similar(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return how alike the effects of other conditions are to those of one, the most alike first.

    The correlation over genes of the estimates of `samsvae.discoveries`, each divided by the
    spread of its error where that is the larger, so that what is not known counts little; its
    standard error by leaving tenths of the genes out in turn (jackknife).

    Parameters
    ----------
    table
        As `samsvae.discoveries` gives it.
    condition
        Which.

    Returns
    -------
    By condition: `correlation`, `se`, and `n_shared`, the genes that both change (lfsr below 0.05)
    in the same direction.

    Raises
    ------
    InputError
        If there is no such condition.
    """
    names, values, calls = _profiles(table)
    if condition not in names:
        raise unknown("condition", condition, names)
    own = names.index(condition)
    block = np.arange(values.shape[1]) % 10
    parts = np.stack([_correlations(values[:, block != b], own) for b in range(10)])
    found = pd.DataFrame(
        {
            "condition": names,
            "correlation": _correlations(values, own),
            "se": np.sqrt(0.9 * np.square(parts - parts.mean(0)).sum(0)),
            "n_shared": ((calls == calls[own]) & (calls[own] != 0)).sum(1),
        }
    )
    others = found.drop(index=own)
    return others.sort_values("correlation", ascending=False, ignore_index=True)


def most_similar(table: pd.DataFrame, n_most: int = 8) -> dict[str, list[tuple[str, float]]]:
    """Return, by condition, those with the most similar effects, and their correlation.

    As `similar` has it, of all conditions at once and without standard errors. A condition without
    any effect is like none.

    Parameters
    ----------
    table
        As `samsvae.discoveries` gives it.
    n_most
        Of each.
    """
    names, values, _ = _profiles(table)
    unit = _unit(values)
    length = np.square(unit).sum(1)
    found = {}
    for i, name in enumerate(names):  # never all pairs at once
        correlation = unit @ unit[i]
        correlation[i] = -np.inf
        order = np.argsort(-correlation, kind="stable")[: min(n_most, len(names) - 1)]
        found[name] = [
            (names[j], float(correlation[j])) for j in order if length[i] * length[j] > 0
        ]
    return found


def _profiles(table: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return conditions, and `condition gene`: effects in units of their errors, and calls.

    The logarithm of these units: one gene is not to decide.
    """
    wide = {
        name: table.pivot(index="condition", columns="gene", values=name).astype(float)
        for name in ("estimate", "sd", "lfsr")
    }
    estimate, sd, lfsr = (wide[name] for name in ("estimate", "sd", "lfsr"))
    size = (estimate / np.maximum(sd.fillna(np.inf), 1e-9)).fillna(0).to_numpy()
    sign = np.sign(np.nan_to_num(estimate.to_numpy()))
    values = sign * np.log1p(np.abs(size))
    calls = (lfsr < 0.05).to_numpy() * sign
    return list(map(str, estimate.index)), values, calls


def _correlations(values: np.ndarray, own: int) -> np.ndarray:
    """Return the correlation of each row with one of them; 0 where one does not vary."""
    unit = _unit(values)
    correlation: np.ndarray = unit @ unit[own]
    return correlation


def _unit(values: np.ndarray) -> np.ndarray:
    """Return rows about their mean, of length 1; of length 0 where they do not vary."""
    centred = values - values.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
