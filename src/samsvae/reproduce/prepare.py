"""The paper's screens: made from a published file of counts, or stand-ins that are simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.benchmark.metrics.observed import significant, welch
from samsvae.data.conditions import ConditionParser
from samsvae.data.expression import expression, group_moments, places_within, within_batches
from samsvae.data.screen import Screen
from samsvae.data.simulate import Truth, drawn_truth
from samsvae.errors import InputError, listed
from samsvae.settings.arguments import Natural, Share, checked
from samsvae.settings.experiment import PreparationSettings

_N_LATENT = 12
_CHUNK = 2000
"""Number of cells of a stand-in that are drawn at a time."""


class Shape(NamedTuple):
    """The size of a screen."""

    cells: int
    genes: int
    perturbations: int
    combinations: int

    def scaled(self, scale: float) -> Shape:
        """Return a smaller one: as many cells per condition, genes by the square root."""
        perturbations = max(min(24, self.perturbations), round(scale * self.perturbations))
        combinations = 0
        if self.combinations:
            n_pairs = perturbations * (perturbations - 1) // 2
            combinations = min(n_pairs, max(8, round(scale * self.combinations)))
        conditions = self.perturbations + self.combinations
        share = (perturbations + combinations) / conditions
        genes = min(self.genes, max(100, round(self.genes * scale**0.5)))
        return Shape(round(self.cells * share), genes, perturbations, combinations)


SHAPES = {"replogle": Shape(118_461, 1_187, 722, 0), "norman": Shape(111_255, 5_000, 105, 131)}
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
    rows.append({"step": "the paper's", **SHAPES[name]._asdict()})
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


class StandIn(NamedTuple):
    """A simulated screen, and its annotation."""

    adata: AnnData
    annotation: dict[str, list[str]]
    """Replogle: perturbations by pathway; Norman: combinations by kind of interaction."""


@checked
def stand_in(
    name: Literal["replogle", "norman"], *, scale: Share = 1.0, seed: Natural = 0
) -> StandIn:
    """Simulate a screen of the shape and raw layout of a published one; names are invented.

    Counts are drawn from SAMS-VAE's own process. Perturbations of a pathway shift the same latent
    dimensions; every tenth has no effect, so that preparation has something to leave out. Of
    Norman's combinations a third are additive, a third shift a dimension that neither part does
    ("NEOMORPHIC"), and in a third only one part acts ("EPISTASIS").

    `scale` is the share of the perturbations and combinations, with as many cells each; at least 24
    perturbations and 8 combinations. Genes shrink by its square root.
    """
    rng, shape = np.random.default_rng(seed), SHAPES[name].scaled(scale)
    cells = [f"CELL{i:06d}-1" for i in range(shape.cells)]
    targets = [f"T{i + 1:03d}" for i in range(shape.perturbations)]
    n_pathways = max(4, min(12, shape.perturbations // 6))
    pathway = np.arange(shape.perturbations) % n_pathways
    names = [f"p{i}" for i in range(n_pathways)]
    truth = drawn_truth(rng, names, _N_LATENT, shape.genes, 0.15, 2.0)
    strength = rng.uniform(0.6, 1.4, len(targets)) * (np.arange(len(targets)) % 10 != 9)
    shifts = truth.shift.to_numpy()[pathway] * strength[:, None]
    if name == "replogle":
        counts, condition, has_effect = _counts(rng, truth, shape.cells, 0.08, list(shifts))
        annotation = {
            f"PATHWAY_{p + 1}": [targets[i] for i in np.flatnonzero(has_effect & (pathway == p))]
            for p in range(n_pathways)
        }
        gene = np.asarray(["non-targeting", *targets])[condition]  # as in the authors' files
        obs = pd.DataFrame({"gem_group": rng.integers(1, 9, len(gene)), "gene": gene}, cells)
        obs["gene_id"] = [f"TARGET{i:05d}" for i in condition]
        obs["transcript"] = "P1P2"
        obs["gene_transcript"] = [
            f"{i}_{target}_P1P2" for i, target in zip(condition, gene, strict=True)
        ]
        obs["sgID_AB"] = [f"{target}_+_1.23-P1P2|{target}_-_4.56-P1P2" for target in gene]
        obs["UMI_count"] = np.asarray(counts.sum(1)).ravel()
        ids = [f"ID{i:05d}" for i in range(shape.genes)]
        var = pd.DataFrame({"gene_name": list(truth.genes)}, ids)
        adata = AnnData(counts, obs=obs, var=var)
        return StandIn(adata, {group: names[:15] for group, names in annotation.items()})
    pairs = np.stack(np.triu_indices(len(targets), 1), 1)
    pairs = pairs[np.sort(rng.choice(len(pairs), shape.combinations, replace=False))]
    kinds = np.array(["ADDITIVE", "NEOMORPHIC", "EPISTASIS"])[np.arange(len(pairs)) % 3]
    of_pairs = []
    for (first, second), kind in zip(pairs, kinds, strict=True):
        shift = shifts[first] + (0 if kind == "EPISTASIS" else shifts[second])
        if kind == "NEOMORPHIC":
            shift[rng.integers(_N_LATENT)] += 3.0
        of_pairs.append(shift)
    counts, condition, _ = _counts(rng, truth, shape.cells, 0.1, [*shifts, *of_pairs])
    # A cell has two sgRNAs; with one target, the other is a negative control.
    labels = ["NegCtrl0_NegCtrl0", *(f"{target}_NegCtrl0" for target in targets)]
    labels += [f"{targets[first]}_{targets[second]}" for first, second in pairs]
    annotation = {
        str(kind): [f"{targets[first]}+{targets[second]}" for first, second in pairs[kinds == kind]]
        for kind in np.unique(kinds)
    }
    label = np.asarray(labels)[condition]  # in the layout of the GEO series' cell identities
    obs = pd.DataFrame({"guide_identity": [f"{name}__{name}" for name in label]}, cells)
    obs["gemgroup"] = rng.integers(1, 9, len(label))
    var = pd.DataFrame(index=list(truth.genes))
    return StandIn(AnnData(counts, obs=obs, var=var), annotation)


def _counts(
    rng: np.random.Generator,
    truth: Truth,
    n_cells: int,
    control_share: float,
    shifts: Sequence[np.ndarray],
) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return counts, `cell` condition (0: control), and `condition` whether it shifts anything."""
    n_control = round(control_share * n_cells)
    others = np.arange(n_cells - n_control) % len(shifts) + 1
    condition = rng.permutation(np.concatenate([np.zeros(n_control, int), others]))
    shift = np.vstack([np.zeros(_N_LATENT), *shifts])
    theta, blocks = truth.inverse_dispersion, []
    for start in range(0, n_cells, _CHUNK):
        chunk = condition[start : start + _CHUNK]
        state = rng.standard_normal((len(chunk), _N_LATENT)) + shift[chunk]
        size = np.exp(rng.normal(np.log(2.0 * len(theta)), 0.4, len(chunk)))
        rate = truth.proportions(state) * size[:, None]
        drawn = rng.poisson(rng.gamma(theta, 1 / theta, rate.shape) * rate)
        drawn[:, 0] += drawn.sum(1) == 0  # a cell without counts would not be observed
        blocks.append(sp.csr_matrix(drawn.astype(np.float32)))
    return sp.vstack(blocks, "csr"), condition, np.abs(shift[1:]).sum(1) > 0
