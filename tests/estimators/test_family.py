"""The contract of every estimator: one body over all members, their options and likelihoods."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import samsvae
from helpers.screens import make_adata
from helpers.statistics import errors
from samsvae.estimators import CPAVAE, ESTIMATORS, SAMSVAE, ConditionalVAE, SVAEPlus
from samsvae.estimators.base import Estimator
from samsvae.model.likelihood import LIKELIHOODS
from samsvae.model.mask import MASKS
from samsvae.model.mechanism import AdditiveShift
from samsvae.types import Scale

ASKED: dict[str, Any] = {"n_particles": 60, "n_draws": 12, "progress": False}
GENES = [f"g{i}" for i in range(12)]
PARTS: dict[type[Estimator], dict[str, Any]] = {
    SAMSVAE: {"n_hidden_embedding": 6, "n_layers_embedding": 1, "mask_prob": 0.1},
    CPAVAE: {},
    SVAEPlus: {},
    ConditionalVAE: {},
}
LAYERS: list[dict[str, Any]] = [
    {"n_layers": 3},
    {"n_hidden_decoder": 5},
    {"n_layers_decoder": 2, "n_hidden_decoder": 9},
    {"n_layers": 2, "n_layers_decoder": 1},
]


class Case(NamedTuple):
    kind: type[Estimator]
    own: dict[str, Any]
    """Hyperparameters that differ from the smallest model's."""
    batch_key: str | None = None

    @property
    def counts(self) -> bool:
        return self.own.get("likelihood") != "gaussian"

    @property
    def scale(self) -> Scale:
        return "mean" if "likelihood" in self.own else "lfc"

    @property
    def additive(self) -> bool:
        return self.kind is not ConditionalVAE


CASES = [
    Case(SAMSVAE, {"embedding_given_mask": True}),
    Case(SAMSVAE, {"basal_given_shift": False}),
    *(Case(SAMSVAE, {"mask": mask.name}) for mask in MASKS),
    Case(CPAVAE, {"basal_given_shift": False}),
    *(Case(kind, {"saturating_dose": True}) for kind in (SAMSVAE, CPAVAE)),
    Case(SVAEPlus, {"beta_b": 4.0, "unseen_as_control": True}),
    *(
        Case(kind, {"likelihood": name})
        for kind in (CPAVAE, SVAEPlus, ConditionalVAE)
        for name in ("poisson", "gaussian")
    ),
    *(Case(kind, own) for kind, own in zip(PARTS, LAYERS, strict=True)),
    *(Case(kind, {}, "batch") for kind in PARTS),
    *(Case(SAMSVAE, {"likelihood": name}, "batch") for name in ("poisson", "gaussian")),
]


def named(case: Case) -> str:
    own = [f"{name}={value}" for name, value in case.own.items()]
    return " ".join([case.kind.name, *own, *(["batches"] if case.batch_key else [])])


def data(case: Case) -> AnnData:
    """Return cells, those of batch "two" at a very different level of half of the genes."""
    adata = make_adata()
    if case.batch_key:
        adata.X[np.ix_(adata.obs["batch"] == "two", range(0, 12, 2))] *= 4
    if not case.counts:
        adata.X = np.log1p(adata.X) - 1
    return adata


def read(case: Case, adata: AnnData) -> samsvae.Screen:
    return samsvae.Screen.from_anndata(
        adata, split_key="split", batch_key=case.batch_key, counts=case.counts
    )


class Fitted(NamedTuple):
    case: Case
    screen: samsvae.Screen
    model: Estimator


@pytest.fixture(scope="module", params=CASES, ids=[named(case) for case in CASES])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """Return a small trained model of each case. Shared: do not train or change it."""
    case: Case = request.param
    screen = read(case, data(case))
    own = {"n_latent": 3, "n_hidden": 8, **PARTS[case.kind], **case.own}
    model = case.kind(screen, **own).train(
        max_steps=150,
        batch_size=64,
        n_particles=2,
        learning_rate=0.01,
        validate_every=30,
        progress=False,
    )
    return Fitted(case, screen, model)


