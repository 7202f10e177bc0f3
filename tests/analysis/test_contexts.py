"""Differences of effects between contexts, and of combinations from the sum of their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.errors import InputError

FAST: dict[str, Any] = {"n_particles": 40, "progress": False}


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    """A screen in which A raises g0 in context "two" alone, and B lowers g1 in both."""
    adata = make_adata(n_cells=1200, labels=("control", "A", "B", "C"))
    label, context = adata.obs["perturbation"], adata.obs["batch"]
    undone = ((label == "A") & (context == "one")).to_numpy()
    is_control = (label == "control").to_numpy()
    rng = np.random.default_rng(0)
    adata.X[undone, 0] = rng.poisson(adata.X[is_control, 0].mean(), undone.sum())
    return samsvae.Screen.from_anndata(adata, split_key="split", context_key="batch")


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(max_steps=150, progress=False)


def test_genes_that_differ_between_contexts(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    table = samsvae.discoveries(model, screen, by="context", **FAST)
    assert list(table.columns[:3]) == ["condition", "context", "gene"]
    assert set(table["context"]) == {"two"}
    sure = table[table["lfsr"] < 0.05]
    assert sure[["condition", "gene"]].astype(str).values.tolist() == [["A", "g0"]]
    assert sure["lower"].iloc[0] < np.log2(4) + 0.2 < sure["upper"].iloc[0] + 0.6


def test_effects_within_a_context(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    one, two = (
        samsvae.discoveries(model, screen, ["A"], context=context, **FAST).set_index("gene")
        for context in ("one", "two")
    )
    assert two.loc["g0", "lfsr"] < 1e-3
    assert one.loc["g0", "lfsr"] > 0.05
    cells = screen.condition_names.index("A") == np.asarray(screen.condition)
    assert one["n_cells"].iloc[0] + two["n_cells"].iloc[0] <= cells.sum()


def test_contrast_of_a_condition_with_itself_in_another_context(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    there, back = (
        samsvae.contrast(model, screen, ("A", a), ("A", b), **FAST).set_index("gene")
        for a, b in (("two", "one"), ("one", "two"))
    )
    assert there.index[0] == "g0"
    assert there["lfsr"].iloc[0] < 0.05 < there["lfsr"].iloc[1]
    pd.testing.assert_series_equal(there["estimate"].sort_index(), -back["estimate"].sort_index())
    assert there["n_cells"].iloc[0] == back["n_cells_against"].iloc[0]
    within = samsvae.contrast(model, screen, ("A", "two"), ("B", "two"), **FAST)
    given = samsvae.contrast(model, screen, "A", "B", context="two", **FAST)
    np.testing.assert_array_equal(within["estimate"], given["estimate"])


def test_mistakes_are_explained(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    with pytest.raises(InputError, match="only one condition has a context"):
        samsvae.contrast(model, screen, ("A", "one"), "B", **FAST)
    with pytest.raises(InputError, match="expected two different"):
        samsvae.contrast(model, screen, ("A", "one"), ("A", "one"), **FAST)
    with pytest.raises(InputError, match="no context 'three'"):
        samsvae.discoveries(model, screen, context="three", **FAST)
    adata = make_adata()
    plain = samsvae.Screen.from_anndata(adata, split_key="split")
    without = samsvae.SAMSVAE(plain, **SMALL).train(max_steps=4, progress=False)
    with pytest.raises(InputError, match="context_key"):
        samsvae.discoveries(without, plain, by="context", **FAST)


def test_interactions_of_genes() -> None:
    """Of three pairs A+B raises g2, which neither A nor B does: the others are additive."""
    labels = ("control", "A", "B", "C", "A+B", "A+C", "B+C")
    adata = make_adata(n_cells=1400, labels=labels)
    both = (adata.obs["perturbation"] == "A+B").to_numpy()
    rng = np.random.default_rng(0)
    adata.X[both, 2] = rng.poisson(5 * adata.X[~both, 2].mean(), both.sum())
    screen = samsvae.Screen.from_anndata(adata, split_key="split")
    model = samsvae.SAMSVAE(screen, **SMALL, learn_interactions=True)
    model.train(max_steps=150, progress=False)
    table = samsvae.discoveries(model, screen, by="interaction", **FAST)
    assert set(table["condition"]) == {"A+B", "A+C", "B+C"}
    sure = table[table["lfsr"] < 0.05]
    assert sure[["condition", "gene"]].astype(str).values.tolist() == [["A+B", "g2"]]
    one = samsvae.discoveries(model, screen, ["B+A"], by="interaction", **FAST)
    assert one["estimate"].iloc[0] == pytest.approx(sure["estimate"].iloc[0])
    with pytest.raises(InputError, match="combinations with training cells"):
        samsvae.discoveries(model, screen, ["A"], by="interaction", **FAST)
