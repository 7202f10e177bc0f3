"""From a published file of counts to the paper's screen, and a report of what was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.benchmark.metrics.observed import significant, welch
from samsvae.data.conditions import ConditionParser
from samsvae.data.expression import expression, group_moments, within_batches
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.settings.preparation import PreparationSettings

PAPER = {
    "replogle": {"cells": 118_461, "genes": 1_187, "perturbations": 722, "combinations": 0},
    "norman": {"cells": 111_255, "genes": 5_000, "perturbations": 105, "combinations": 131},
}
"""What the paper reports of its screens."""


class Prepared(NamedTuple):
    """A screen, and how it came about."""

    screen: Screen
    report: pd.DataFrame
    """What was kept: step, cells, genes, perturbations, combinations; the paper's own last."""


def prepare(name: str, screen: Screen, given: PreparationSettings) -> Prepared:
    """Return the paper's screen, made of the counts as they were published.

    Parameters
    ----------
    name
        "replogle": strong perturbations and the genes that they change; "norman": all cells, highly
        variable genes, found from log-normalised counts. Counts stay as they are.
    screen
        All cells and genes of the file.
    given
        The thresholds.

    Raises
    ------
    InputError
        If nothing is left.
    """
    steps = [("as read", screen)]
    if name == "replogle":
        kept = _strong(screen, given)
        steps += [("strong perturbations", screen[kept.cells]), ("genes they change", kept.screen)]
    else:
        n_genes = min(given.n_genes, len(screen.genes))
        best = np.sort(np.argsort(-_dispersions(screen, given.n_bins), kind="stable")[:n_genes])
        steps.append((f"{n_genes:,} highly variable genes", screen.with_genes(best)))
    final = steps[-1][1]
    empty = final.library_size == 0
    if empty.any():
        steps.append(("cells with counts", final[~empty]))
    rows = [{"step": step, **_sizes(one)} for step, one in steps]
    rows.append({"step": "the paper's", **PAPER[name]})
    return Prepared(plain(without_unused(steps[-1][1])), pd.DataFrame(rows))


class _Kept(NamedTuple):
    cells: np.ndarray
    screen: Screen


def _strong(screen: Screen, given: PreparationSettings) -> _Kept:
    """Keep perturbations with many differentially expressed genes (Welch's test)."""
    n = len(screen.condition_names)
    n_cells = np.bincount(screen.condition, minlength=n)
    group = np.where(screen.is_control, -1, screen.condition)
    values = expression(screen, "log")
    of_each, control, _ = within_batches(
        values, group, screen.is_control, np.zeros(len(screen), int), n
    )
    _, p_values = welch(of_each, control)
    changed = np.nan_to_num(significant(np.nan_to_num(p_values, nan=1.0), given.rate))
    strong = (changed.mean(1) > given.min_de_share) & (n_cells >= given.min_cells)
    strong[0] = False
    if not strong.any():
        raise InputError(
            f"no perturbation has {given.min_cells} cells and changes {given.min_de_share:.2%} of "
            "the genes: lower --min-cells or --min-de-share"
        )
    genes = np.flatnonzero(changed[strong].mean(0) >= given.min_perturbation_share)
    if len(genes) < 2:
        raise InputError(
            f"{len(genes)} genes are changed by {given.min_perturbation_share:.1%} of the "
            "perturbations: lower --min-perturbation-share"
        )
    cells = strong[screen.condition] | screen.is_control
    return _Kept(cells, screen[cells].with_genes(genes))


def _dispersions(screen: Screen, n_bins: int) -> np.ndarray:
    """Return the normalised dispersion of genes, `gene`: the log of variance / mean, standardised.

    Mean and variance are of counts per 10,000, without the logarithm; dispersions are standardised
    within equal bins of log(1 + mean). A gene that is alone in its bin gets 1; one without counts
    or variance -inf.

    References
    ----------
    Satija et al.: Spatial reconstruction of single-cell gene expression data, Nature Biotechnology
    2015; as Seurat and scanpy (flavor "seurat") compute it.
    """
    sums = group_moments(expression(screen, "normalized"), np.zeros(len(screen), int), 1)
    mean, variance = sums.mean[0], sums.variance[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        dispersion = np.where(variance > 0, np.log(variance / mean), np.nan)
    table = pd.DataFrame({"dispersion": dispersion, "bin": pd.cut(np.log1p(mean), n_bins)})
    grouped = table.groupby("bin", observed=True)["dispersion"]
    center, spread = grouped.transform("mean"), grouped.transform("std")
    is_alone = spread.isna()
    center, spread = center.mask(is_alone, 0), spread.mask(is_alone, center)
    normalised = (table["dispersion"] - center) / spread.replace(0, np.nan)
    return normalised.fillna(-np.inf).to_numpy()


def fewer_cells(screen: Screen, share: float, *, n_min: int, seed: int = 0) -> Screen:
    """Return a share of the cells of each condition, at random.

    Parameters
    ----------
    screen
        The cells.
    share
        Of the cells of each condition.
    n_min
        Smallest number of cells of a condition (all, if it has fewer); of control ten times as
        many.
    seed
        The same seed gives the same cells.
    """
    n_cells = np.bincount(screen.condition, minlength=len(screen.condition_names))
    lower = np.full(len(n_cells), n_min)
    lower[0] = 10 * n_min
    kept = np.minimum(n_cells, np.maximum(lower, np.round(share * n_cells)))
    order = np.random.default_rng(seed).permutation(len(screen))
    rank = pd.Series(screen.condition[order]).groupby(screen.condition[order]).cumcount()
    return screen[np.sort(order[rank.to_numpy() < kept[screen.condition[order]]])]


def without_unused(screen: Screen) -> Screen:
    """Return the screen without perturbations and conditions that none of its cells received."""
    used = np.flatnonzero(screen.cells_per_perturbation > 0)
    names = tuple(screen.perturbations[i] for i in used)
    present = np.unique(np.append(screen.condition, 0))
    registry: NameRegistry = replace(screen.registry, perturbations=names)
    return replace(
        screen,
        registry=registry,
        dosage=screen.dosage[:, used],
        condition_names=tuple(screen.condition_names[i] for i in present),
        condition=np.searchsorted(present, screen.condition).astype(screen.condition.dtype),
    )


def plain(screen: Screen) -> Screen:
    """Return the screen with its conditions written as "control", "A", "A+B"."""
    parser = ConditionParser()
    odd = [name for name in screen.perturbations if parser.separator in name]
    if odd:
        raise InputError(
            f"names of perturbations hold {parser.separator!r}: {listed(odd)}; the experiments "
            "join combinations by it, rename them"
        )
    read = list(map(screen.registry.read, screen.condition_names))
    return replace(
        screen,
        registry=replace(screen.registry, parser=parser),
        condition_names=tuple(map(parser.write, read)),
    )


def _sizes(screen: Screen) -> dict[str, int]:
    combined = np.diff(screen.dosage.indptr) > 1
    return {
        "cells": len(screen),
        "genes": len(screen.genes),
        "perturbations": int((screen.cells_per_perturbation > 0).sum()),
        "combinations": len(np.unique(screen.condition[combined])),
    }
