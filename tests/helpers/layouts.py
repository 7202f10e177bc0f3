"""Small files laid out as other projects' are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

CELLS = 40
"""Of each label."""


class Layout(NamedTuple):
    """A file as a project writes it, and what it means."""

    adata: AnnData
    conditions: tuple[str, ...]
    perturbations: tuple[str, ...]
    n_control: int
    batches: tuple[tuple[str, ...], ...] = ()


def layout(name: str) -> Layout:
    """Return a small screen in the layout of a convention."""
    return _LAYOUTS[name]()


def _adata(labels: list[str], key: str, **columns: Any) -> AnnData:
    """Return counts of cells with some labels, so many each; further columns by label."""
    rng = np.random.default_rng(0)
    n = CELLS * len(labels)
    obs = pd.DataFrame({key: np.repeat(labels, CELLS)}, index=[f"cell{i}" for i in range(n)])
    for column, values in columns.items():
        cycled = np.resize(values, n) if len(values) != len(labels) else np.repeat(values, CELLS)
        obs[column] = cycled
    counts = sp.csr_matrix(rng.poisson(rng.gamma(2, 2, 8), (n, 8)).astype(np.float32))
    genes = ["KLF1", "MAP2K6", "CEBPA", "MT-CO1", "ACTB", "GAPDH", "FOS", "JUN"]
    var = pd.DataFrame({"gene_name": genes}, index=[f"ENSG{i:011d}" for i in range(8)])
    return AnnData(counts, obs=obs, var=var)


def _logged(adata: AnnData) -> AnnData:
    """Return log-normalised values in X, counts in a layer."""
    adata.layers["counts"] = adata.X.copy()
    counts = adata.X.toarray()
    adata.X = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    return adata


def _scperturb() -> Layout:
    labels = ["control", "KLF1", "MAP2K6", "KLF1_MAP2K6"]
    adata = _adata(labels, "perturbation", nperts=[0, 1, 1, 2], guide_id=["a", "b", "c", "b_c"])
    adata.var_names = adata.var["gene_name"]
    adata.var.index.name = None
    conditions = ("control", "KLF1", "KLF1_MAP2K6", "MAP2K6")
    return Layout(adata, conditions, ("KLF1", "MAP2K6"), CELLS)


def _gears() -> Layout:
    labels = ["ctrl", "KLF1+ctrl", "ctrl+MAP2K6", "KLF1+MAP2K6"]
    names = [f"K562_{label}_{'1' if label == 'ctrl' else '1+1'}" for label in labels]
    adata = _adata(
        labels,
        "condition",
        cell_type=["K562"],
        condition_name=names,
        dose_val=["1", "1+1", "1+1", "1+1"],
        control=[1, 0, 0, 0],
    )
    conditions = ("ctrl", "KLF1", "KLF1+MAP2K6", "MAP2K6")
    return Layout(_logged(adata), conditions, ("KLF1", "MAP2K6"), CELLS)


def _cpa() -> Layout:
    labels = ["control", "drugA", "drugB", "drugA+drugB"]
    adata = _adata(
        labels,
        "condition",
        cell_type=["A549", "K562"],
        dose_val=["1.0", "0.5", "2.0", "0.5+2.0"],
        cov_drug=["x_control", "x_drugA", "x_drugB", "x_drugA+drugB"],
        split=["train", "train", "train", "test", "ood"],
    )
    conditions = ("control", "drugA@0.5", "drugA@0.5+drugB@2", "drugB@2")
    return Layout(adata, conditions, ("drugA", "drugB"), CELLS, (("A549",), ("K562",)))


def _pertpy() -> Layout:
    adata = _adata(
        ["NT", "KLF1", "MAP2K6"],
        "gene_target",
        guide_ID=["NTg1", "KLF1g2", "MAP2K6g1"],
        replicate=["rep1", "rep2"],
        perturbation=["NT", "Perturbed", "Perturbed"],
    )
    batches = (("rep1",), ("rep2",))
    return Layout(adata, ("NT", "KLF1", "MAP2K6"), ("KLF1", "MAP2K6"), CELLS, batches)


def _perturbench() -> Layout:
    adata = _adata(
        ["control", "KLF1", "MAP2K6", "KLF1+MAP2K6"],
        "condition",
        cell_type=["K562"],
        treatment=["none", "IFNg"],
    )
    conditions = ("control", "KLF1", "KLF1+MAP2K6", "MAP2K6")
    batches = (("K562", "IFNg"), ("K562", "none"))
    return Layout(_logged(adata), conditions, ("KLF1", "MAP2K6"), CELLS, batches)


def _replogle() -> Layout:
    adata = _adata(
        ["non-targeting", "KLF1", "NKX2-1"],
        "gene",
        gem_group=[1, 2],
        gene_id=["non-targeting", "ENSG1", "ENSG2"],
        gene_transcript=["0_non-targeting_x", "1_KLF1_P1", "2_NKX2-1_P1P2"],
        sgID_AB=["non-targeting_1|non-targeting_2", "KLF1_+_1|KLF1_-_2", "NKX2-1_+_1|NKX2-1_-_2"],
    )
    conditions = ("non-targeting", "KLF1", "NKX2-1")
    return Layout(adata, conditions, ("KLF1", "NKX2-1"), CELLS, (("1",), ("2",)))


def _norman() -> Layout:
    labels = [
        "NegCtrl0_NegCtrl0__NegCtrl0_NegCtrl0",
        "NegCtrl10_NegCtrl0__NegCtrl10_NegCtrl0",
        "KLF1_NegCtrl0__KLF1_NegCtrl0",
        "NegCtrl0_MAP2K6__NegCtrl0_MAP2K6",
        "KLF1_MAP2K6__KLF1_MAP2K6",
        "KLF1+ctrl",
    ]
    adata = _adata(labels, "guide_identity", gemgroup=[1, 2], good_coverage=[True])
    conditions = ("control", "KLF1", "KLF1_MAP2K6", "MAP2K6")
    batches = (("1",), ("2",))
    return Layout(adata, conditions, ("KLF1", "MAP2K6"), 2 * CELLS, batches)


_LAYOUTS = {
    "scperturb": _scperturb,
    "gears": _gears,
    "cpa": _cpa,
    "pertpy": _pertpy,
    "perturbench": _perturbench,
    "replogle": _replogle,
    "norman": _norman,
}
