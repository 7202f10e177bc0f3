"""Stand-ins: simulated screens in the raw layout of the published files, with invented names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.simulate import Truth, drawn_truth
from samsvae.errors import check_count, check_range, unknown

NAMES = ("replogle", "norman")
_CELLS_AT_A_TIME = 2000
_N_LATENT = 12


class Shape(NamedTuple):
    """How large a screen is."""

    n_cells: int
    n_genes: int
    n_perturbations: int
    n_combinations: int

    def scaled(self, scale: float) -> Shape:
        """Return a smaller one: as many cells per condition, genes by the square root."""
        perturbations = max(min(24, self.n_perturbations), round(scale * self.n_perturbations))
        pairs = perturbations * (perturbations - 1) // 2
        combinations = min(pairs, max(8, round(scale * self.n_combinations)))
        if not self.n_combinations:
            combinations = 0
        conditions = self.n_perturbations + self.n_combinations
        share = (perturbations + combinations) / conditions
        genes = min(self.n_genes, max(100, round(self.n_genes * scale**0.5)))
        return Shape(round(self.n_cells * share), genes, perturbations, combinations)


SHAPES = {"replogle": Shape(118_461, 1_187, 722, 0), "norman": Shape(111_255, 5_000, 105, 131)}
"""Of the paper's screens."""


class StandIn(NamedTuple):
    """A simulated screen, and what is known about it."""

    adata: AnnData
    annotation: dict[str, list[str]]
    """Replogle: perturbations by pathway; Norman: combinations by kind of interaction."""


