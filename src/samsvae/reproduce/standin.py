"""Stand-ins: simulated screens in the raw layout of the published files, with invented names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.simulate import Truth, drawn_truth
from samsvae.settings.arguments import Natural, Share, checked

_N_LATENT = 12
_CHUNK = 2000
"""Number of cells that are drawn at a time."""


class Shape(NamedTuple):
    """The size of a screen."""

    n_cells: int
    n_genes: int
    n_perturbations: int
    n_combinations: int

    def scaled(self, scale: float) -> Shape:
        """Return a smaller one: as many cells per condition, genes by the square root."""
        perturbations = max(min(24, self.n_perturbations), round(scale * self.n_perturbations))
        combinations = 0
        if self.n_combinations:
            n_pairs = perturbations * (perturbations - 1) // 2
            combinations = min(n_pairs, max(8, round(scale * self.n_combinations)))
        conditions = self.n_perturbations + self.n_combinations
        share = (perturbations + combinations) / conditions
        genes = min(self.n_genes, max(100, round(self.n_genes * scale**0.5)))
        return Shape(round(self.n_cells * share), genes, perturbations, combinations)


SHAPES = {"replogle": Shape(118_461, 1_187, 722, 0), "norman": Shape(111_255, 5_000, 105, 131)}
"""Sizes of the paper's screens."""


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
    cells = [f"CELL{i:06d}-1" for i in range(shape.n_cells)]
    targets = [f"T{i + 1:03d}" for i in range(shape.n_perturbations)]
    n_pathways = max(4, min(12, shape.n_perturbations // 6))
    pathway = np.arange(shape.n_perturbations) % n_pathways
    names = [f"p{i}" for i in range(n_pathways)]
    truth = drawn_truth(rng, names, _N_LATENT, shape.n_genes, 0.15, 2.0)
    strength = rng.uniform(0.6, 1.4, len(targets)) * (np.arange(len(targets)) % 10 != 9)
    shifts = truth.shift.to_numpy()[pathway] * strength[:, None]
    if name == "replogle":
        counts, condition, has_effect = _counts(rng, truth, shape.n_cells, 0.08, list(shifts))
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
        ids = [f"ID{i:05d}" for i in range(shape.n_genes)]
        var = pd.DataFrame({"gene_name": list(truth.genes)}, ids)
        adata = AnnData(counts, obs=obs, var=var)
        return StandIn(adata, {group: names[:15] for group, names in annotation.items()})
    pairs = np.stack(np.triu_indices(len(targets), 1), 1)
    pairs = pairs[np.sort(rng.choice(len(pairs), shape.n_combinations, replace=False))]
    kinds = np.array(["ADDITIVE", "NEOMORPHIC", "EPISTASIS"])[np.arange(len(pairs)) % 3]
    of_pairs = []
    for (first, second), kind in zip(pairs, kinds, strict=True):
        shift = shifts[first] + (0 if kind == "EPISTASIS" else shifts[second])
        if kind == "NEOMORPHIC":
            shift[rng.integers(_N_LATENT)] += 3.0
        of_pairs.append(shift)
    counts, condition, _ = _counts(rng, truth, shape.n_cells, 0.1, [*shifts, *of_pairs])
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
