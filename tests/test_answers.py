"""What a trained model answers: likelihood, effects, simulated cells, masks, latent states."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import samsvae
from conftest import SMALL, errors, make_adata
from samsvae.data.loader import Loader
from samsvae.inference import iwelbo as iwelbo_module
from samsvae.inference.latent import draw_shifts, of_batch
from samsvae.model.vae import PerturbationVAE

Answer = Callable[..., object]


@pytest.fixture(scope="module")
def certain() -> samsvae.SAMSVAE:
    """Return a model whose posterior over globals has no spread."""
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    model = samsvae.SAMSVAE(screen, **SMALL, embedding_given_mask=False).train(
        max_steps=30, batch_size=64, n_particles=1, validate_every=30, progress=False
    )
    with torch.no_grad():
        model.module.mechanism.mask.logits.fill_(30.0)
        embedding = model.module.mechanism.embedding
        embedding.loc.normal_(generator=torch.Generator().manual_seed(0))
        embedding.log_scale.fill_(-30.0)
    return model


def test_iwelbo_rises_with_particles(certain: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    def mean(k: int) -> float:
        runs = [
            certain.iwelbo(screen.test, n_particles=k, seed=seed, progress=False)
            for seed in range(30)
        ]
        return float(np.mean([run["iwelbo"] for run in runs]))

    assert mean(10) > mean(1) + 0.08


def test_iwelbo_errors_are_the_spread_over_seeds(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    runs = [trained.iwelbo(screen.test, n_particles=200, seed=s, progress=False) for s in range(40)]
    values = np.array([run["iwelbo"] for run in runs])
    claimed = np.sqrt(np.mean([run["mc_se"] ** 2 for run in runs], axis=0))
    assert 0.8 < np.sqrt((values.var(0, ddof=1) / claimed**2).mean()) < 1.25
    mean_se = np.sqrt(np.mean([run.attrs["mean_mc_se"] ** 2 for run in runs]))
    assert 0.6 < values.mean(1).std(ddof=1) / mean_se < 1.6


def test_iwelbo_holds_no_more_at_once_with_more_particles(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iwelbo_module, "_ROWS", 40 * 10)
    n_perturbations = len(Loader(screen.test).present)
    monkeypatch.setattr(iwelbo_module, "_PAIRS", 59 * n_perturbations)  # 40: as many of each group
    seen: list[tuple[int, ...]] = []
    forward = PerturbationVAE.forward

    def spy(self: PerturbationVAE, *args: torch.Tensor) -> object:
        seen.append(tuple(args[2].shape[:2]))
        return forward(self, *args)

    monkeypatch.setattr(PerturbationVAE, "forward", spy)
    small = trained.iwelbo(screen.test, n_particles=20, progress=False)
    large = trained.iwelbo(screen.test, n_particles=900, progress=False)
    assert max(particles * cells for particles, cells in seen) == 40 * 10
    assert max(particles for particles, _ in seen) == 40
    assert (large["iwelbo"] - small["iwelbo"]).abs().mean() < 0.2


@pytest.mark.parametrize("n_particles", [9, 50])
def test_the_iwelbo_is_that_of_all_its_particles(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, n_particles: int
) -> None:
    loader = Loader(screen.test)
    generator = torch.Generator().manual_seed(3)
    shifts = draw_shifts(trained.module, loader.present, n_particles, generator)
    batch = next(loader.in_order(1000))
    noise = trained.module.encoder.noise(len(screen.test), n_particles, generator)
    with torch.no_grad():
        own = trained.module(batch, of_batch(shifts, loader.present, batch.dosage), noise)
    weights = (own.likelihood + own.basal).double()
    table = trained.iwelbo(screen.test, n_particles=n_particles, seed=3, progress=False)
    values = weights.logsumexp(0) - np.log(n_particles)
    np.testing.assert_allclose(table["iwelbo"], values, rtol=1e-6)
    ratio = (weights - values).exp()
    mc_se = ratio.std(0) / n_particles**0.5
    np.testing.assert_allclose(table["mc_se"], mc_se, rtol=1e-3)
    # The spread of groups of particles: a particle's group is its remainder by 20.
    n_groups = min(20, n_particles)
    means = torch.stack([ratio[g::n_groups].mean(0) - 1 for g in range(n_groups)]).mean(1)
    mean_mc_se = (means.square().sum() / (n_groups * (n_groups - 1))).sqrt()
    assert table.attrs["mean_mc_se"] == pytest.approx(float(mean_mc_se), rel=1e-3)
    joint = weights.sum(1)
    for ratios in shifts.log_ratios.values():
        joint += ratios.double().sum(1)
    expected = torch.logsumexp(joint, 0) - np.log(n_particles)
    assert table.attrs["joint"] == pytest.approx(float(expected), rel=1e-6)
    assert table.attrs["joint"] < table["iwelbo"].sum()


def test_iwelbo_of_control_cells_alone(trained: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    alone = trained.iwelbo(screen.test.control, n_particles=300, progress=False)
    assert np.isfinite(alone["iwelbo"]).all()


def test_effects_equal_the_difference_of_simulated_cells(certain: samsvae.SAMSVAE) -> None:
    n = 40_000
    cells = certain.simulate(["A+B", "control"], n_cells=n, library_size=1e4, seed=3)
    counts = cells.X.toarray().astype(float)
    values = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    arm, control = values[:n], values[n:]
    expected = arm.mean(0) - control.mean(0)
    se = np.sqrt((arm.var(0) + control.var(0)) / n)
    effect = certain.effects("A+B", n_particles=20_000, n_draws=0, progress=False)
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
    effect = certain.effects("A", n_particles=500, n_draws=300, progress=False)
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
    share = model.facts.batch_shares[0]
    mixed = share * one + (1 - share) * two
    assert np.abs(both - mixed).max() < 0.2 * np.abs(one - two).max()
    with pytest.raises(samsvae.InputError, match="no batch 'tow': the nearest is 'two'"):
        model.effects("A", batch="tow")
    assert model.simulate("A", n_cells=20).n_obs == 20


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.effects("Z"), "no perturbation 'Z'"),
        (lambda m: m.effects("A+A"), "twice"),
        (lambda m: m.effects("A+"), "empty part"),
        (lambda m: m.effects([]), "no conditions"),
        (
            lambda m: m.effects("A", scale="lgo"),
            "no scale for a negative_binomial likelihood: 'lgo': the nearest is 'log'",
        ),
        (lambda m: m.effects("A", library_size=0), "library_size"),
        (lambda m: m.effects("A", library_size="observd"), "the nearest is 'observed'"),
        (lambda m: m.effects("A", n_particles=1), "n_particles is 1"),
        (lambda m: m.effects("A", n_draws=-1), "n_draws is -1"),
        (lambda m: m.simulate("A", n_cells=0), "n_cells is 0"),
        (lambda m: m.simulate("A", library_size=-1.0), "library_size"),
    ],
)
def test_bad_questions_get_one_clear_line(
    trained: samsvae.SAMSVAE, ask: Answer, message: str
) -> None:
    with pytest.raises(samsvae.InputError, match=message) as error:
        ask(trained)
    assert "\n" not in str(error.value)


def test_an_untrained_model_says_so(screen: samsvae.Screen) -> None:
    with pytest.raises(samsvae.InputError, match="not trained: call train"):
        samsvae.SAMSVAE(screen, **SMALL).effects("A")


def unseen_in_training() -> samsvae.Screen:
    """Return a screen whose perturbation C occurs in test cells alone."""
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "C", "split"] = "test"
    return samsvae.Screen.from_anndata(adata, split_key="split")


def test_a_perturbation_never_seen_in_training_is_named() -> None:
    screen = unseen_in_training()
    model = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=2, progress=False)
    for ask in (
        lambda: model.effects("A+C"),
        lambda: model.simulate("C"),
        lambda: model.iwelbo(screen.test),
    ):
        with pytest.raises(samsvae.InputError, match="never seen in training: 'C'"):
            ask()
    assert model.mask_probabilities().loc["C"].isna().all()
    assert model.embeddings().loc[["A", "B"]].notna().all(axis=None)
    assert list(model.effects(n_particles=10, progress=False).obs_names) == ["A", "A+B", "B"]


def test_simulated_cells_are_counts_at_the_asked_depth(trained: samsvae.SAMSVAE) -> None:
    cells = trained.simulate(["A", "A+C"], n_cells=3000, library_size=500.0)
    assert isinstance(cells, AnnData)
    assert cells.X.dtype == np.int32
    assert cells.obs["condition"].value_counts().to_dict() == {"A": 3000, "A+C": 3000}
    total = np.asarray(cells.X.sum(1)).ravel()
    assert abs(total.mean() - 500) < errors() * total.std() / len(total) ** 0.5 + 0.01
    again = trained.simulate(["A", "A+C"], n_cells=3000, library_size=500.0)
    assert (again.X != cells.X).nnz == 0
    observed = trained.simulate("A", n_cells=50).obs["library_size"]
    assert set(observed) <= set(trained.facts.library_sizes("A"))


def test_given_cells_keep_their_names_sizes_and_basal_states(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    cells = trained.simulate(["control", "B"], cells=screen.test)
    assert cells.n_obs == 2 * len(screen.test)
    assert list(cells.obs["cell"][: len(screen.test)]) == list(screen.test.cells)
    assert np.array_equal(cells.obs["library_size"][: len(screen.test)], screen.test.library_size)
    observed, drawn = screen.test.counts.toarray(), cells.X.toarray()[: len(screen.test)]
    own, others = (
        np.corrcoef(observed.ravel(), cells.ravel())[0, 1] for cells in (drawn, drawn[::-1])
    )
    assert own > others + 0.1


def test_latent_states(certain: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    latent = certain.latent(screen)
    assert {name: values.shape for name, values in latent.items()} == {
        "basal": (len(screen), 4),
        "state": (len(screen), 4),
    }
    control = screen.is_control
    assert np.array_equal(latent["basal"][control], latent["state"][control])
    received = screen.condition == screen.condition_names.index("A")
    expected = certain.embeddings().loc["A"].to_numpy()
    moved = latent["state"][received] - latent["basal"][received]
    np.testing.assert_allclose(moved, np.tile(expected, (len(moved), 1)), atol=1e-4)


def test_masks_and_embeddings_are_labelled(trained: samsvae.SAMSVAE) -> None:
    for table in (trained.mask_probabilities(), trained.embeddings()):
        assert isinstance(table, pd.DataFrame)
        assert list(table.index) == ["A", "B", "C"]
        assert list(table.columns) == ["z0", "z1", "z2", "z3"]
    assert trained.mask_probabilities().to_numpy().min() > 0


@pytest.mark.parametrize("embedding_given_mask", [True, False])
@pytest.mark.parametrize("basal_given_shift", [True, False])
def test_every_posterior_family_trains_and_answers(
    screen: samsvae.Screen, embedding_given_mask: bool, basal_given_shift: bool
) -> None:
    options = {"embedding_given_mask": embedding_given_mask, "basal_given_shift": basal_given_shift}
    model = samsvae.SAMSVAE(screen, **SMALL, **options).train(
        max_steps=200, batch_size=64, n_particles=2, validate_every=50, progress=False
    )
    assert model.history["valid_elbo"].iloc[-1] > model.history["valid_elbo"].iloc[0]
    assert np.isfinite(model.iwelbo(screen.test, n_particles=5, progress=False)).all(axis=None)
    assert np.isfinite(model.effects(n_particles=50, n_draws=3, progress=False).X).all()
    assert repr(model).startswith("SAMSVAE(n_latent=4")


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


def test_control_states_are_saved_and_keep_their_batches(tmp_path: Path) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    model = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=5, progress=False)
    control = screen.train.control
    assert torch.equal(model.control_basal.covariates.argmax(1), torch.from_numpy(control.batch))
    model.save(tmp_path)
    options: dict[str, Any] = {"n_particles": 30, "n_draws": 4, "progress": False}
    ours, theirs = (
        x.effects(["A"], basal="control", **options) for x in (model, samsvae.load(tmp_path))
    )
    np.testing.assert_array_equal(ours.X, theirs.X)
    one = model.effects(["A"], basal="control", batch="one", **options)
    assert not np.array_equal(one.X, ours.X)
    with pytest.raises(samsvae.InputError, match=r"basal 'controls'.*'control'"):
        model.effects(["A"], basal="controls", progress=False)  # type: ignore[arg-type]