def names_of(kind: type[Estimator]) -> list[str]:
    return ["A", "A+B", "B", "C"] if kind is SVAEPlus else ["A", "B", "C"]


def test_every_member_mask_and_likelihood_is_in_the_list() -> None:
    assert set(PARTS) == set(ESTIMATORS)
    likelihoods = {(c.kind, c.own.get("likelihood", "negative_binomial")) for c in CASES}
    assert likelihoods == {(kind, one.name) for kind in ESTIMATORS for one in LIKELIHOODS}
    assert {c.own["mask"] for c in CASES if "mask" in c.own} == {mask.name for mask in MASKS}
    assert {c.kind for c in CASES if c.batch_key} == set(ESTIMATORS)


def test_networks_have_the_layers_that_are_asked_for(fitted: Fitted) -> None:
    own, module = fitted.case.own, fitted.model.module
    n_layers, encoder = own.get("n_layers", 1), module.encoder.network.hidden
    assert (encoder.width, len(encoder.rest)) == (8, n_layers - 1)
    width, depth = own.get("n_hidden_decoder", 8), own.get("n_layers_decoder", n_layers)
    assert (module.decoder.width, len(module.decoder.rest)) == (width, depth - 1)


def test_training_raises_the_elbo(fitted: Fitted) -> None:
    history = fitted.model.history
    aligned = "is_aligned" in history
    finite = history.drop(columns="mask_sparsity", errors="ignore").to_numpy(np.float64)
    assert np.isfinite(finite).all()
    assert history["step"].tolist() == sorted([30, 60, 90, 120, 150, *([75] if aligned else [])])
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[0] + 1
    assert history["valid_elbo"].max() > history["valid_elbo"].iloc[0]
    terms = ["likelihood", *fitted.model.module.variables]
    np.testing.assert_allclose(history["elbo"], history[terms].sum(axis=1), rtol=1e-5, atol=1e-4)


def test_a_loaded_model_answers_alike(fitted: Fitted, tmp_path: Path) -> None:
    case, screen, model = fitted
    model.save(tmp_path)
    loaded = samsvae.load(tmp_path)
    assert type(loaded) is case.kind
    assert loaded.hyperparameters == model.hyperparameters
    first, second = (m.iwelbo(screen.test, n_particles=4, progress=False) for m in (model, loaded))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    ours, theirs = (m.effects(["A+B", "C"], **ASKED) for m in (model, loaded))
    np.testing.assert_array_equal(ours.X, theirs.X)
    for name in ("mc_se", "lower", "upper"):
        np.testing.assert_array_equal(ours.layers[name], theirs.layers[name])


def test_iwelbo_is_a_bound_that_rises_with_particles(fitted: Fitted) -> None:
    case, screen, model = fitted
    many = model.iwelbo(screen.test, n_particles=200, progress=False)
    ones = [
        model.iwelbo(screen.test, n_particles=1, seed=seed, progress=False) for seed in range(20)
    ]
    assert list(many.index) == list(screen.test.cells)
    assert np.isfinite([one["iwelbo"] for one in ones]).all()
    assert ones[0]["mc_se"].isna().all()
    assert np.isfinite(many).all(axis=None)
    assert (many["mc_se"] > 0).all()
    assert many.attrs["mean_mc_se"] > 0
    elbos = [one["iwelbo"].mean() for one in ones]
    se = np.hypot(np.std(elbos, ddof=1) / 20**0.5, many.attrs["mean_mc_se"])
    assert many["iwelbo"].mean() > np.mean(elbos) - errors() * se
    if case.counts:  # a probability is at most 1
        assert (many["iwelbo"] < 0).all()


