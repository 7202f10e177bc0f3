"""Bad input to the members of the family and their options: one clear line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.messages import fails
from helpers.screens import make_adata, read
from samsvae import CPAVAE, SAMSVAE, ConditionalVAE, Screen, SVAEPlus, TrainSettings
from samsvae.estimators import ESTIMATORS, estimator
from samsvae.estimators.base import Estimator

TINY: dict[str, Any] = {"n_latent": 2, "n_hidden": 4}
Ask = Callable[[Any], object]


def real() -> Screen:
    adata = make_adata()
    adata.X = np.log1p(adata.X) - 1
    return read(adata, counts=False)


def dosed(label: str, dose: object, others: object = 1) -> Screen:
    """Return a screen of which the cells of one label have a dose, and the rest another."""
    adata = make_adata()
    doses = adata.obs["perturbation"].map(
        lambda name: f"{others}+{others}" if "+" in name else others
    )
    adata.obs["dose"] = doses.astype(object)
    adata.obs.loc[adata.obs["perturbation"] == label, "dose"] = dose
    return read(adata, dosage_key="dose")


@pytest.fixture(scope="module", params=ESTIMATORS, ids=[kind.name for kind in ESTIMATORS])
def trained(request: pytest.FixtureRequest) -> Estimator:
    """Return each member, trained on two batches. Shared: do not train or change it."""
    kind: type[Estimator] = request.param
    screen = read(make_adata(), batch_key="batch")
    return kind(screen, **TINY).train(max_steps=2, n_particles=1, progress=False)


NUMBER = "expected a number above 0"
COUNT = "expected a whole number of at least 1"
WITH_BETA: list[tuple[type[Estimator], dict[str, Any]]] = [
    (SVAEPlus, {}),
    (SAMSVAE, {"mask": "beta_bernoulli"}),
    (SAMSVAE, {"mask": "beta_bernoulli_point"}),
]
HYPERPARAMETERS: list[tuple[type[Estimator], dict[str, Any], str]] = [
    *(
        (kind, {name: 0} | more, f"^{name} is 0: {NUMBER}$")
        for name in ("beta_a", "beta_b")
        for kind, more in WITH_BETA
    ),
    *(
        (SVAEPlus, {"beta_a": value}, f"^beta_a is {value!r}: expected a number")
        for value in (-1.5, float("nan"), float("inf"), "2", True)
    ),
    *(
        (kind, {name: 0}, f"^{name} is 0: {COUNT}$")
        for kind in ESTIMATORS
        for name in ("n_layers", "n_layers_decoder", "n_hidden_decoder", "n_latent", "n_hidden")
    ),
    *(
        (CPAVAE, {"n_layers": value}, f"^n_layers is {value!r}: {COUNT}$")
        for value in (-2, 1.5, True)
    ),
    (SAMSVAE, {"n_layers_embedding": 0}, f"^n_layers_embedding is 0: {COUNT}$"),
    (SAMSVAE, {"n_hidden_embedding": 0}, f"^n_hidden_embedding is 0: {COUNT}$"),
    *(
        (kind, {"embedding_scale": 0}, f"^embedding_scale is 0: {NUMBER}$")
        for kind in (SAMSVAE, CPAVAE)
    ),
    (SAMSVAE, {"mask": "bernouli"}, "^no mask 'bernouli': the nearest is 'bernoulli', 'beta_ber"),
    (SAMSVAE, {"mask": "full"}, "^no mask 'full': there are 'bernoulli', 'beta_bernoulli', "),
    *(
        (kind, {"likelihood": "poison"}, "^no likelihood 'poison': the nearest is 'poisson'$")
        for kind in ESTIMATORS
    ),
    (CPAVAE, {"likelihood": "zinb"}, "^no likelihood 'zinb': there are 'negative_binomial', 'poi"),
    (CPAVAE, {"likelihood": ""}, "^no likelihood '': there are 'negative_binomial', 'poisson', "),
    *(
        (
            kind,
            {"likelihood": "gaussian"},
            "^the gaussian likelihood needs real values, not counts: .*counts=False",
        )
        for kind in ESTIMATORS
    ),
]


@pytest.mark.parametrize(("kind", "own", "message"), HYPERPARAMETERS)
def test_hyperparameters(
    screen: Screen, kind: type[Estimator], own: dict[str, Any], message: str
) -> None:
    fails(lambda: kind(screen, **TINY | own), message)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson"])
def test_likelihoods_of_counts_take_no_real_values(kind: type[Estimator], likelihood: str) -> None:
    message = f"^the {likelihood} likelihood needs counts, not real values: .*counts=True"
    fails(lambda: kind(real(), **TINY, likelihood=likelihood), message)


def test_there_is_no_such_model() -> None:
    fails(lambda: estimator("sam-vae"), "^no model 'sam-vae': the nearest is 'sams-vae'")
    fails(lambda: estimator("SVAE+"), "^no model 'SVAE\\+': ")


SETTINGS: list[tuple[dict[str, Any], str]] = [
    *(
        ({f"{name}_weight": -0.1}, f"^{name}_weight is -0.1: expected a number at least 0$")
        for name in ("basal", "mask", "mask_prob", "embedding")
    ),
    ({"basal_weight": float("nan")}, "^basal_weight is nan: expected a number at least 0$"),
    ({"basal_weight": "1"}, "^basal_weight is '1': expected a number at least 0$"),
    ({"warmup_steps": -1}, "^warmup_steps is -1: expected a whole number of at least 0$"),
    ({"warmup_steps": 0.5}, "^warmup_steps is 0.5: expected a whole number of at least 0$"),
    ({"n_particles": 0}, f"^n_particles is 0: {COUNT}$"),
    ({"objective": "vlb"}, "^no objective 'vlb': "),
    ({"objective": "iwelbo", "closed_form_kl": True}, "^closed_form_kl is for the ELBO: "),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_training_settings(settings: dict[str, Any], message: str) -> None:
    fails(lambda: TrainSettings(**settings), message)


@pytest.mark.parametrize("name", ["basal", "embedding"])
def test_infinite_weights_are_refused(name: str) -> None:
    settings: dict[str, Any] = {f"{name}_weight": float("inf")}
    fails(lambda: TrainSettings(**settings), f"^{name}_weight is inf: expected a ")


DOSES: list[tuple[object, str]] = [
    ("high", "^the dosage 'high' is not a number of at least 0"),
    ("1,5", "^the dosage '1,5' is not a number of at least 0"),
    (-1, "^the dosage '-1' is not a number of at least 0"),
    (np.nan, "^a cell with the label 'A' has no dosage$"),
    ("inf", "^the dosage 'inf' is not a number of at least 0"),
    ("1+2", "^the label 'A' has 1 perturbations but 2 doses: expected one dose each"),
]


@pytest.mark.parametrize(("dose", "message"), DOSES)
def test_dosage_that_is_no_number(dose: object, message: str) -> None:
    fails(lambda: dosed("A", dose), message)


@pytest.mark.parametrize(
    ("label", "dose", "got"),
    [("A", 0.5, "1 of 'A', whose median dose is 0.75"), ("B+A", "1+3", "1 of 'A'.* dose is 2")],
)
def test_svae_plus_takes_one_dose_of_each(label: str, dose: object, got: str) -> None:
    fails(
        lambda: SVAEPlus(dosed(label, dose), **TINY),
        f"^got a dose of {got}: .* one dose; take another model, or leave dosage_key out$",
    )
    SVAEPlus(dosed("C", 2), **TINY)  # all its cells have the same
    SVAEPlus(dosed("A", 0), **TINY)  # those cells are control


BATCH = "^batches never seen in training: 'three'; the model knows 'one', 'two'$"


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.iwelbo,
        lambda m: m.latent,
        lambda m: lambda cells: m.simulate("A", cells=cells),
    ],
)
def test_batches_never_seen_in_training(trained: Estimator, ask: Callable[..., Ask]) -> None:
    adata = make_adata()
    adata.obs["batch"] = adata.obs["batch"].replace({"two": "three"})
    new = read(adata, batch_key="batch")
    fails(lambda: ask(trained)(new), BATCH)
    fails(lambda: ask(trained)(read(adata)), "^the model was trained with batches: give batch_key")


def test_a_batch_of_the_screen_without_training_cells() -> None:
    """Its effects would rest on a one-hot input that training never saw."""
    adata = make_adata()
    adata.obs.loc[adata.obs["split"] == "test", "batch"] = "three"
    screen = read(adata, batch_key="batch")
    with pytest.warns(match="^batches that only validation or test cells have: 'three'"):
        model = CPAVAE(screen, **TINY).train(max_steps=2, n_particles=1, progress=False)
    fails(lambda: model.iwelbo(screen.test, n_particles=2, progress=False), "batch.*'three'")
    fails(lambda: model.effects("A", batch="three", n_particles=10, progress=False), "'three'")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.iwelbo(read(make_adata(), batch_key="batch"), n_particles=0), "n_particles"),
        (lambda m: m.latent(read(make_adata(), batch_key="batch"), n_particles=0), "n_particles"),
        (lambda m: m.effects("A", n_particles=0), "^n_particles is 0: .* at least 2$"),
        (lambda m: m.effects("A", n_draws=-1), "^n_draws is -1: "),
        (
            lambda m: m.effects("A", scale="mean"),
            "^no scale for a negative_binomial likelihood: 'm",
        ),
        (lambda m: m.effects("A", batch="tow"), "^no batch 'tow': the nearest is 'two'$"),
        (lambda m: m.effects("Z"), "^no perturbation 'Z': "),
        (lambda m: m.effects(["A", "A@-1"]), "^the dosage '-1' is not a number of at least 0"),
        (lambda m: m.effects("A@high"), "^the dosage 'high' is not a number of at least 0"),
        (lambda m: m.dose_response("Z", [1]), "^no perturbation 'Z': "),
        (lambda m: m.dose_response("A", []), "^no conditions are given: give one or more$"),
        (lambda m: m.dose_response("A", [-1]), "^the dosage '-1' is not a number of at least 0"),
        (lambda m: m.dose_response("A", [np.nan]), "^the dosage 'nan' is not a number"),
        (lambda m: m.dose_response("A", ["x"]), "^doses holds 'x': expected a list of number"),
        (
            lambda m: m.dose_response("A", [1], background="A+B"),
            "^the background 'A.B' holds 'A' itself$",
        ),
        (lambda m: m.dose_response("A", [1], background="Z"), "^no perturbation 'Z': "),
        (lambda m: m.dose_response("A+B", [1]), r"^no perturbation 'A\+B': "),
    ],
)
def test_questions(trained: Estimator, ask: Ask, message: str) -> None:
    fails(lambda: ask(trained), message)


MECHANISMS: list[tuple[str, str]] = [
    ("mask_probabilities", "masks"),
    ("embeddings", "embeddings"),
    ("dose_parameters", "dose curves"),
]


@pytest.mark.parametrize(("question", "what"), MECHANISMS)
def test_a_conditional_vae_has_no_mechanism(screen: Screen, question: str, what: str) -> None:
    model = ConditionalVAE(screen, **TINY)
    message = f"^a ConditionalVAE has no {what}: it displaces nothing in latent space$"
    fails(getattr(model, question), message)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_untrained_member_says_so(screen: Screen, kind: type[Estimator]) -> None:
    model = kind(screen, **TINY)
    for ask in (
        lambda m: m.effects("A"),
        lambda m: m.simulate("A"),
        lambda m: m.iwelbo(screen.test),
        lambda m: m.latent(screen.test),
        lambda m: m.save("nowhere"),
    ):
        fails(lambda: ask(model), "^the model is not trained: ")  # noqa: B023
