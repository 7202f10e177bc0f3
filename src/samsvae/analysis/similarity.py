"""Which conditions act alike: correlations of their effects, and what chance gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from samsvae.analysis.gene_sets import need_columns
from samsvae.benchmark.metrics.effects import standardised
from samsvae.errors import InputError, unknown
from samsvae.settings.arguments import checked

_LEVEL = 0.05
"""Probability that chance takes any two of all conditions to be alike."""


@checked
def similar(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return the correlation of other conditions' effects with those of one, the largest first.

    Over genes, of the estimates in units of their posterior standard deviation (as sign times
    log(1 + |z|), so that no single gene decides): uncertain effects count little.

    Two conditions act alike if both change a gene in the same direction (lfsr below 0.05), and
    their correlation is above `attrs["chance"]`: with the genes of one permuted, no pair of all
    conditions would reach it in 95 % of cases (Bonferroni). A correlation alone does not show it:
    those of conditions without effects are positive, since they share the errors of control cells.

    Parameters
    ----------
    table, condition
        From `samsvae.discoveries`, one row per condition and gene; compared with all others.

    Returns
    -------
    By condition: `correlation` (NaN without any effect), its jackknife standard error `se` (leaving
    out tenths of the genes), `n_shared`, the genes that both change (lfsr below 0.05) in the same
    direction, and `is_alike`.

    Raises
    ------
    InputError
        If there is no such condition, a column is missing, or the table has rows by sgRNA.
    """
    names, values, calls = _profiles(table)
    if condition not in names:
        raise unknown("condition", condition, names)
    own = names.index(condition)
    block = np.arange(values.shape[1]) % 10
    parts = np.stack([_correlations(values[:, block != b], own) for b in range(10)])
    chance, correlation = chance_correlation(*values.shape), _correlations(values, own)
    n_shared = _n_shared(calls, calls[own])
    correlations = pd.DataFrame(
        {
            "condition": names,
            "correlation": correlation,
            "se": np.sqrt(0.9 * np.square(parts - parts.mean(0)).sum(0)),
            "n_shared": n_shared,
            "is_alike": (correlation > chance) & (n_shared > 0),
        }
    )
    others = correlations.drop(index=own)
    others = others.sort_values("correlation", ascending=False, ignore_index=True)
    others.attrs["chance"] = chance
    return others


def most_similar(table: pd.DataFrame, n_max: int = 8) -> dict[str, list[tuple[str, float]]]:
    """Return, by condition, those that act most like it, and their correlation; see `similar`."""
    names, values, calls = _profiles(table)
    unit, chance = np.nan_to_num(standardised(values)), chance_correlation(*values.shape)
    neighbours = {}
    for i, name in enumerate(names):  # never all pairs at once
        correlation = unit @ unit[i]
        correlation[i] = -np.inf
        above = np.flatnonzero(correlation > chance)
        above = above[_n_shared(calls[above], calls[i]) > 0]
        alike = above[np.argsort(-correlation[above], kind="stable")[:n_max]]
        neighbours[name] = [(names[j], float(correlation[j])) for j in alike]
    return neighbours


def chance_correlation(n_conditions: int, n_genes: int) -> float:
    """Return the correlation that no pair of conditions exceeds by chance, see `similar`.

    That of genes in random order: t = r sqrt((n - 2) / (1 - r^2)) has n - 2 degrees of freedom.

    >>> round(chance_correlation(12, 150), 2)
    0.26
    """
    n_pairs = n_conditions * (n_conditions - 1) / 2
    free = max(n_genes - 2, 1)
    quantile = float(student_t.isf(_LEVEL / max(n_pairs, 1), free))
    return quantile / float(np.sqrt(free + quantile**2))


def _n_shared(calls: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return how many genes each condition and another one change in the same direction."""
    called = np.flatnonzero(own)
    shared: np.ndarray = (calls[:, called] == own[called]).sum(1)
    return shared


def _correlations(values: np.ndarray, own: int) -> np.ndarray:
    """Return the correlation of each row with one of them; NaN where either is constant."""
    unit = standardised(values)
    return unit @ unit[own]


def _profiles(table: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return conditions; log-scaled z values of their effects, and signed calls, by gene."""
    need_columns(table, "condition", "gene", "estimate", "sd", "lfsr")
    if "sgrna" in table.columns:
        raise InputError(
            "the table has rows by sgRNA: conditions are compared in that of "
            'samsvae.discoveries(..., by="condition")'
        )
    estimate, sd, lfsr = (
        table.pivot(index="condition", columns="gene", values=name).astype(float)
        for name in ("estimate", "sd", "lfsr")
    )
    z = (estimate / np.maximum(sd.fillna(np.inf), 1e-9)).fillna(0).to_numpy()
    sign = np.sign(np.nan_to_num(estimate.to_numpy()))
    calls = (lfsr < 0.05).to_numpy() * sign
    return list(map(str, estimate.index)), sign * np.log1p(np.abs(z)), calls
