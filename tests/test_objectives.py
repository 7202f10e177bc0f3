"""Options of the training objective: weights, warm-up, KL terms in closed form, importance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from helpers.statistics import errors
from samsvae import CPAVAE, SAMSVAE, ConditionalVAE, InputError, Screen, SVAEPlus, TrainSettings
from samsvae import objective as objectives
from samsvae.data.loader import Loader
from samsvae.estimators.base import Estimator
from samsvae.model.mask import MASKS, PointBetaBernoulliMask
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import VARIABLES
from samsvae.train import validator as validation
from samsvae.train.step import PlainStep, draw_noise
from samsvae.train.validator import valid_elbo
from samsvae.types import Batch, Dosage, LogWeights

TINY: dict[str, Any] = {"n_latent": 3, "n_hidden": 6}
SMALL_EMBEDDING: dict[str, Any] = {
    "embedding_given_mask": True,
    "n_hidden_embedding": 5,
    "n_layers_embedding": 1,
}
QUICK: dict[str, Any] = {
    "max_steps": 8,
    "batch_size": 64,
    "n_particles": 3,
    "learning_rate": 0.01,
    "validate_every": 4,
    "progress": False,
}
MEMBERS: list[tuple[type[Estimator], dict[str, Any]]] = [
    *((SAMSVAE, {"mask": mask.name, **SMALL_EMBEDDING}) for mask in MASKS),
    (SAMSVAE, {"basal_given_shift": False, **SMALL_EMBEDDING}),
    (SAMSVAE, {"embedding_given_mask": False}),
    (SAMSVAE, {"embedding_given_mask": False, "basal_given_shift": False}),
    (CPAVAE, {}),
    (CPAVAE, {"basal_given_shift": False}),
    (SVAEPlus, {}),
    (ConditionalVAE, {}),
]


def fitted(screen: Screen, kind: type[Estimator] = SAMSVAE, **settings: Any) -> Estimator:
    own = {"mask_prob": 0.1, **SMALL_EMBEDDING} if kind is SAMSVAE else {}
    settings = {"alignment": "none", **settings}
    return kind(screen, **TINY, **own).train(**(QUICK | settings))


def shaken(model: Estimator) -> PerturbationVAE:
    """Return its module, the parameters away from where they start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.module


def numbers(model: Estimator) -> pd.DataFrame:
    return model.history.drop(columns="cells_per_second")


def same(first: Estimator, second: Estimator) -> bool:
    ours, theirs = (dict(model.module.named_parameters()) for model in (first, second))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_weighted_multiplies_the_terms_that_have_a_factor() -> None:
    one = torch.ones(2, 3)
    weights = LogWeights(-7 * one, -2 * one, {"mask": -3 * one, "embedding": -5 * one})
    paid = objectives.weighted(weights, {"basal": 0.5, "embedding": 0.0, "mask_prob": 9.0})
    assert torch.equal(paid.likelihood, -7 * one)
    assert torch.equal(paid.basal, -one)
    assert torch.equal(paid.shifts["mask"], -3 * one)
    assert torch.equal(paid.shifts["embedding"], 0 * one)
    assert set(paid.shifts) == {"mask", "embedding"}
    full = objectives.weighted(weights, {})
    assert torch.equal(full.basal, weights.basal)


def test_warmup_rises_from_nothing_to_the_weights() -> None:
    settings = TrainSettings(warmup_steps=4, basal_weight=0.5, mask_weight=2.0)
    rises = [0.25, 0.5, 0.75, 1.0]
    for step, warmth in enumerate(rises):
        wanted = {"basal": 0.5, "mask": 2.0, "mask_prob": 1.0, "embedding": 1.0}
        wanted = {name: warmth * weight for name, weight in wanted.items()}
        assert settings.factors(step) == wanted
    for step in (4, 5, 10_000):
        assert settings.factors(step) == {"basal": 0.5, "mask": 2.0, "mask_prob": 1, "embedding": 1}
    assert TrainSettings().factors(0) == {}
    assert TrainSettings(embedding_weight=0.0).factors(7)["embedding"] == 0.0
    assert set(TrainSettings(warmup_steps=2).factors(0)) == set(VARIABLES)