def test_iwelbo_goes_with_names_not_with_places(fitted: Fitted) -> None:
    case, screen, model = fitted
    adata = data(case)[screen.test.cells].copy()
    rng = np.random.default_rng(0)
    wanted = model.iwelbo(read(case, adata), n_particles=300, progress=False)
    genes = read(case, adata[:, rng.permutation(12)].copy())
    permuted = model.iwelbo(genes, n_particles=300, progress=False)
    pd.testing.assert_frame_equal(permuted, wanted, rtol=1e-5)
    cells = read(case, adata[rng.permutation(adata.n_obs)].copy())
    moved = model.iwelbo(cells, n_particles=300, progress=False)
    assert set(moved.index) == set(wanted.index)
    difference = (moved["iwelbo"] - wanted["iwelbo"]).mean()  # pandas aligns the names
    se = np.hypot(moved.attrs["mean_mc_se"], wanted.attrs["mean_mc_se"])
    assert abs(difference) < errors() * se
    assert np.corrcoef(moved.loc[wanted.index, "iwelbo"], wanted["iwelbo"])[0, 1] > 0.8


def test_effects_are_labelled_and_bounded(fitted: Fitted) -> None:
    case, _, model = fitted
    effects = model.effects(["B+A", "control", "C", "A+B"], **ASKED)
    assert effects.obs_names.tolist() == ["B+A", "control", "C", "A+B"]
    assert effects.obs["condition"].tolist() == ["A+B", "control", "C", "A+B"]
    assert (effects.obs["n_train_cells"] == 30).all()
    assert effects.var_names.tolist() == GENES
    assert effects.uns["scale"] == case.scale
    assert np.isfinite(effects.X).all()
    assert np.all(effects["control"].X == 0)
    np.testing.assert_array_equal(effects["B+A"].X, effects["A+B"].X)
    assert (np.abs(effects["A+B"].X) > 0).any()
    lower, upper = (effects.layers[name] for name in ("lower", "upper"))
    assert np.all(lower <= upper) if case.additive else np.isnan([lower, upper]).all()
    assert effects.layers["mc_se"].min() >= 0
    assert model.effects(**ASKED).obs_names.tolist() == ["A", "A+B", "B", "C"]


def test_scales_are_those_of_the_likelihood(fitted: Fitted) -> None:
    case, _, model = fitted
    has_library_size = case.scale == "lfc"
    kinds: list[Scale] = ["lfc", "log", "normalized", "mean"]
    for scale in kinds:
        if (scale != "mean") == has_library_size:
            assert model.effects("A", scale=scale, **ASKED).uns["scale"] == scale
        else:
            with pytest.raises(samsvae.InputError, match=f"^no scale for a .* '{scale}': "):
                model.effects("A", scale=scale, **ASKED)


def test_the_batch_is_drawn_or_held_fixed(fitted: Fitted) -> None:
    case, _, model = fitted
    if case.batch_key is None:
        with pytest.raises(samsvae.InputError, match="no batch 'one': there are none"):
            model.effects("A", batch="one", **ASKED)
        return
    scale: Scale = "mean" if case.scale == "mean" else "normalized"
    options: dict[str, Any] = {"scale": scale, "n_particles": 4000, "n_draws": 0}
    one, two, both = (
        model.effects("A+B", batch=batch, progress=False, **options)
        for batch in ("one", "two", None)
    )
    share = model.metadata.batch_shares
    mixed = share @ np.concatenate([one.X, two.X])
    variances = [e.layers["mc_se"][0] ** 2 for e in (one, two, both)]
    se = np.sqrt(share[0] ** 2 * variances[0] + share[1] ** 2 * variances[1] + variances[2])
    assert np.all(np.abs(both.X[0] - mixed) < errors(12) * se)
    differ = np.abs(one.X - two.X) / np.sqrt(variances[0] + variances[1])
    # Beside a library size a batch moves effects far, without one hardly.
    assert differ.max() > (errors(12) if scale == "normalized" else 0)


