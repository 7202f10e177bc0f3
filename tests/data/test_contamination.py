"""Fold changes without the counts of other cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import samsvae
from samsvae.data.contamination import Contamination
from samsvae.data.differences import fold_differences

SHARE = 0.2
N_CELLS = 2000


def mixed() -> tuple[samsvae.Screen, np.ndarray]:
    """Return cells a fifth of whose counts are of the mean of all cells; their own fold changes."""
    rng = np.random.default_rng(0)
    log_share = rng.normal(0, 0.5, 30)
    change = np.zeros((3, 30))
    change[1, :5], change[2, 3:8] = rng.normal(0, 1, 5), rng.normal(0, 1, 5)
    own = np.exp(log_share + change * np.log(2))
    own /= own.sum(1, keepdims=True)
    counts = np.concatenate(
        [rng.poisson(300 * ((1 - SHARE) * p + SHARE * own.mean(0)), (N_CELLS, 30)) for p in own]
    )
    labels = np.repeat(["control", "A", "B"], N_CELLS)
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    adata = ad.AnnData(counts.astype(np.float32), obs=obs)
    return samsvae.Screen.from_anndata(adata), np.log2(own[1:] / own[0])


@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_told_is_removed(is_told: bool) -> None:
    screen, truth = mixed()
    contamination = Contamination.of(screen, SHARE) if is_told else None
    control = np.asarray(screen.is_control)
    group = np.where(control, -1, screen.condition - 1)
    found = fold_differences(screen, group, control, 2, "library", contamination=contamination)
    z = (found.difference - truth) / np.sqrt(found.variance)
    slope = np.polyfit(truth.ravel(), found.difference.ravel(), 1)[0]
    if is_told:
        assert slope == pytest.approx(1, abs=0.03)
        assert 0.6 < np.sqrt((z**2).mean()) < 1.3
    else:
        assert slope < 0.9


def test_a_gene_that_others_explain_is_not_infinite() -> None:
    found, growth = Contamination(0.5, np.array([4.0])).removed(np.array([[-20.0], [0.0]]))
    assert np.isfinite(found).all()
    assert (growth <= 4).all()


@pytest.fixture(scope="module")
def trained() -> tuple[samsvae.SAMSVAE, samsvae.Screen]:
    screen, _ = mixed()
    screen = screen.with_split(samsvae.splits.stratified(screen))
    model = samsvae.SAMSVAE(screen, n_latent=2, n_hidden=8)
    return model.train(max_steps=60, learning_rate=0.02, progress=False), screen


def test_it_is_of_fold_changes_alone(trained: tuple[samsvae.SAMSVAE, samsvae.Screen]) -> None:
    model, screen = trained
    with pytest.raises(samsvae.InputError, match="contamination is of fold changes"):
        samsvae.discoveries(model, screen, contamination=0.1, scale="log", progress=False)
    with pytest.raises(samsvae.InputError, match="contamination is of fold changes"):
        model.effects(contamination=0.1, scale="log", progress=False)
    with pytest.raises(samsvae.InputError, match="baselines do not"):
        samsvae.baselines.NoChange(screen).effects(contamination=0.1)
    told, not_told = (
        samsvae.discoveries(model, screen, contamination=share, n_particles=20, progress=False)
        for share in (SHARE, 0.0)
    )
    size = [table["observed"].abs().mean() for table in (told, not_told)]
    assert size[0] > 1.1 * size[1]
    assert told.attrs["contamination"] == SHARE


def test_the_model_takes_it_off_its_own_effects(
    trained: tuple[samsvae.SAMSVAE, samsvae.Screen],
) -> None:
    """P is the mean of all conditions' ratios, weighted by their counts; errors grow by R / own."""
    model, screen = trained
    asked = {"relative_to": "library", "n_particles": 200, "progress": False}
    told, plain = (model.effects(contamination=share, **asked) for share in (SHARE, 0.0))
    ratio = 2 ** np.asarray(plain.X)
    counts = [screen.train[screen.train.condition == i].library_size.sum() for i in range(3)]
    of_screen = np.average([np.ones(30), *ratio], axis=0, weights=counts)
    own = ratio - SHARE * of_screen
    assert (own > 0.25 * ratio).all()
    expected = np.log2(own / (1 - SHARE * of_screen))
    np.testing.assert_allclose(told.X, expected, atol=1e-6)
    np.testing.assert_allclose(told.layers["mc_se"], ratio / own * plain.layers["mc_se"], rtol=1e-6)
    width = [one.layers["upper"] - one.layers["lower"] for one in (told, plain)]
    growth = width[0] / (ratio / own * width[1])
    # What effects are beyond the model's is in part in proportion to them, which are larger.
    assert ((growth > 0.98) & (growth < 1.3)).all()


def test_effects_stay_relative_to_the_typical_gene(
    trained: tuple[samsvae.SAMSVAE, samsvae.Screen],
) -> None:
    model, _ = trained
    effects = model.effects(contamination=SHARE, n_particles=200, progress=False)
    library = model.effects(
        contamination=SHARE, n_particles=200, relative_to="library", progress=False
    )
    shift = np.asarray(library.X) - np.asarray(effects.X)
    np.testing.assert_allclose(shift, effects.obs[["composition"]].to_numpy() + 0 * shift)
    assert np.abs(shift).max() > 0.01
    assert effects.uns["contamination"] == SHARE


def test_combinations_take_it_off_both_sides(
    trained: tuple[samsvae.SAMSVAE, samsvae.Screen],
) -> None:
    model, screen = trained
    asked = {"contamination": SHARE, "n_particles": 50, "progress": False}
    (table,) = samsvae.combinations(model, screen, "A+B", **asked)
    effects = model.effects("A+B", **asked)
    np.testing.assert_allclose(table["predicted"], np.asarray(effects.X)[0])
    (plain,) = samsvae.combinations(model, screen, "A+B", **{**asked, "contamination": 0})
    assert table["estimate"].abs().mean() > 1.1 * plain["estimate"].abs().mean()