def test_a_run_pays_by_the_factors_of_each_step(screen: Screen) -> None:
    settings: dict[str, Any] = {"warmup_steps": 5, "basal_weight": 0.5, "embedding_weight": 3.0}
    history = fitted(screen, **settings, validate_every=1).history
    chosen = TrainSettings(**settings)
    for step, row in history.iterrows():
        factors = chosen.factors(int(str(step)))
        paid = sum(row[name] * factors.get(name, 1.0) for name in ("basal", "mask", "embedding"))
        assert row["objective"] == pytest.approx(row["likelihood"] + paid, rel=1e-5)
        terms = row[["likelihood", "basal", "mask", "embedding"]].sum()
        assert row["elbo"] == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "weight", "has"),
    [
        (SAMSVAE, "mask_prob", "'basal', 'mask', 'embedding'"),
        (CPAVAE, "mask", "'basal', 'embedding'"),
        (CPAVAE, "mask_prob", "'basal', 'embedding'"),
        (SVAEPlus, "embedding", "'basal', 'mask_prob'"),
        (SVAEPlus, "mask", "'basal', 'mask_prob'"),
        (ConditionalVAE, "embedding", "'basal'"),
    ],
)
def test_a_weight_of_what_a_model_lacks_is_refused(
    screen: Screen, kind: type[Estimator], weight: str, has: str
) -> None:
    message = f"^{weight}_weight is 0.5, but this model has no such latent variable: it has {has}$"
    with pytest.raises(InputError, match=message):
        fitted(screen, kind, **{f"{weight}_weight": 0.5})
    fitted(screen, kind, **{f"{weight}_weight": 1.0}, max_steps=1)


@pytest.mark.parametrize("mask", [m.name for m in MASKS])
def test_every_variable_a_model_has_can_be_weighted(screen: Screen, mask: str) -> None:
    model = SAMSVAE(screen, **TINY, mask=mask)
    settings: dict[str, Any] = {f"{n}_weight": 0.5 for n in model.module.variables}
    assert len(settings) == 3
    model.train(**QUICK, **settings)
    terms = [name for name in VARIABLES if name in model.module.variables]
    paid = model.history["likelihood"] + 0.5 * model.history[terms].sum(axis=1)
    np.testing.assert_allclose(model.history["objective"], paid, rtol=1e-5)


