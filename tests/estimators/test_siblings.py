"""Identities between the members of the family, and what each makes of combinations and doses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor
from torch.distributions import Beta, NegativeBinomial, Normal
from torch.nn import functional as F

from helpers.screens import make_adata, read
from samsvae import CPAVAE, SAMSVAE, ConditionalVAE, InputError, Screen, SVAEPlus, objective
from samsvae.data.loader import Loader
from samsvae.estimators import ESTIMATORS
from samsvae.estimators.base import Estimator
from samsvae.model.mask import MASKS
from samsvae.train.step import draw_noise
from samsvae.types import Batch, LogWeights

TINY: dict[str, Any] = {"n_latent": 3, "n_hidden": 6}
TRAINING: dict[str, Any] = {
    "max_steps": 60,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 0.02,
    "validate_every": 20,
    "progress": False,
}
ASKED: dict[str, Any] = {"n_particles": 80, "n_draws": 6, "progress": False}


def shaken(model: Estimator, seed: int = 0) -> Estimator:
    """Return a model in double precision, its parameters away from where they start."""
    torch.manual_seed(seed)
    model.module.double()
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def double(batch: Batch) -> Batch:
    dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
    counts, size, covariates, _, n_t = batch
    return Batch(counts.double(), size.double(), covariates.double(), dosage, n_t.double())


def relabelled(*, seen: str, new: str, split: str = "test") -> AnnData:
    """Return cells of which those of one condition and split have another label."""
    adata = make_adata()
    changed = (adata.obs["perturbation"] == seen) & (adata.obs["split"] == split)
    adata.obs.loc[changed, "perturbation"] = new
    return adata


@pytest.mark.parametrize("basal_given_shift", [True, False])
def test_sams_vae_with_a_mask_of_ones_is_cpa_vae(screen: Screen, basal_given_shift: bool) -> None:
    settings: dict[str, Any] = {**TINY, "basal_given_shift": basal_given_shift}
    sams: Any = shaken(SAMSVAE(screen, **settings, mask_prob=0.1)).module
    cpa: Any = CPAVAE(screen, **settings).module.double()
    state = sams.state_dict()
    for name in ("logits", "evidence"):
        state.pop(f"mechanism.mask.{name}")
    cpa.load_state_dict(state)
    sams.mechanism.mask.logits.data.fill_(60.0)
    batch = double(Loader(screen.train).batch(slice(0, 50)))
    shift_noise, basal_noise = draw_noise(sams, batch, 4, torch.Generator().manual_seed(0))
    present = batch.dosage.columns
    ours, theirs = (
        model(batch, model.mechanism.draw(present, shift_noise), basal_noise)
        for model in (sams, cpa)
    )
    torch.testing.assert_close(ours.likelihood, theirs.likelihood, rtol=0, atol=0)
    torch.testing.assert_close(ours.basal, theirs.basal, rtol=0, atol=0)
    torch.testing.assert_close(ours.shifts["embedding"], theirs.shifts["embedding"])


def textbook_svae_plus(
    model: SVAEPlus, batch: Batch, received: Tensor, uniform: Tensor, noise: Tensor
) -> Tensor:
    """Return log p(x, z, p) - log q(z) of all cells, `particle cell`, p shared by its n_t cells."""
    module: Any = model.module
    logits, mu = module.mechanism.mask.logits, module.mechanism.embedding.loc
    mean = received @ ((logits + uniform.logit() > 0).double() * mu)  # 0 for control
    first, heads = module.encoder.network.hidden.first, module.encoder.network.heads
    x = (batch.counts.log1p() - module.encoder.center) / module.encoder.scale
    hidden = F.leaky_relu(F.linear(x, first.weight, first.bias))
    loc, raw_variance = heads(hidden).chunk(2, -1)
    q = Normal(loc, (raw_variance.exp() + 1e-4).sqrt())
    z = q.loc + q.scale * noise
    hidden = F.leaky_relu(F.linear(z, module.decoder.first.weight, module.decoder.first.bias))
    rho = module.likelihood.linear(hidden).softmax(-1)
    rate = batch.library_size[:, None] * rho + 1e-4
    log_theta = module.likelihood.log_inverse_dispersion
    x_given_z = NegativeBinomial(log_theta.exp(), logits=rate.log() - log_theta)
    density = Beta(model.beta_a, model.beta_b).log_prob(logits.sigmoid()).sum(-1)
    paid = received @ (density / received.sum(0))
    ratio = Normal(mean, 1.0).log_prob(z) - q.log_prob(z)
    return x_given_z.log_prob(batch.counts).sum(-1) + ratio.sum(-1) + paid


def test_svae_plus_is_its_textbook_form(screen: Screen) -> None:
    model = shaken(SVAEPlus(screen, **TINY, beta_a=1.5, beta_b=4.0))
    assert isinstance(model, SVAEPlus)
    loader = Loader(screen.train, encoding=model.encoding)
    batch = double(loader.batch(slice(None)))
    conditions = [screen.condition_names[i] for i in screen.train.condition]
    table = pd.get_dummies(pd.Series(conditions))[["A", "A+B", "B", "C"]]
    received = torch.from_numpy(table.to_numpy(np.float64))
    assert batch.dosage.columns.tolist() == [0, 1, 2, 3]
    shift_noise, noise = draw_noise(model.module, batch, 5, torch.Generator().manual_seed(0))
    shifts = model.module.mechanism.draw(batch.dosage.columns, shift_noise)
    values = model.module(batch, shifts, noise)
    expected = textbook_svae_plus(model, batch, received, shift_noise.mask, noise)
    torch.testing.assert_close(objective.log_weights(values, batch), expected)


EVERY: list[tuple[type[Estimator], dict[str, Any]]] = [
    *((SAMSVAE, {"mask": mask.name, "n_hidden_embedding": 4}) for mask in MASKS),
    *((SAMSVAE, {"embedding_given_mask": e, "basal_given_shift": not e}) for e in (True, False)),
    (SAMSVAE, {"saturating_dose": True, "embedding_given_mask": False}),
    (CPAVAE, {}),
    (CPAVAE, {"basal_given_shift": False}),
    (SVAEPlus, {}),
    (ConditionalVAE, {}),
]


def test_every_member_is_among_them() -> None:
    assert {kind for kind, _ in EVERY} == set(ESTIMATORS)


@pytest.mark.parametrize(("kind", "own"), EVERY)
def test_one_epoch_of_minibatches_sums_to_the_full_elbo(
    adata: AnnData, kind: type[Estimator], own: dict[str, Any]
) -> None:
    screen = read(adata, batch_key="batch")
    model = shaken(kind(screen, **TINY, **own))
    module, loader = model.module, Loader(screen.train, encoding=model.encoding)
    everyone = torch.arange(len(model.encoding.columns))
    rng = torch.Generator().manual_seed(0)
    shift_noise = module.mechanism.noise(everyone, 4, rng)
    basal_noise = module.encoder.noise(len(screen.train), 4, rng)

    def values(batch: Batch, start: int) -> LogWeights:
        present = batch.dosage.columns
        own_noise = type(shift_noise)(*(noise[:, present] for noise in shift_noise))
        rows = slice(start, start + len(batch.counts))
        return module(batch, module.mechanism.draw(present, own_noise), basal_noise[:, rows])

    whole = values(double(loader.batch(slice(None))), 0)
    full = whole.likelihood.sum(1).mean() + whole.basal.sum(1).mean()
    for name in module.mechanism.variables:
        full = full + whole.shifts[name].sum(1).mean()
    for batch_size in (1, 7, 64, 1000):
        total, start = torch.zeros((), dtype=torch.float64), 0
        for batch in map(double, loader.in_order(batch_size)):
            total = total + objective.elbo(values(batch, start), batch).sum()
            start += len(batch.counts)
        torch.testing.assert_close(total, full, rtol=1e-10, atol=0)


@pytest.fixture(scope="module")
def plus() -> SVAEPlus:
    """Return a trained SVAE+. Shared: do not train or change it."""
    return SVAEPlus(read(make_adata()), **TINY).train(**TRAINING)


@pytest.fixture(scope="module")
def lenient() -> SVAEPlus:
    """Return one that answers for unseen combinations as for control."""
    return SVAEPlus(read(make_adata()), **TINY, unseen_as_control=True).train(**TRAINING)


def test_svae_plus_takes_a_combination_as_a_perturbation_of_its_own(
    plus: SVAEPlus, screen: Screen
) -> None:
    assert list(plus.mask_probabilities().index) == ["A", "A+B", "B", "C"]
    assert list(plus.embeddings().index) == ["A", "A+B", "B", "C"]
    assert plus.mask_probabilities().notna().all(axis=None)
    loader = Loader(screen.train, encoding=plus.encoding)
    cells = [len(screen.train.of(name)) for name in ("A", "A+B", "B", "C")]
    assert loader.cells_per_column.tolist() == cells == [30] * 4
    assert loader.batch(slice(None)).cells_per_column.tolist() == cells
    assert Loader(screen.train).cells_per_column.tolist() == [60, 60, 30]
    shift = plus.embeddings()
    assert np.abs(shift.loc["A"] + shift.loc["B"] - shift.loc["A+B"]).max() > 0.01


UNSEEN = "^conditions never seen in training: 'A\\+C'; .*unseen_as_control=True"


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, cells: m.effects(["A", "C+A"], **ASKED),
        lambda m, cells: m.simulate("A+C"),
        lambda m, cells: m.iwelbo(cells, n_particles=2, progress=False),
        lambda m, cells: m.latent(cells),
        lambda m, cells: m.simulate("A", cells=cells),
    ],
)
def test_svae_plus_refuses_combinations_it_has_not_seen(
    plus: SVAEPlus, ask: Callable[[SVAEPlus, Screen], object]
) -> None:
    cells = read(relabelled(seen="C", new="A+C")).test
    with pytest.raises(InputError, match=UNSEEN) as caught:
        ask(plus, cells)
    assert "\n" not in str(caught.value)


def test_svae_plus_refuses_to_be_validated_on_combinations_it_has_not_seen() -> None:
    held_out = read(relabelled(seen="C", new="A+C", split="valid"))
    with pytest.raises(InputError, match=UNSEEN):
        SVAEPlus(held_out, **TINY).train(**TRAINING)
    lenient = SVAEPlus(held_out, **TINY, unseen_as_control=True).train(**TRAINING)
    assert np.isfinite(lenient.history["valid_elbo"]).all()


def test_svae_plus_can_predict_unseen_combinations_as_control(lenient: SVAEPlus) -> None:
    effects = lenient.effects(["A+C", "A", "A+B+C"], **ASKED)
    assert np.all(effects[["A+C", "A+B+C"]].X == 0)
    assert np.any(effects["A"].X != 0)
    assert effects.obs["n_train_cells"].tolist() == [0, 30, 0]
    unseen, control = (read(relabelled(seen="C", new=new)).test for new in ("A+C", "control"))
    first, second = (
        lenient.iwelbo(cells, n_particles=20, progress=False) for cells in (unseen, control)
    )
    pd.testing.assert_frame_equal(first, second)
    ours, theirs = (lenient.latent(cells)["state"] for cells in (unseen, control))
    np.testing.assert_array_equal(ours, theirs)


def test_svae_plus_refuses_doses(plus: SVAEPlus) -> None:
    message = r"^got a dose of \d.*: this model takes each combination as a perturbation of its own"
    adata = dosed()
    with pytest.raises(InputError, match=message):
        SVAEPlus(read(adata, dosage_key="dose"), **TINY)
    for ask in (
        lambda: plus.effects("A@0.5", **ASKED),
        lambda: plus.dose_response("A", [0, 0.5, 1], **ASKED),
        lambda: plus.iwelbo(read(adata, dosage_key="dose").test, progress=False),
    ):
        with pytest.raises(InputError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
    curve = plus.dose_response("A", [0, 1], **ASKED)
    assert curve.obs_names.tolist() == ["control", "A"]
    assert np.all(curve["control"].X == 0)


def dosed(*, n_cells: int = 600) -> AnnData:
    """Return cells of which the effect of A on gene g0 grows with its dose, 0.5, 1 or 2."""
    adata = make_adata(n_cells=n_cells)
    rng = np.random.default_rng(0)
    dose = np.array([0.5, 1.0, 2.0])[rng.integers(0, 3, n_cells)]
    label = adata.obs["perturbation"].astype(str).to_numpy()
    with_a = np.char.find(label.astype(str), "A") >= 0
    adata.X[with_a, 0] = rng.poisson(8.0 * 3.0 ** dose[with_a])
    texts = {"A": "{0}", "B": "4", "B+A": "4+{0}"}
    adata.obs["dose"] = [
        texts.get(name, "1").format(amount) for name, amount in zip(label, dose, strict=True)
    ]
    return adata


@pytest.fixture(scope="module", params=[SAMSVAE, CPAVAE, ConditionalVAE])
def graded(request: pytest.FixtureRequest) -> Estimator:
    """Return a model trained on doses. Shared: do not train or change it."""
    own: dict[str, Any] = {"n_hidden_embedding": 6, "mask_prob": 0.3}
    kind: type[Estimator] = request.param
    screen = read(dosed(), dosage_key="dose")
    return kind(screen, **TINY, **(own if kind is SAMSVAE else {})).train(
        **TRAINING | {"max_steps": 300, "validate_every": 100}
    )


def test_a_dose_response_is_the_effects_dose_by_dose(graded: Estimator) -> None:
    curve = graded.dose_response("A", [2, 0.5, 0, 1, 0.5], seed=3, **ASKED)
    assert curve.obs_names.tolist() == ["control", "A@0.5", "A", "A@2"]
    assert curve.obs["dose"].tolist() == [0, 0.5, 1, 2]
    assert np.all(curve["control"].X == 0)
    alone = graded.effects(["A@0.5", "A@2"], seed=3, **ASKED)
    np.testing.assert_array_equal(curve[["A@0.5", "A@2"]].X, alone.X)
    np.testing.assert_array_equal(curve["A@2"].layers["upper"], alone["A@2"].layers["upper"])


def test_effects_grow_with_the_dose(graded: Estimator) -> None:
    options: dict[str, Any] = {"scale": "normalized", "n_particles": 500, "n_draws": 0}
    curve = graded.dose_response("A", [0, 0.5, 1, 2], progress=False, **options)
    assert np.all(np.diff(curve[:, "g0"].X.ravel()) > 0)


def test_a_dose_response_has_a_background(graded: Estimator) -> None:
    curve = graded.dose_response("A", [0.5, 0], background="C+B@2", **ASKED)
    assert curve.obs_names.tolist() == ["B@2+C", "A@0.5+B@2+C"]
    assert curve.obs["dose"].tolist() == [0, 0.5]
    wanted = graded.effects(["B@2+C", "C+A@0.5+B@2"], **ASKED)
    np.testing.assert_array_equal(curve.X, wanted.X)
    for background in ("A", "B+A@2"):
        with pytest.raises(
            InputError, match=f"background '{background}' holds 'A' itself".replace("+", r"\+")
        ):
            graded.dose_response("A", [1], background=background)


def test_half_doses_start_at_the_median_dose_of_training_cells() -> None:
    adata = dosed()
    with_a = adata.obs["perturbation"].isin(["A", "B+A"])
    train = adata.obs["split"] == "train"
    for name, dose in (("A", "100"), ("B+A", "4+100")):
        adata.obs.loc[~train & (adata.obs["perturbation"] == name), "dose"] = dose
    cells = adata.obs[train & with_a]
    doses = cells["dose"].str.rpartition("+")[2].astype(float)
    screen = read(adata, dosage_key="dose")
    curve = SAMSVAE(screen, **TINY, saturating_dose=True).dose_parameters()
    np.testing.assert_allclose(curve["half_dose"], [doses.median(), 4, 1], rtol=1e-6)
    np.testing.assert_allclose(curve["slope"], 1)


@pytest.mark.slow
def test_a_saturating_dose_is_found() -> None:
    """A's displacement is half as large at dose 1 as at saturation; it starts at a median of 8."""
    rng = np.random.default_rng(0)
    adata = make_adata(n_cells=1200, labels=("control", "A", "A", "A"))
    received = (adata.obs["perturbation"] == "A").to_numpy()
    dose = np.where(received, rng.choice([0.1, 0.3, 1.0, 3.0, 8.0, 8.0, 8.0, 30.0], 1200), 1.0)
    adata.obs["dose"] = dose
    change = np.where(received, 2.5 * dose / (1.0 + dose), 0.0)
    adata.X[:, :4] = rng.poisson(6.0 * np.exp(change)[:, None], (1200, 4))
    screen = read(adata, dosage_key="dose")
    model = SAMSVAE(screen, **TINY, saturating_dose=True, mask_prob=0.3, embedding_given_mask=False)
    assert model.dose_parameters().loc["A", "half_dose"] == pytest.approx(8.0)
    model.train(**TRAINING | {"max_steps": 600, "validate_every": 200, "batch_size": 256})
    assert 0.5 < model.dose_parameters().loc["A", "half_dose"] < 2
