"""Genes with few counts: their effects are as uncertain as their counts."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import samsvae

COMMON, RARE = 30, 60
LABELS = ("control", "A", "B", "A+B")


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    """Return cells in which perturbations change nothing, with many genes of hardly a count."""
    rng = np.random.default_rng(0)
    share = np.concatenate([np.full(COMMON, 10.0), np.full(RARE, 0.004)])
    labels = np.repeat(LABELS[:3], 120)
    adata = ad.AnnData(
        rng.poisson(share, (len(labels), len(share))).astype(np.float32),
        obs=pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))]),
    )
    read = samsvae.Screen.from_anndata(adata)
    return read.with_split(samsvae.splits.stratified(read, seed=0))


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    with pytest.warns(UserWarning, match="are zero in all training cells"):
        return samsvae.SAMSVAE(screen, n_latent=4, n_hidden=16).train(
            max_steps=400, learning_rate=0.01, progress=False
        )


def test_their_intervals_hold_no_effect(model: samsvae.SAMSVAE) -> None:
    """What the decoder's first weights happen to say of them is not taken for an effect."""
    effects = model.effects(n_particles=200, progress=False)
    known = ~effects.var["unexpressed"].to_numpy()
    rare = known & (np.arange(COMMON + RARE) >= COMMON)
    holds = (effects.layers["lower"] <= 0) & (effects.layers["upper"] >= 0)
    assert holds[:, rare].mean() > 0.95
    width = effects.layers["upper"] - effects.layers["lower"]
    assert width[:, rare].min() > 2 > np.median(width[:, :COMMON])
    alone = replace(model.metadata, counts_of_gene=None)  # as of an older model
    before = np.sqrt(alone.discrepancy(["A"], np.zeros((1, COMMON + RARE))))
    assert before[:, rare].max() < 0.5


def test_the_variance_is_that_of_the_expected_counts(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    """1 / (n + 1/2) of natural logarithms, less that of 100 counts; of a sum, of its least part."""
    metadata = model.metadata
    counts = screen.train.to_anndata().X.toarray()
    expected = counts[screen.train.condition == 1].sum() * counts.sum(0) / counts.sum()
    variance = np.maximum(1 / (expected + 0.5) - 1 / 100.5, 0) / np.log(2) ** 2
    nothing = np.zeros((4, COMMON + RARE))
    learned = replace(metadata, spread_of_condition=None)
    found = learned.discrepancy(["A", "B", "A+B", "control"], nothing)
    np.testing.assert_allclose(found[0], variance)
    np.testing.assert_allclose(found[2], np.maximum(found[0], found[1]))
    assert (found[:, :COMMON] == 0).all()
    assert (found[3] == 0).all()


def test_they_are_saved(model: samsvae.SAMSVAE, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    ours, theirs = (
        m.effects(n_particles=20, progress=False) for m in (model, samsvae.load(folder))
    )
    np.testing.assert_array_equal(ours.layers["upper"], theirs.layers["upper"])