def test_basal_weight_0_leaves_the_basal_state_free(screen: Screen) -> None:
    """Without its KL term the posterior's width has the gradient of the likelihood alone."""
    model = shaken(SAMSVAE(screen, **TINY, **SMALL_EMBEDDING))
    batch = Loader(screen.train).batch(slice(0, 40))
    noise = draw_noise(model, batch, 3, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    PlainStep(model, optimizer)(batch, *noise, {"basal": 0.0})
    taken: dict[str, Any] = {name: p.grad for name, p in model.encoder.named_parameters()}
    shifts = model.mechanism.draw(batch.dosage.columns, noise[0])
    value = model(batch, shifts, noise[1]).likelihood.mean()  # the KL is absent
    model.zero_grad()
    (-value).backward()
    for name, parameter in model.encoder.named_parameters():
        torch.testing.assert_close(taken[name], parameter.grad)
    PlainStep(model, optimizer)(batch, *noise)
    bias: Any = model.encoder.network.heads.bias.grad
    assert not torch.allclose(taken["network.heads.bias"], bias)


def paid(model: PerturbationVAE, batch: Batch, n: int, *, closed_form: bool) -> dict[str, Tensor]:
    """Return the mean over cells of each latent variable's term, `particle`."""
    shift_noise, basal_noise = draw_noise(model, batch, n, torch.Generator().manual_seed(0))
    present = batch.dosage.columns
    with torch.no_grad():
        shifts = model.mechanism.draw(present, shift_noise, closed_form=closed_form)
        weights = model(batch, shifts, basal_noise, closed_form=closed_form)
    terms = {"basal": weights.basal}
    terms |= {name: objectives.per_cell(value, batch) for name, value in weights.shifts.items()}
    return {name: value.mean(1).double() for name, value in terms.items()}


@pytest.mark.parametrize(("kind", "own"), MEMBERS)
def test_closed_forms_have_the_mean_of_the_draws_and_less_spread(
    screen: Screen, kind: type[Estimator], own: dict[str, Any]
) -> None:
    estimator = kind(screen, **TINY, **own)
    model = shaken(estimator)
    batch = Loader(screen.train, encoding=estimator.encoding).batch(slice(0, 30))
    n = 20_000
    drawn, closed = (paid(model, batch, n, closed_form=c) for c in (False, True))
    assert set(drawn) == set(closed) == set(model.variables)
    for name in drawn:
        if name == "mask_prob" and isinstance(model.mechanism.mask, PointBetaBernoulliMask):
            assert torch.equal(drawn[name], closed[name])  # a density at a point, not a KL
            continue
        difference = drawn[name] - closed[name]  # of the same draws
        se = difference.std() / math.sqrt(n)
        assert abs(difference.mean()) < errors(3 * len(MEMBERS)) * se, name
        assert closed[name].std() < 0.8 * drawn[name].std(), name


def test_a_closed_form_is_the_kl(screen: Screen) -> None:
    """KL(Bernoulli(q) || Bernoulli(p)) and KL(N(0.5, 1) || N(0, 2^2)), by hand."""
    own: dict[str, Any] = {"mask_prob": 0.1, "embedding_given_mask": False, "embedding_scale": 2.0}
    model: Any = SAMSVAE(screen, **TINY, **own).module
    model.mechanism.embedding.loc.data.fill_(0.5)
    batch = Loader(screen.train).batch(slice(0, 20))
    terms = paid(model, batch, 1, closed_form=True)  # logits and log sd start at 0
    shares = (batch.dosage.dose != 0) / batch.cells_per_column[batch.dosage.position]
    share = shares.sum(1).mean().item()  # perturbations that a cell pays for
    mask = 3 * (0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.5 / 0.9))
    assert terms["mask"].item() == pytest.approx(-share * mask, rel=1e-5)
    embedding = 3 * (math.log(2) + (1 + 0.5**2) / (2 * 2**2) - 0.5)
    assert terms["embedding"].item() == pytest.approx(-share * embedding, rel=1e-3)


def test_validation_draws_the_globals_and_does_not_score_them(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted(screen, closed_form_kl=True)
    other = fitted(screen, closed_form_kl=False)
    assert not same(model, other)
    assert same(model, fitted(screen))  # the default
    module, valid = model.module, Loader(screen.valid)
    monkeypatch.setattr(validation, "PRECISE", math.inf)  # the fewest draws: six of one batch
    batch, rng = valid.batch(slice(None)), torch.Generator().manual_seed(0)
    shift_noise, basal_noise = draw_noise(module, batch, 6, rng)
    with torch.no_grad():
        perturbations = batch.dosage.columns
        shifts = module.mechanism.draw(perturbations, shift_noise)
        weights = module(batch, shifts, basal_noise)
        elbo = (weights.likelihood + weights.basal).mean()
    told = valid_elbo(module, valid, TrainSettings())
    assert told.elbo == pytest.approx(float(elbo), rel=1e-6)
    assert told == valid_elbo(module, valid, TrainSettings(closed_form_kl=True, basal_weight=0))
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        noise = module.mechanism.noise(valid.present, 1, rng)
        shifts = module.mechanism.draw(valid.present, noise)
        weights = module(batch, shifts, module.encoder.noise(45, 1, rng))
    wanted = (weights.likelihood + weights.basal)[0].numpy()
    iwelbo = model.iwelbo(screen.valid, n_particles=1, seed=5, progress=False)
    np.testing.assert_allclose(iwelbo["iwelbo"], wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", [SAMSVAE, CPAVAE, SVAEPlus, ConditionalVAE])
def test_with_one_particle_the_importance_weighted_step_is_the_elbos(
    screen: Screen, kind: type[Estimator]
) -> None:
    options: dict[str, Any] = {"n_particles": 1, "closed_form_kl": False}
    first, second = (fitted(screen, kind, objective=o, **options) for o in ("elbo", "iwelbo"))
    pd.testing.assert_frame_equal(numbers(first), numbers(second), check_exact=True)
    assert same(first, second)


@pytest.mark.parametrize("kind", [SAMSVAE, CPAVAE, SVAEPlus, ConditionalVAE])
def test_with_several_particles_it_is_above_the_elbo(screen: Screen, kind: type[Estimator]) -> None:
    first, second = (fitted(screen, kind, objective=o, n_particles=4) for o in ("elbo", "iwelbo"))
    assert (second.history["objective"] > second.history["elbo"]).all()
    np.testing.assert_allclose(first.history["objective"], first.history["elbo"], rtol=1e-5)
    assert not same(first, second)


def test_the_importance_weighted_surrogate_by_hand() -> None:
    likelihood = torch.tensor([[-3.0, -4.0], [-1.0, -4.0]])
    basal = torch.tensor([[-1.0, 0.0], [0.5, 0.0]])
    mask = torch.tensor([[-6.0], [-2.0]])
    dosage = Dosage(
        torch.tensor([0]), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[2.0], [0]])
    )
    batch = Batch(likelihood, likelihood[0], likelihood, dosage, torch.tensor([4.0]))
    value = objectives.iwelbo_surrogate(LogWeights(likelihood, basal, {"mask": mask}), batch)
    first = math.log((math.exp(-3 - 1 - 6 / 4) + math.exp(-1 + 0.5 - 2 / 4)) / 2)
    torch.testing.assert_close(value, torch.tensor([first, -4.0]))