def stand_in(name: str, *, scale: float = 1.0, seed: int = 0) -> StandIn:
    """Simulate a screen of the shape and raw layout of a published one; names are invented.

    Counts are drawn from SAMS-VAE's own process. Perturbations of a pathway shift the same latent
    dimensions; every tenth has no effect, so that preparation has something to leave out. Of
    Norman's combinations a third are additive, a third shift a dimension that neither part does
    ("NEOMORPHIC"), and of a third one part alone acts ("EPISTASIS").

    Parameters
    ----------
    name
        "replogle" (118,461 cells x 1,187 genes, 722 perturbations) or "norman" (111,255 x 5,000,
        105 perturbations, 131 combinations).
    scale
        Share of the perturbations and combinations, with as many cells each; at least 24
        perturbations and 8 combinations. Genes shrink by its square root.
    seed
        Same seed, same screen.
    """
    if name not in NAMES:
        raise unknown("stand-in", name, NAMES)
    check_range("scale", scale, low=0, high=1)
    check_count("seed", seed, low=0)
    rng, shape = np.random.default_rng(seed), SHAPES[name].scaled(scale)
    targets = [f"T{i + 1:03d}" for i in range(shape.n_perturbations)]
    pathway = np.arange(shape.n_perturbations) % max(4, min(12, shape.n_perturbations // 6))
    truth = drawn_truth(
        rng, [f"p{i}" for i in range(pathway.max() + 1)], _N_LATENT, shape.n_genes, 0.15, 2.0
    )
    strength = rng.uniform(0.6, 1.4, len(targets)) * (np.arange(len(targets)) % 10 != 9)
    shifts = truth.shift.to_numpy()[pathway] * strength[:, None]
    if name == "replogle":
        conditions = [(i,) for i in range(len(targets))]
        counts, condition, shown = _counts(rng, truth, shape.n_cells, 0.08, list(shifts))
        adata = _replogle(rng, counts, ["non-targeting", *targets], condition, truth.genes)
        strong = np.flatnonzero(shown)
        annotated = {
            f"PATHWAY_{p + 1}": [targets[i] for i in strong if pathway[i] == p][:15]
            for p in range(pathway.max() + 1)
        }
        return StandIn(adata, annotated)
    pairs = np.stack(np.triu_indices(len(targets), 1), 1)
    chosen = pairs[np.sort(rng.choice(len(pairs), shape.n_combinations, replace=False))]
    kinds = np.array(["ADDITIVE", "NEOMORPHIC", "EPISTASIS"])[np.arange(len(chosen)) % 3]
    doubles = []
    for (first, second), kind in zip(chosen, kinds, strict=True):
        together = shifts[first] + (0 if kind == "EPISTASIS" else shifts[second])
        if kind == "NEOMORPHIC":
            together = together.copy()
            together[rng.integers(_N_LATENT)] += 3.0
        doubles.append(together)
    conditions = [*((i,) for i in range(len(targets))), *(tuple(pair) for pair in chosen)]
    counts, condition, _ = _counts(rng, truth, shape.n_cells, 0.1, [*shifts, *doubles])
    labels = ["NegCtrl0_NegCtrl0", *("_".join(_parts(c, targets)) for c in conditions)]
    adata = _norman(rng, counts, labels, condition, truth.genes)
    annotation = {
        str(kind): ["+".join(targets[i] for i in pair) for pair in chosen[kinds == kind]]
        for kind in np.unique(kinds)
    }
    return StandIn(adata, annotation)


def _parts(condition: Sequence[int], targets: Sequence[str]) -> list[str]:
    """Return the two sgRNAs' targets of a cell, a negative control where it has one target."""
    names = [targets[i] for i in condition]
    return names if len(names) == 2 else [*names, "NegCtrl0"]


def _counts(
    rng: np.random.Generator,
    truth: Truth,
    n_cells: int,
    control: float,
    shifts: list[np.ndarray],
) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return counts, `cell` condition (0: control), and `condition` whether it shifts anything."""
    n_control = round(control * n_cells)
    others = np.arange(n_cells - n_control) % len(shifts) + 1
    condition = rng.permutation(np.concatenate([np.zeros(n_control, int), others]))
    moved = np.vstack([np.zeros(_N_LATENT), *shifts])
    theta, blocks = truth.inverse_dispersion, []
    for start in range(0, n_cells, _CELLS_AT_A_TIME):
        some = condition[start : start + _CELLS_AT_A_TIME]
        state = rng.standard_normal((len(some), _N_LATENT)) + moved[some]
        size = np.exp(rng.normal(np.log(2.0 * len(theta)), 0.4, len(some)))
        rate = truth.proportions(state) * size[:, None]
        drawn = rng.poisson(rng.gamma(theta, 1 / theta, rate.shape) * rate)
        drawn[:, 0] += drawn.sum(1) == 0  # a cell without counts would not be observed
        blocks.append(sp.csr_matrix(drawn.astype(np.float32)))
    return sp.vstack(blocks, "csr"), condition, np.abs(moved[1:]).sum(1) > 0


def _replogle(
    rng: np.random.Generator,
    counts: sp.csr_matrix,
    labels: list[str],
    condition: np.ndarray,
    genes: Sequence[str],
) -> AnnData:
    """Return counts in the layout of the authors' h5ad files."""
    gene = np.asarray(labels)[condition]
    obs = pd.DataFrame(
        {
            "gem_group": rng.integers(1, 9, len(gene)),
            "gene": gene,
            "gene_id": [f"TARGET{i:05d}" for i in condition],
            "transcript": "P1P2",
            "gene_transcript": [
                f"{i}_{name}_P1P2" for i, name in zip(condition, gene, strict=True)
            ],
            "sgID_AB": [f"{name}_+_1.23-P1P2|{name}_-_4.56-P1P2" for name in gene],
            "UMI_count": np.asarray(counts.sum(1)).ravel(),
        },
        [f"CELL{i:06d}-1" for i in range(len(gene))],
    )
    var = pd.DataFrame({"gene_name": list(genes)}, [f"ID{i:05d}" for i in range(len(genes))])
    return AnnData(counts, obs=obs, var=var)


def _norman(
    rng: np.random.Generator,
    counts: sp.csr_matrix,
    labels: list[str],
    condition: np.ndarray,
    genes: Sequence[str],
) -> AnnData:
    """Return counts in the layout of the GEO series' cell identities."""
    label = np.asarray(labels)[condition]
    obs: dict[str, Any] = {
        "guide_identity": [f"{name}__{name}" for name in label],
        "gemgroup": rng.integers(1, 9, len(label)),
    }
    names = [f"CELL{i:06d}-1" for i in range(len(label))]
    return AnnData(counts, obs=pd.DataFrame(obs, names), var=pd.DataFrame(index=list(genes)))
