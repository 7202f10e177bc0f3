"""Perturbations without cells: what features tell of them, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from samsvae import InputError, features

N_GROUPS, PER_GROUP, N_GENES = 4, 5, 40
NAMES = [f"P{i:02d}" for i in range(N_GROUPS * PER_GROUP)]
NEW = [f"N{i}" for i in range(N_GROUPS)]
QUICK = {"n_particles": 100, "n_draws": 20, "progress": False}


def effects_of_groups() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random((N_GROUPS, N_GENES)) < 0.25, rng.normal(0, 1.5, (4, N_GENES)), 0.0)


def made_screen() -> samsvae.Screen:
    """Return a screen in which perturbations of a group have the same effects."""
    rng = np.random.default_rng(1)
    labels = ["control"] * 400 + [name for name in NAMES for _ in range(60)]
    group = np.array([-1 if name == "control" else NAMES.index(name) % 4 for name in labels])
    change = np.concatenate([effects_of_groups(), np.zeros((1, N_GENES))])[group]
    share = rng.dirichlet(np.full(N_GENES, 5.0)) * 2.0**change
    counts = rng.poisson(600 * share / share.sum(1, keepdims=True)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "perturbation": labels,
            "split": rng.choice(["train", "valid"], len(labels), p=[0.8, 0.2]),
        },
        index=[f"c{i}" for i in range(len(labels))],
    )
    adata = AnnData(sp.csr_matrix(counts), obs=obs)
    adata.var_names = [f"gene{i}" for i in range(N_GENES)]
    return samsvae.Screen.from_anndata(adata, split_key="split")


def groups(names: list[str], *, seed: int | None = None) -> features.Features:
    """Return features that say which group a perturbation is of; at random with a seed."""
    place = np.arange(len(names)) if seed is None else np.random.default_rng(seed).permutation(20)
    table = np.eye(N_GROUPS)[np.array([i % N_GROUPS for i in place])]
    new = np.eye(N_GROUPS)
    return features.read(dict(zip([*names, *NEW], [*table, *new], strict=True)))


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    return made_screen()


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    sizes = {"n_latent": 6, "n_hidden": 16}
    return samsvae.SAMSVAE(screen, **sizes).train(
        max_steps=300, batch_size=128, learning_rate=0.01, progress=False
    )


@pytest.fixture(scope="module")
def told(model: samsvae.SAMSVAE) -> samsvae.SAMSVAE:
    return model.with_features(groups(NAMES))


def typical(values: np.ndarray) -> np.ndarray:
    centred: np.ndarray = values - np.median(values, 1, keepdims=True)
    return centred


def test_features_tell_of_perturbations_without_cells(told: samsvae.SAMSVAE) -> None:
    assert told.metadata.unmeasured is not None
    assert told.metadata.unmeasured.rho > 0.8
    found = told.effects(NEW, **QUICK)
    truth = effects_of_groups()
    assert np.corrcoef(found.X.ravel(), truth.ravel())[0, 1] > 0.9
    assert (found.obs["n_train_cells"] == 0).all()
    assert found.obs["support"].between(0.5, 1).all()
    for i, closest in enumerate(found.obs["closest"]):
        assert {NAMES.index(name) % 4 for name in closest.split(", ")} == {i}
    inside = (found.layers["lower"] <= typical(truth)) & (typical(truth) <= found.layers["upper"])
    assert inside.mean() > 0.8


def test_features_that_say_nothing_leave_the_mean_and_every_other_answer(
    model: samsvae.SAMSVAE,
) -> None:
    table = groups(NAMES, seed=3)
    told = model.with_features(table)
    assert told.metadata.unmeasured is not None
    assert told.metadata.unmeasured.rho < 0.2
    found = told.effects(NEW, **QUICK).to_df()
    measured = samsvae.baselines.PerturbationMean(model._screen).effects(NAMES[:1]).to_df()
    assert np.corrcoef(found.iloc[0], measured.iloc[0])[0, 1] > 0.9


def test_without_any_weight_shifts_stay_as_they_are(
    model: samsvae.SAMSVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rho = 0 is the model without features, to 1e-9."""

    def without(estimates: object, factors: list[np.ndarray]) -> object:
        found = real(estimates, factors)
        return found._replace(weights=0 * found.weights)

    names = samsvae.SAMSVAE.with_features.__globals__
    real = names["fitted_prior"]
    monkeypatch.setitem(names, "fitted_prior", without)
    told = model.with_features(groups(NAMES))
    before, after = (one.effects(NAMES[:3], **QUICK) for one in (model, told))
    np.testing.assert_allclose(after.X, before.X, rtol=0, atol=1e-9)
    for name in before.layers:
        np.testing.assert_allclose(after.layers[name], before.layers[name], rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(
        told.mask_probabilities().loc[NAMES], model.mask_probabilities(), rtol=0, atol=1e-9
    )


def test_a_perturbation_with_few_cells_borrows(screen: samsvae.Screen) -> None:
    few = screen.condition == list(screen.condition_names).index("P00")
    few &= np.cumsum(few) > 4
    rest = screen[np.flatnonzero(~few)]
    sizes = {"n_latent": 6, "n_hidden": 16}
    own = samsvae.SAMSVAE(rest, **sizes).train(
        max_steps=300, batch_size=128, learning_rate=0.01, progress=False
    )
    told = own.with_features(groups(NAMES))
    truth = typical(effects_of_groups())[0]
    error = [np.square(one.effects(["P00"], **QUICK).X[0] - truth).mean() for one in (own, told)]
    assert error[1] < 0.7 * error[0]


def test_sums_add_features_to_cells(told: samsvae.SAMSVAE) -> None:
    found = told.effects(["P00", "N1", "P00+N1"], **QUICK)
    np.testing.assert_allclose(found.X[2], found.X[0] + found.X[1], atol=1e-6)
    width = found.layers["upper"] - found.layers["lower"]
    assert (width[2] >= width[:2].max(0) - 1e-6).all()
    assert list(found.obs["n_train_cells"] > 0) == [True, False, False]


def test_discoveries_call_what_features_tell(told: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    table = samsvae.discoveries(told, screen, ["N0", "P00"], n_particles=100, progress=False)
    rows = table[table["condition"] == "N0"].set_index("gene")
    assert (rows["n_cells"] == 0).all()
    assert (rows["support"] > 0.5).all()
    truth = pd.Series(effects_of_groups()[0], [f"gene{i}" for i in range(N_GENES)])
    called = rows.index[rows["q_value"] < 0.05]
    assert len(called) > 3
    assert (np.sign(rows.loc[called, "estimate"]) == np.sign(truth[called])).all()
    # Calls of one are not those of the other: the table without it has the same q values.
    alone = samsvae.discoveries(told, screen, ["N0"], n_particles=100, progress=False)
    pd.testing.assert_series_equal(
        alone.set_index("gene")["q_value"].sort_index(), rows["q_value"].sort_index()
    )
    alike = samsvae.similar(table, "N0")
    assert alike.loc[0, "condition"] == "P00"


def test_a_contrast_with_a_measured_perturbation_takes_both(
    told: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = samsvae.contrast(told, screen, "P00", "N1", n_particles=100, progress=False)
    truth = effects_of_groups()
    rows = table.set_index("gene")["estimate"]
    expected = pd.Series(truth[0] - truth[1], [f"gene{i}" for i in range(N_GENES)])
    assert rows.corr(expected[rows.index]) > 0.9


def test_cells_are_simulated_and_saved_models_answer_alike(
    told: samsvae.SAMSVAE, tmp_path: Path
) -> None:
    told.save(tmp_path)
    again = samsvae.load(tmp_path)
    first, second = (one.effects(["N2"], **QUICK) for one in (told, again))
    np.testing.assert_array_equal(first.X, second.X)
    assert first.obs.equals(second.obs)
    cells = [one.simulate(["N2"], n_cells=20).X.toarray() for one in (told, again)]
    np.testing.assert_array_equal(*cells)


def test_a_perturbation_without_features_is_refused_with_advice(
    model: samsvae.SAMSVAE, told: samsvae.SAMSVAE
) -> None:
    for one in (model, told):
        with pytest.raises(InputError, match=r"no perturbation 'XYZ'.*with_features"):
            one.effects(["XYZ"])
    with pytest.raises(InputError, match="relative to the typical gene"):
        told.effects(["N0"], relative_to="library", **QUICK)


def test_models_and_features_that_do_not_fit_are_refused(
    model: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not trained"):
        samsvae.SAMSVAE(screen, n_latent=2).with_features(groups(NAMES))
    with pytest.raises(InputError, match="2 of the 20 perturbations"):
        model.with_features(features.read({"one": [*NAMES[:2], "new"]}))
    with pytest.raises(InputError, match="features is"):
        model.with_features("sets.gmt")  # type: ignore[arg-type]
    plus = samsvae.SVAEPlus(screen, n_latent=2, n_hidden=4).train(max_steps=2, progress=False)
    with pytest.raises(InputError, match="no posterior of shifts"):
        plus.with_features(groups(NAMES))
    model.save(tmp_path)
    with pytest.raises(InputError, match="give the screen"):
        samsvae.load(tmp_path).with_features(groups(NAMES))


def test_every_posterior_of_shifts_takes_features(screen: samsvae.Screen) -> None:
    sizes = {"n_latent": 3, "n_hidden": 4}
    known = groups(NAMES)
    for one in (
        samsvae.SAMSVAE(screen, embedding_given_mask=True, mask="beta_bernoulli", **sizes),
        samsvae.SAMSVAE(screen, learn_responders=True, **sizes),
        samsvae.CPAVAE(screen, saturating_dose=True, **sizes),
    ):
        told = one.train(max_steps=5, progress=False).with_features(known)
        assert np.isfinite(told.effects(["N0", "P01"], **QUICK).X).all()
        assert told.simulate(["N0"], n_cells=3).shape == (3, N_GENES)