def test_new_cells_are_data_of_the_likelihoods_kind(fitted: Fitted) -> None:
    case, _, model = fitted
    cells = model.simulate(["B+A", "control"], n_cells=25, seed=1)
    assert cells.obs["condition"].tolist() == ["B+A"] * 25 + ["control"] * 25
    assert cells.var_names.tolist() == GENES
    assert ("library_size" in cells.obs) == (case.scale == "lfc")
    values = cells.X.toarray() if case.counts else cells.X
    assert values.shape == (50, 12)
    assert np.isfinite(values).all()
    if case.counts:
        assert values.dtype == np.int32
        assert values.min() >= 0
    else:
        assert (values != values.round()).all()
        assert values.min() < 0
    again, other = (model.simulate("A+B", n_cells=25, seed=seed) for seed in (1, 2))
    first, second = ((a.X.toarray() if case.counts else a.X) for a in (again, other))
    np.testing.assert_array_equal(first, values[:25])
    assert (first != second).any()


def test_given_cells_keep_their_names_and_likeness(fitted: Fitted) -> None:
    case, screen, model = fitted
    own = screen.control
    cells = model.simulate(["control", "A"], cells=own)
    assert cells.n_obs == 2 * len(own)
    assert cells.obs["cell"].tolist() == [*own.cells, *own.cells]
    values = cells.X.toarray() if case.counts else cells.X
    observed = own.counts.toarray()
    drawn = values[: len(own)]
    assert np.corrcoef(observed.mean(0), drawn.mean(0))[0, 1] > 0.5
    if case.scale == "mean":  # without a library size the basal state alone tells the level
        assert np.corrcoef(observed.sum(1), drawn.sum(1))[0, 1] > 0.25
    if case.scale == "lfc":
        np.testing.assert_array_equal(cells.obs["library_size"], np.tile(own.library_size, 2))


def test_states_are_basal_states_and_the_mean_displacement(fitted: Fitted) -> None:
    case, screen, model = fitted
    latent = model.latent(screen, n_particles=7, seed=3)
    assert {name: value.shape for name, value in latent.items()} == {
        "basal": (len(screen), 3),
        "state": (len(screen), 3),
    }
    moved = latent["state"] - latent["basal"]
    mechanism = model.module.mechanism
    if not isinstance(mechanism, AdditiveShift):
        assert np.all(moved == 0)
        return
    everyone = torch.arange(len(model.encoding.columns))
    generator = torch.Generator().manual_seed(3)
    noise = mechanism.noise(everyone, 7, generator)
    shift = mechanism.draw(everyone, noise).value.detach().mean(0).numpy()
    if case.own.get("saturating_dose"):
        curve = model.dose_parameters()
        shift = shift / (1 + curve["half_dose"] ** curve["slope"]).to_numpy()[:, None]
    dosage = model.encoding(screen.dosage).toarray()
    np.testing.assert_allclose(moved, dosage @ shift, atol=1e-5)
    assert np.abs(moved).max() > 0.01


def test_mechanisms_are_labelled_and_in_range(fitted: Fitted) -> None:
    case, _, model = fitted
    if not case.additive:
        for ask in (model.mask_probabilities, model.embeddings, model.dose_parameters):
            with pytest.raises(samsvae.InputError, match=r"^a ConditionalVAE has no "):
                ask()
        return
    mask, embedding = model.mask_probabilities(), model.embeddings()
    for table in (mask, embedding):
        assert list(table.index) == names_of(case.kind)
        assert list(table.columns) == ["z0", "z1", "z2"]
        assert np.isfinite(table).all(axis=None)
    if case.kind is CPAVAE:
        assert (mask == 1).all(axis=None)
    else:
        assert ((mask > 0) & (mask < 1)).all(axis=None)
        assert mask.to_numpy().std() > 0
    if not case.own.get("saturating_dose"):
        with pytest.raises(samsvae.InputError, match="in proportion to the dose"):
            model.dose_parameters()
        return
    curve = model.dose_parameters()
    assert list(curve.index) == ["A", "B", "C"]
    assert list(curve.columns) == ["half_dose", "slope"]
    assert (curve > 0).all(axis=None)
