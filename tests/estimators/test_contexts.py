"""Effects that differ by context, and effects of pairs beyond their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.data.loader import Loader
from samsvae.data.names import Extended
from samsvae.errors import InputError
from samsvae.inference.latent import draw_shifts
from samsvae.train.step import PlainStep

ASK: dict[str, Any] = {"n_particles": 40, "n_draws": 20, "progress": False}


def read(adata: AnnData | None = None, **keys: Any) -> samsvae.Screen:
    return samsvae.Screen.from_anndata(
        make_adata() if adata is None else adata, split_key="split", **keys
    )


def trained(screen: samsvae.Screen, **settings: Any) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL, **settings).train(max_steps=12, progress=False)


def extended(screen: samsvae.Screen) -> Extended:
    encoding = samsvae.SAMSVAE(screen, **SMALL, learn_interactions=True).encoding
    assert isinstance(encoding, Extended)
    return encoding


@pytest.fixture(scope="module")
def model() -> samsvae.SAMSVAE:
    """A model of two contexts in which A has cells in the first one alone, and of pairs."""
    adata = make_adata()
    lost = (adata.obs["perturbation"] == "A") & (adata.obs["batch"] == "two")
    lost |= (adata.obs["perturbation"] == "B+A") & (adata.obs["batch"] == "two")
    settings = {**SMALL, "mask_prob": None}
    model = samsvae.SAMSVAE(
        read(adata[~lost], context_key="batch"), **settings, learn_interactions=True
    )
    return model.train(max_steps=12, progress=False)


def test_a_context_of_one_level_is_no_context() -> None:
    adata = make_adata()
    adata.obs["batch"] = "one"
    of_context, of_batch = (trained(read(adata, **{key: "batch"})) for key in KEYS)
    for own, other in zip(
        of_context.module.parameters(), of_batch.module.parameters(), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        of_context.effects(["A"], context="one", **ASK).X,
        of_batch.effects(["A"], **ASK).X,
        atol=1e-9,
    )


KEYS = ("context_key", "batch_key")


def test_an_interaction_with_closed_masks_is_none() -> None:
    screen = read()
    plain = samsvae.SAMSVAE(screen, **SMALL)
    model = samsvae.SAMSVAE(screen, **SMALL, learn_interactions=True)
    state = plain.module.state_dict()
    with torch.no_grad():
        own = model.module.state_dict()
        for name, value in state.items():
            own[name][: len(value)].copy_(value)
        model.module.mechanism.additive.mask.logits[3:] = -200.0
    terms = []
    for one in (plain, model):
        loader = one.loader(screen.test)
        assert len(loader.present) == (3 if one is plain else 4)
        shifts = draw_shifts(one.module, loader.present, 1, torch.Generator().manual_seed(0))
        value = torch.zeros(1, len(one.encoding.columns), 4)
        value[:, loader.present] = shifts.value
        value[:, :3] = 1.0  # the same shared effects
        batch = loader.batch(slice(None))
        noise = torch.zeros(1, len(screen.test), 4)
        own = shifts._replace(value=value[:, batch.dosage.columns], log_ratios={})
        weights = one.module(batch, own, noise)
        terms.append(weights.likelihood + weights.basal)
    torch.testing.assert_close(*terms, rtol=0, atol=1e-9)


def test_deviations_sum_to_zero_whatever_the_order_of_contexts() -> None:
    """They are e_c - mean e for any number of contexts, and none is special."""
    for n_contexts in (2, 3, 4):
        adata = make_adata(n_cells=480)
        adata.obs["batch"] = [f"c{i // 5 % n_contexts}" for i in range(len(adata))]
        encoding = extended(read(adata, context_key="batch"))
        contrast = encoding.contrast[:n_contexts].toarray()
        np.testing.assert_allclose(contrast.sum(0), 0, atol=1e-12)
        np.testing.assert_allclose(
            contrast @ contrast.T, np.eye(n_contexts) - 1 / n_contexts, atol=1e-12
        )


def test_doses_of_columns(model: samsvae.SAMSVAE) -> None:
    encoding = model.encoding
    assert encoding.columns == (
        *("A", "B", "C", "B in two", "C in two", "another deviation", "A+B"),
        "another interaction",
    )
    rows = model.metadata.received(["A", "B@2", "A+B", "B+C", "A+B+C", "control"])
    shared = encoding(rows).toarray()
    np.testing.assert_allclose(shared[:, 3:6], 0)
    np.testing.assert_allclose(shared[:, 6], [0, 0, 1, 0, 1, 0])
    np.testing.assert_allclose(shared[:, 7], [0, 0, 0, 1, np.sqrt(2), 0], rtol=1e-6)
    two = encoding(rows, model.metadata.in_context("two", 6)).toarray()
    half = np.sqrt(0.5)
    np.testing.assert_allclose(two[:, 3], [0, 2 * half, half, half, half, 0], rtol=1e-6)
    np.testing.assert_allclose(two[:, 5], np.sqrt([2, 0, 2, 0, 2, 0]), rtol=1e-6)
    one = encoding(rows, model.metadata.in_context("one", 6)).toarray()
    np.testing.assert_allclose(one[:, 3], -two[:, 3])
    np.testing.assert_allclose(one[:, 5], 0)


def test_what_has_no_cells_is_as_uncertain_as_its_kind(model: samsvae.SAMSVAE) -> None:
    additive = model.module.mechanism.additive
    mask, embedding = additive.mask, additive.embedding
    unseen = torch.tensor([5, 7])
    torch.testing.assert_close(mask.logit()[unseen], mask.prior_logit()[unseen])
    posterior = embedding.posterior(unseen, torch.ones(2, 4))
    torch.testing.assert_close(posterior.loc, torch.zeros(2, 4))
    torch.testing.assert_close(posterior.scale, embedding.prior(unseen).scale.expand(2, 4))
    with torch.no_grad():
        kept = mask.logits[unseen].clone()
        mask.logits[unseen] = 5.0
    wide = _width(model, context="two")
    with torch.no_grad():
        mask.logits[unseen] = -50.0
    narrow = _width(model, context="two")
    with torch.no_grad():
        mask.logits[unseen] = kept
    assert wide > 1.2 * narrow


def _width(model: samsvae.SAMSVAE, **settings: Any) -> float:
    settings = {"scale": "normalized", "n_particles": 100, "n_draws": 60, **settings}
    effects = model.effects(["A"], progress=False, **settings)
    return float(np.mean(effects.layers["upper"] - effects.layers["lower"]))


def test_kinds_have_priors_of_their_own(model: samsvae.SAMSVAE) -> None:
    additive = model.module.mechanism.additive
    assert additive.mask.log_odds.shape == (3,)
    prior = additive.mask.prior_logit()[:, 0]
    assert [int((prior == value).sum()) for value in additive.mask.log_odds] == [3, 3, 2]
    assert additive.embedding.prior().scale[:3].flatten().tolist() == [1.0, 1.0, 1.0]


def test_the_origin_moves_shared_effects_alone(model: samsvae.SAMSVAE) -> None:
    for given in (False, True):
        fresh = samsvae.SAMSVAE(
            model._screen, **SMALL, learn_interactions=True, embedding_given_mask=given
        )
        embedding = fresh.module.mechanism.additive.embedding
        ones, columns = torch.ones(8, 4), torch.arange(8)
        before = embedding.mean(columns, ones)
        embedding.translate(torch.full((4,), 0.5))
        moved = (before - embedding.mean(columns, ones))[:, 0]
        torch.testing.assert_close(moved, torch.tensor([0.5] * 3 + [0.0] * 5))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask": "beta_bernoulli"},
        {"embedding_given_mask": True},
        {"saturating_dose": True},
    ],
    ids=str,
)
def test_every_variant_answers_by_context(settings: dict[str, Any], tmp_path: Path) -> None:
    model = trained(read(context_key="batch"), learn_interactions=True, **settings)
    effects = model.effects(["A", "A+C"], context="two", **ASK)
    assert np.isfinite(effects.layers["upper"]).all()
    model.save(tmp_path)
    again = samsvae.load(tmp_path)
    np.testing.assert_array_equal(again.effects(["A", "A+C"], context="two", **ASK).X, effects.X)
    assert not np.allclose(effects.X, model.effects(["A", "A+C"], context="one", **ASK).X)


def test_contexts_of_cells(model: samsvae.SAMSVAE) -> None:
    effects = model.effects(["A", "B"], context="one", **ASK)
    cells = model._screen.train
    names = np.array(cells.condition_names)[cells.condition]
    is_one = (
        np.array(cells.registry.contexts)[cells.registry.context_of_batch[cells.batch]] == "one"
    )
    expected = [int((is_one & (names == name)).sum()) for name in ("A", "B")]
    assert effects.obs["n_train_cells"].tolist() == expected
    assert effects.uns["context"] == "one"
    simulated = model.simulate(["A"], context="two", n_cells=3)
    assert simulated.shape == (3, 12)


def test_batches_within_contexts_and_new_combinations_of_them() -> None:
    adata = make_adata()
    adata.obs["lane"] = np.where(adata.obs["batch"] == "one", "x", ["x", "y"] * 120)
    screen = read(adata, context_key="batch", batch_key="lane")
    model = trained(screen)
    assert model.registry.contexts == ("one", "two")
    adata.obs["lane"] = "y"  # with "one" this was in no training cell
    loader = model.loader(read(adata, context_key="batch", batch_key="lane").test)
    of_one = np.array([name == "one" for name in adata.obs["batch"]])[adata.obs["split"] == "test"]
    dose = loader.dosage[:, 3].toarray().ravel()
    received = loader.dosage[:, 0].toarray().ravel() > 0
    np.testing.assert_array_equal(np.sign(dose), np.where(received, np.where(of_one, -1, 1), 0))


def test_tables_of_differences_and_interactions(model: samsvae.SAMSVAE) -> None:
    differences = model.context_differences()
    assert len(differences) == 2 * 4
    assert set(differences["perturbation"]) == {"B", "C"}
    assert set(differences["context"]) == {"two"}
    assert set(differences["against"]) == {"one"}
    assert differences["log_bayes_factor"].is_monotonic_decreasing
    interactions = model.interactions()
    assert set(interactions["pair"]) == {"A+B"}
    assert len(interactions) == 4
    assert set(model.mask_probabilities().index) == {"A", "B", "C"}
    assert set(model.inclusion()["perturbation"]) == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("context", "message"), [("three", "no context 'three'"), ("1", "no context")]
)
def test_unknown_contexts_are_named(model: samsvae.SAMSVAE, context: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.effects(["A"], context=context, **ASK)


def test_models_without_contexts_say_so() -> None:
    model = trained(read())
    with pytest.raises(InputError, match="has no contexts"):
        model.effects(["A"], context="one", **ASK)
    with pytest.raises(InputError, match="context_key"):
        model.context_differences()
    with pytest.raises(InputError, match="learn_interactions=True"):
        model.interactions()
    with pytest.raises(InputError, match="neither with contexts"):
        samsvae.SAMSVAE(read(context_key="batch"), **SMALL, learn_responders=True)


def test_loaders_of_one_encoding_take_their_own_cells(model: samsvae.SAMSVAE) -> None:
    screen = model._screen
    loader = Loader(screen.train, encoding=model.encoding)
    assert loader.cells_per_column[5] == loader.cells_per_column[7] == 0
    assert loader.cells_per_column[3] == loader.cells_per_column[1]


def test_counts_in_a_file_give_the_numbers_of_memory(
    model: samsvae.SAMSVAE, tmp_path: Path
) -> None:
    make_adata().write_h5ad(tmp_path / "screen.h5ad")
    keys = {"split_key": "split", "context_key": "batch"}
    stored = samsvae.Screen.open(tmp_path / "screen.h5ad", in_memory=False, **keys)
    tables = [
        model.iwelbo(screen.test, n_particles=3, progress=False)["iwelbo"].to_numpy()
        for screen in (stored, read(context_key="batch"))
    ]
    np.testing.assert_allclose(*tables, rtol=1e-6)
    again = samsvae.SAMSVAE(stored, **SMALL, learn_interactions=True)
    assert again.train(max_steps=4, progress=False).is_trained


class PowerCutError(Exception):
    """Ends training in the middle of it."""


def test_a_resumed_run_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(**more: Any) -> samsvae.SAMSVAE:
        settings = {**SMALL, "mask_prob": None, "learn_interactions": True}
        steps = {"max_steps": 24, "validate_every": 6, "checkpoint_every": 5, "progress": False}
        return samsvae.SAMSVAE(read(context_key="batch"), **settings).train(**steps, **more)

    steps: list[int] = []
    taken = PlainStep.__call__

    def failing(step: PlainStep, *given: Any) -> Any:
        steps.append(0)
        if len(steps) == 17:
            raise PowerCutError
        return taken(step, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PlainStep, "__call__", failing)
        with pytest.raises(PowerCutError):
            fitted(checkpoint=tmp_path / "run")
    resumed = fitted(checkpoint=tmp_path / "run", resume=True)
    state = fitted().module.state_dict()
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
