"""A screen in which perturbations do nothing, but for a planted one: the model says so."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import samsvae
from helpers.real_data import real_data

pytestmark = [pytest.mark.slow, pytest.mark.long]

PLANTED = "IFNGR2"


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    """Return real cells with labels dealt anew, but for those of one knock-out."""
    adata = ad.read_h5ad(real_data("papalexi2021.h5ad"))
    label = adata.obs["perturbation"].astype(str).to_numpy().copy()
    dealt = label != PLANTED
    label[dealt] = np.random.default_rng(0).permutation(label[dealt])
    adata.obs["perturbation"] = label
    return samsvae.Screen.from_anndata(adata, split_key="split")


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    model = samsvae.SAMSVAE(screen, n_latent=50, n_hidden=128, n_hidden_embedding=64)
    return model.train(max_steps=1200, progress=False)


def test_intervals_of_null_effects_cover_zero(model: samsvae.SAMSVAE) -> None:
    effects = model.effects(progress=False)
    covers = (effects.layers["lower"] <= 0) & (effects.layers["upper"] >= 0)
    null = effects.obs_names != PLANTED
    assert covers[null].mean() >= 0.85
    assert covers[~null].mean() < 0.9  # most genes do not change
    size = np.abs(effects.X)
    assert size[~null].mean() > 10 * size[null].mean()


def test_inclusion_is_low_but_for_the_planted_effect(model: samsvae.SAMSVAE) -> None:
    probability = model.mask_probabilities()
    null = probability.drop(index=PLANTED).to_numpy()
    assert (null > 0.5).sum() <= 1
    assert probability.loc[PLANTED].max() > 0.8
    assert null.mean() < 0.3


def test_the_planted_effect_is_found(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    effect = model.effects([PLANTED], library_size="observed", progress=False)
    assert samsvae.ate_pearson(effect.to_df(), screen.test).pooled > 0.7
    top = np.argsort(-np.abs(effect.X[0]))[:15]
    apart = (effect.layers["lower"] > 0) | (effect.layers["upper"] < 0)
    assert apart[0, top].mean() >= 0.8
