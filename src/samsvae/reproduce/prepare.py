"""From a published file of counts to the paper's screen, with a report of what was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samsvae.benchmark.metrics.observed import significant, welch
from samsvae.data.conditions import ConditionParser
from samsvae.data.expression import expression, group_moments, places_within, within_batches
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.settings.experiment import PreparationSettings

PAPER = {
    "replogle": {"cells": 118_461, "genes": 1_187, "perturbations": 722, "combinations": 0},
    "norman": {"cells": 111_255, "genes": 5_000, "perturbations": 105, "combinations": 131},
}
"""Sizes of the paper's screens, as it reports them."""


class Prepared(NamedTuple):
    """A screen, and how it was made."""

    screen: Screen
    report: pd.DataFrame
    """What each step kept: step, cells, genes, perturbations, combinations; last, the paper's."""


def prepare(name: str, screen: Screen, settings: PreparationSettings) -> Prepared:
    """Return the paper's screen, made from the published counts of all cells and genes.

    "replogle": perturbations with strong effects and the genes that they change; "norman": all
    cells, and genes that are highly variable in log-normalised counts. Counts are not changed. It
    is an error if nothing is left.
    """
    steps = [("as read", screen)]
    if name == "replogle":
        cells, genes = _strong(screen, settings)
        steps.append(("strong perturbations", screen[cells]))
        steps.append(("genes they change", screen[cells].with_genes(genes)))
    else:
        n_genes = min(settings.n_genes, len(screen.genes))
        order = np.argsort(-_dispersions(screen, settings.n_bins), kind="stable")
        variable = screen.with_genes(np.sort(order[:n_genes]))
        steps.append((f"{n_genes:,} highly variable genes", variable))
    final = steps[-1][1]
    is_empty = final.library_size == 0
    if is_empty.any():
        steps.append(("cells with counts", final[~is_empty]))
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "cells": len(kept),
            "genes": len(kept.genes),
            "perturbations": int((kept.cells_per_perturbation > 0).sum()),
            "combinations": len(np.unique(kept.condition[kept.is_combination])),
        }
        for step, kept in steps
    ]
    rows.append({"step": "the paper's", **PAPER[name]})
    return Prepared(_plain(steps[-1][1]), pd.DataFrame(rows))


def _strong(screen: Screen, settings: PreparationSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells and genes are kept: of perturbations with many DE genes (Welch's test)."""
    n = len(screen.condition_names)
    n_cells = np.bincount(screen.condition, minlength=n)
    group = np.where(screen.is_control, -1, screen.condition)
    one_batch = np.zeros(len(screen), int)
    perturbed, control, _ = within_batches(
        expression(screen, "log"), group, screen.is_control, one_batch, n
    )
    _, p_values = welch(perturbed, control)
    changed = np.nan_to_num(significant(np.nan_to_num(p_values, nan=1.0), settings.fdr))
    strong = (changed.mean(1) > settings.min_de_share) & (n_cells >= settings.min_cells)
    strong[0] = False
    if not strong.any():
        raise InputError(
            f"no perturbation has {settings.min_cells} cells and changes "
            f"{settings.min_de_share:.2%} of the genes: lower --min-cells or --min-de-share"
        )
    genes = np.flatnonzero(changed[strong].mean(0) >= settings.min_perturbation_share)
    if len(genes) < 2:
        raise InputError(
            f"{len(genes)} genes are changed by {settings.min_perturbation_share:.1%} of the "
            "perturbations: lower --min-perturbation-share"
        )
    return strong[screen.condition] | screen.is_control, genes


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


def fewer_cells(screen: Screen, share: float, *, n_min: int) -> Screen:
    """Return a share of the cells of each condition, drawn at random.

    At least `n_min` cells of a condition are kept (all, if it has fewer), of control ten times as
    many.
    """
    n_cells = np.bincount(screen.condition, minlength=len(screen.condition_names))
    lower = np.full(len(n_cells), n_min)
    lower[0] = 10 * n_min
    kept = np.minimum(n_cells, np.maximum(lower, np.round(share * n_cells)))
    order = np.random.default_rng(0).permutation(len(screen))
    condition = screen.condition[order]
    return screen[np.sort(order[places_within(condition) < kept[condition]])]


def _plain(screen: Screen) -> Screen:
    """Return the screen with the conditions that it has cells of, written "control", "A", "A+B"."""
    parser = ConditionParser()
    used = np.flatnonzero(screen.cells_per_perturbation > 0)
    names = tuple(screen.perturbations[i] for i in used)
    joined = [name for name in names if parser.separator in name]
    if joined:
        raise InputError(
            f"names of perturbations contain {parser.separator!r}: {listed(joined)}; rename them, "
            "since it joins the parts of combinations"
        )
    present = np.unique(np.append(screen.condition, 0))
    labels = (parser.write(screen.registry.read(screen.condition_names[i])) for i in present)
    return replace(
        screen,
        registry=replace(screen.registry, perturbations=names, parser=parser),
        dosage=screen.dosage[:, used],
        condition_names=tuple(labels),
        condition=np.searchsorted(present, screen.condition).astype(screen.condition.dtype),
    )
