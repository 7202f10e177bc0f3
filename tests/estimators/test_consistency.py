"""Whether cells agree with the mechanisms that a model gives their perturbations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import samsvae
from samsvae.data.simulate import simulated_screen
from samsvae.estimators.consistency import slopes_on_others


def effects(own: np.ndarray, *, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return observed effects of perturbations, of which the first is this one."""
    rng = np.random.default_rng(seed)
    program = rng.normal(size=300)
    others = np.outer([1.0, 2.0, -1.5], program)
    effect = np.vstack([own[0] * program + own[1] * rng.normal(size=300), others])
    return effect + noise * rng.normal(size=effect.shape), np.full(effect.shape, noise**2)


SHIFT = np.array([1.0, 1.0, 2.0, -1.5])


def of_first(effect: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    slope, error = slopes_on_others(effect, variance, SHIFT)
    return slope[0], error[0]


def test_they_are_those_of_the_definition() -> None:
    """Each is regressed on the mean of the others, which are summed up one after the other."""
    rng = np.random.default_rng(0)
    effect, _ = effects(np.array([0.7, 0.3]), noise=0.5, seed=1)
    variance = rng.gamma(2, 0.1, effect.shape)
    effect[2, 7] = np.nan
    known = np.arange(300) != 7
    slope, error = slopes_on_others(effect, variance, SHIFT)
    for i in range(4):
        others = [u for u in range(4) if u != i]
        total = sum(SHIFT[u] ** 2 for u in others)
        x = SHIFT[i] * sum(SHIFT[u] * effect[u, known] for u in others) / total
        noise = SHIFT[i] ** 2 * sum(SHIFT[u] ** 2 * variance[u, known] for u in others) / total**2
        weight = 1 / (variance[i, known] + noise)
        information = (weight * (x**2 - noise)).sum()
        expected = (weight * x * effect[i, known]).sum() / information
        assert slope[i] == pytest.approx(expected)
        scatter = (weight * (effect[i, known] - expected * x) ** 2).sum() / 298
        spread = np.sqrt(max(1, scatter) * (weight * x**2).sum()) / information
        assert error[i] == pytest.approx(spread)


def test_the_slope_is_that_of_effects_without_noise_in_either() -> None:
    """Noise in the others' effects does not make the slope smaller; its error is honest."""
    found = np.array(
        [of_first(*effects(np.array([1.0, 0]), noise=1.0, seed=seed)) for seed in range(60)]
    )
    assert found[:, 0].mean() == pytest.approx(1, abs=3 * found[:, 0].std() / 60**0.5)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.3)


def test_other_effects_have_no_slope_and_no_effects_no_answer() -> None:
    slope, error = of_first(*effects(np.array([0, 1.0]), noise=0.1, seed=0))
    assert abs(slope) < 3 * error < 0.5
    noise = np.random.default_rng(0).normal(size=(4, 300))
    assert np.isnan(slopes_on_others(noise, np.ones_like(noise), SHIFT)).all()


@pytest.mark.slow
def test_a_perturbation_that_was_put_into_a_mechanism_is_inconsistent() -> None:
    screen = simulated_screen(
        n_perturbations=12, n_combinations=0, n_latent=3, n_genes=60, library_size=1500, seed=1
    )
    model = samsvae.SAMSVAE(screen, n_latent=5, n_hidden=32)
    model.train(max_steps=800, learning_rate=5e-3, progress=False)
    before = model.inclusion(screen)
    checked = before[before["slope"].notna()]
    assert len(checked) >= 6
    assert checked["inconsistent"].mean() < 0.2
    members = before[before["probability"] > 0.9]
    largest = members["dimension"].value_counts().index[0]
    inside = set(members["perturbation"][members["dimension"] == largest])
    others = [name for name in screen.perturbations if name not in inside]
    additive, column = model.module.mechanism.additive, screen.perturbations.index(others[0])
    with torch.no_grad():
        additive.mask.logits[column, int(largest[1:])] = 8
        additive.embedding.loc[column, int(largest[1:])] = 2
    after = model.inclusion(screen).set_index(["perturbation", "dimension"])
    assert after.loc[(others[0], largest), "inconsistent"]
    cautions = model.cautions(screen).set_index("title")
    assert f"{others[0]} in {largest}" in cautions.loc["Inconsistent members", "text"]
    assert others[0] in cautions.loc["Inconsistent members", "conditions"]


def test_members_are_not_checked_in_contexts() -> None:
    adata = simulated_screen(n_perturbations=3, n_combinations=0, n_genes=20, seed=0).to_anndata()
    adata.obs["line"] = np.array(["K562", "RPE1"])[np.arange(len(adata)) % 2]
    screen = samsvae.Screen.from_anndata(adata, split_key="split", context_key="line")
    model = samsvae.SAMSVAE(screen, n_latent=2, n_hidden=8)
    model.train(max_steps=10, progress=False)
    with torch.no_grad():
        model.module.mechanism.additive.mask.logits.fill_(8)
    table = model.inclusion(screen)
    assert (table["probability"] > 0.5).all()
    assert table["slope"].isna().all()
    assert not table["inconsistent"].any()


def test_columns_stand_where_there_is_nothing_to_check() -> None:
    screen = simulated_screen(n_perturbations=3, n_combinations=0, n_genes=20, seed=0)
    model = samsvae.SAMSVAE(screen, n_latent=2, n_hidden=8)
    model.train(max_steps=10, progress=False)
    table = model.inclusion(screen)
    assert list(table.columns[-3:]) == ["slope", "slope_error", "inconsistent"]
    assert not table["inconsistent"].any()