def test_importance_weights_need_draws() -> None:
    with pytest.raises(InputError, match=r"^closed_form_kl is for the ELBO: importance weights"):
        TrainSettings(objective="iwelbo", closed_form_kl=True)
    with pytest.raises(InputError, match=r"^no objective 'iwelb': the nearest is 'iwelbo', 'elbo'"):
        TrainSettings(objective="iwelb")


OTHERS: dict[str, Any] = {
    "objective": "iwelbo",
    "closed_form_kl": True,
    "basal_weight": 0.5,
    "mask_weight": 0.5,
    "embedding_weight": 2.0,
    "warmup_steps": 3,
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_resumed_run_shares_the_options(screen: Screen, tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoint"
    fitted(screen, max_steps=4, checkpoint=path)
    with pytest.raises(InputError, match=f"was trained with {name} .*, not {OTHERS[name]}: resume"):
        fitted(screen, checkpoint=path, resume=True, **{name: OTHERS[name]})


def test_every_option_of_the_objective_is_decisive() -> None:
    assert {*OTHERS, "mask_prob_weight"} <= TrainSettings().decisive.keys()


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_steps": 6, "basal_weight": 0.5, "closed_form_kl": True},
        {"warmup_steps": 6, "objective": "iwelbo", "embedding_weight": 0.0},
    ],
)
def test_a_resumed_run_goes_on_in_its_warmup(
    screen: Screen, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "checkpoint"
    whole = fitted(screen, **options)
    fitted(screen, max_steps=4, checkpoint=path, **options)
    resumed = fitted(screen, checkpoint=path, resume=True, **options)
    pd.testing.assert_frame_equal(numbers(resumed), numbers(whole), check_exact=True)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (SAMSVAE, {"mask_prob": 0.1}, {"mask_prob": 0.5}),
        (SAMSVAE, {"mask": "bernoulli"}, {"mask": "beta_bernoulli_point"}),
        (CPAVAE, {"embedding_scale": 1.0}, {"embedding_scale": 0.1}),
        (SVAEPlus, {"beta_b": 2.0}, {"beta_b": 9.0}),
    ],
)
def test_a_checkpoint_of_other_hyperparameters_is_refused(
    screen: Screen,
    tmp_path: Path,
    kind: type[Estimator],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    """The parameters have the same names and shapes: the objective differs."""
    path = tmp_path / "checkpoint"
    kind(screen, **TINY, **before).train(**QUICK | {"max_steps": 4}, checkpoint=path)
    with pytest.raises(InputError, match="checkpoint"):
        kind(screen, **TINY, **after).train(**QUICK, checkpoint=path, resume=True)
