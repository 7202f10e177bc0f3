"""Effects, their Monte Carlo errors and their intervals, against draws of their own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata
from helpers.statistics import errors
from samsvae.data.loader import Loader
from samsvae.inference.latent import draw_shifts


def test_effects_equal_the_difference_of_simulated_cells(certain: samsvae.SAMSVAE) -> None:
    n = 40_000
    cells = certain.simulate(["A+B", "control"], n_cells=n, library_size=1e4, seed=3)
    counts = cells.X.toarray().astype(float)
    values = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    arm, control = values[:n], values[n:]
    expected = arm.mean(0) - control.mean(0)
    se = np.sqrt((arm.var(0) + control.var(0)) / n)
    effect = certain.effects("A+B", n_particles=20_000, n_draws=0, progress=False, scale="log")
    z = (effect.X[0] - expected) / np.hypot(se, effect.layers["mc_se"][0])
    assert np.abs(z).max() < 5.5
    assert np.abs(expected).max() > 20 * se.max()


def test_effects_on_the_normalized_scale(certain: samsvae.SAMSVAE) -> None:
    module, generator = certain.module, torch.Generator().manual_seed(5)
    basal = torch.randn(100_000, SMALL["n_latent"], generator=generator)
    shift = module.mechanism.embedding.loc[:1]
    with torch.no_grad():
        nothing = torch.zeros(1, 0)
        arms = [
            1e4 * module.likelihood.proportions(module.decoder(z, nothing), panel=True)
            for z in (basal + shift, basal)
        ]
    difference = (arms[0] - arms[1]).double()
    effect = certain.effects("A", scale="normalized", n_particles=20_000, n_draws=0, progress=False)
    se = np.hypot(difference.std(0).numpy() / 100_000**0.5, effect.layers["mc_se"][0])
    assert np.abs((effect.X[0] - difference.mean(0).numpy()) / se).max() < 5.5


@pytest.mark.parametrize("scale", ["log", "normalized"])
@pytest.mark.parametrize("library_size", [1e4, "observed"])
def test_effect_errors_are_the_spread_over_seeds(
    trained: samsvae.SAMSVAE, scale: str, library_size: float | str
) -> None:
    options = {"scale": scale, "library_size": library_size, "n_draws": 0, "progress": False}
    runs = [trained.effects(["B"], n_particles=200, seed=s, **options) for s in range(60)]
    values = np.array([run.X[0] for run in runs])
    claimed = np.mean([run.layers["mc_se"][0] ** 2 for run in runs], axis=0)
    assert 0.8 < np.sqrt((values.var(0, ddof=1) / claimed).mean()) < 1.2


def test_no_interval_without_spread_of_the_globals(certain: samsvae.SAMSVAE) -> None:
    effect = certain.effects("A", scale="log", n_particles=500, n_draws=300, progress=False)
    # Were the Monte Carlo variance within a draw not taken off, it would be 2.7.
    width = effect.layers["upper"] - effect.layers["lower"]
    assert 0 < np.median(width / effect.layers["mc_se"]) < 1.5


def test_interval_is_the_spread_over_draws_of_the_globals(trained: samsvae.SAMSVAE) -> None:
    options = {"scale": "normalized", "progress": False}
    effect = trained.effects("A", n_particles=4000, n_draws=400, **options)
    module, generator = trained.module, torch.Generator().manual_seed(1)
    basal, nothing = torch.randn(1500, SMALL["n_latent"], generator=generator), torch.zeros(1, 0)
    one = torch.tensor([0])
    draws = []
    with torch.no_grad():
        control = module.likelihood.proportions(module.decoder(basal, nothing), panel=True)
        shifts = module.mechanism.draw(one, module.mechanism.noise(one, 400, generator)).value
        for shift in shifts:
            arm = module.likelihood.proportions(module.decoder(basal + shift, nothing), panel=True)
            draws.append(1e4 * (arm - control).mean(0).numpy())
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    width = effect.layers["upper"][0] - effect.layers["lower"][0]
    assert 0.8 < np.median(width / (high - low)) < 1.25


def test_control_has_no_effect(trained: samsvae.SAMSVAE) -> None:
    effect = trained.effects(["control"], n_particles=50, n_draws=5, progress=False)
    assert np.all(effect.X == 0)


def test_effects_are_labelled_as_asked(trained: samsvae.SAMSVAE) -> None:
    effects = trained.effects(["B+A", "C", "C+A"], n_particles=100, n_draws=5, progress=False)
    assert list(effects.obs_names) == ["B+A", "C", "C+A"]
    assert list(effects.obs["condition"]) == ["A+B", "C", "A+C"]
    assert effects.obs["n_train_cells"].tolist()[2] == 0
    assert list(effects.var_names) == [f"g{i}" for i in range(12)]
    assert set(effects.layers) == {"mc_se", "lower", "upper", "lower_50", "upper_50"}
    ends = [effects.layers[name] for name in ("lower", "lower_50", "upper_50", "upper")]
    assert all(np.all(low <= high) for low, high in pairwise(ends))
    widths = [np.median(ends[3] - ends[0]), np.median(ends[2] - ends[1])]
    assert widths[1] < 0.8 * widths[0]


def test_an_effect_does_not_depend_on_the_others_asked(trained: samsvae.SAMSVAE) -> None:
    options = {"n_particles": 100, "n_draws": 5, "progress": False}
    alone = trained.effects("A+B", **options)
    among = trained.effects(["C", "B+A"], **options)
    assert np.array_equal(alone.X[0], among.X[1])
    assert list(trained.effects(**options).obs_names) == ["A", "A+B", "B", "C"]


def test_dose_scales_the_shift(certain: samsvae.SAMSVAE) -> None:
    options = {"scale": "normalized", "n_particles": 300, "n_draws": 0, "progress": False}
    none = certain.effects("A@0", **options)
    tenth, full = (np.abs(certain.effects(f"A@{dose}", **options).X).sum() for dose in (0.1, 1))
    assert np.all(none.X == 0)
    assert 0 < tenth < full


def test_batches_are_drawn_or_held_fixed() -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    model = samsvae.SAMSVAE(screen, **SMALL).train(
        max_steps=5, validate_every=5, batch_size=32, n_particles=1, progress=False
    )
    options = {"scale": "normalized", "n_particles": 4000, "n_draws": 0, "progress": False}
    one, two, both = (model.effects("A", batch=b, **options).X for b in ("one", "two", None))
    assert not np.allclose(one, two)
    share = model.metadata.batch_shares[0]
    mixed = share * one + (1 - share) * two
    assert np.abs(both - mixed).max() < 0.2 * np.abs(one - two).max()
    with pytest.raises(samsvae.InputError, match="no batch 'tow': the nearest is 'two'"):
        model.effects("A", batch="tow")
    assert model.simulate("A", n_cells=20).n_obs == 20


def test_effects_at_the_basal_states_of_control_cells(trained: samsvae.SAMSVAE) -> None:
    """The mean over control cells' posterior draws, decoded with and without the shift."""
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    states = trained.control_basal
    assert len(states.loc) == len(screen.train.control)
    batch = Loader(screen.train.control).batch(slice(None))
    context = torch.zeros(1, len(batch.counts), SMALL["n_latent"])
    with torch.no_grad():
        posterior = trained.module.encoder.posterior(batch, context)
    torch.testing.assert_close(states.loc, posterior.loc[0])
    torch.testing.assert_close(states.scale, posterior.scale[0])
    options: dict[str, Any] = {"scale": "normalized", "n_draws": 0, "progress": False}
    effect = trained.effects(["A"], basal="control", n_particles=20_000, **options)
    other = trained.effects(["A"], n_particles=20_000, **options)
    n, rng = 40_000, torch.Generator().manual_seed(3)
    module, row = trained.module, torch.tensor([screen.perturbations.index("A")])
    with torch.no_grad():
        shift = draw_shifts(module, row, n, rng).value
        cell = torch.randint(len(states.loc), (n, 1), generator=rng)
        basal = states.loc[cell] + states.scale[cell] * torch.randn(n, 1, 4, generator=rng)
        nothing = torch.zeros(n, 1, 0)
        arms = [
            module.likelihood.expectation(module.decoder(z, nothing))[:, 0].double()
            for z in (basal + shift, basal)
        ]
    difference = arms[0] - arms[1]
    error = np.hypot(difference.std(0).numpy() / n**0.5, effect.layers["mc_se"][0])
    wanted = difference.mean(0).numpy()
    assert np.all(np.abs(effect.X[0] - wanted) < errors(12) * error)
    assert np.any(np.abs(other.X[0] - wanted) > errors(12) * error)
