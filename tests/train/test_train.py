"""Training: what it promises about seeds, the history, the best model, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.data.loader import Loader
from samsvae.model.mask import BernoulliMask
from samsvae.model.vae import PerturbationVAE
from samsvae.ops import native
from samsvae.storage import tensors as files
from samsvae.train import step as steps
from samsvae.train import validator
from samsvae.train.batches import EpochOrder
from samsvae.train.step import PlainStep, draw_noise, parameter_groups
from samsvae.train.validator import ValidElbo, valid_elbo

QUICK: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 12,
    "batch_size": 64,
    "n_particles": 2,
    "validate_every": 4,
    "progress": False,
}
COLUMNS = {
    "step",
    "objective",
    "elbo",
    "likelihood",
    "basal",
    "mask",
    "embedding",
    "gradient_norm",
    "valid_elbo",
    "valid_elbo_mc_se",
    "is_best",
    "mask_sparsity",
    "cells_per_second",
}


def fitted(screen: samsvae.Screen, **settings: Any) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(**(QUICK | settings))


def parameters(model: samsvae.SAMSVAE) -> dict[str, Tensor]:
    return dict(model.module.named_parameters())


def same(first: samsvae.SAMSVAE, second: samsvae.SAMSVAE) -> bool:
    ours, theirs = parameters(first), parameters(second)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def numbers(model: samsvae.SAMSVAE) -> pd.DataFrame:
    return model.history.drop(columns="cells_per_second")


def without_validation(screen: samsvae.Screen) -> samsvae.Screen:
    return screen.with_split(np.where(screen.split == "valid", "unused", screen.split).tolist())


def before_step(
    monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[PerturbationVAE], Tensor]
) -> None:
    taken = PlainStep.__call__
    numbers = iter(range(1, 1000))

    def changed(step: PlainStep, *args: Any) -> dict[str, Tensor]:
        if next(numbers) == number:
            with torch.no_grad():
                change(step.model)
        return taken(step, *args)

    monkeypatch.setattr(PlainStep, "__call__", changed)


def test_same_seed_same_numbers_whatever_torchs_own(screen: samsvae.Screen) -> None:
    first = fitted(screen, seed=3)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    second = fitted(screen, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(numbers(first), numbers(second), check_exact=True)
    assert same(first, second)


def test_other_seed_other_numbers(screen: samsvae.Screen) -> None:
    first, second = fitted(screen, seed=0), fitted(screen, seed=1)
    for name in ("elbo", "valid_elbo", "gradient_norm"):
        assert (first.history[name] != second.history[name]).all()
    assert not same(first, second)


def test_history(screen: samsvae.Screen) -> None:
    history = fitted(screen, max_steps=14).history
    assert set(history.columns) == COLUMNS
    assert history["step"].tolist() == [4, 8, 12, 14]
    assert np.isfinite(history.to_numpy(float)).all()
    terms = history[["likelihood", "basal", "mask", "embedding"]].sum(axis=1)
    np.testing.assert_allclose(history["elbo"], terms, rtol=1e-5)
    np.testing.assert_allclose(history["objective"], terms, rtol=1e-5)
    assert (history["likelihood"] < 0).all()
    assert (history["gradient_norm"] > 0).all()
    assert (history["cells_per_second"] > 0).all()
    assert history["mask_sparsity"].between(0, 1).all()


def test_history_is_the_mean_over_the_steps_since_the_last_row(screen: samsvae.Screen) -> None:
    every = fitted(screen, validate_every=1).history["elbo"].to_numpy()
    rows = fitted(screen, validate_every=4).history["elbo"].to_numpy()
    np.testing.assert_allclose(rows, every.reshape(-1, 4).mean(1), rtol=1e-5)


def test_mask_sparsity_counts_improbable_dimensions(screen: samsvae.Screen) -> None:
    model = fitted(screen, max_steps=4)
    share = (model.mask_probabilities().to_numpy() <= 0.5).mean()
    assert model.history["mask_sparsity"].iloc[-1] == share


def test_best_model_is_restored(
    screen: samsvae.Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_step(monkeypatch, 7, lambda model: model.likelihood.log_inverse_dispersion.sub_(2))
    settings = QUICK | {"max_steps": 20, "checkpoint": tmp_path / "checkpoint"}
    model, chosen = fitted(screen, **settings), samsvae.TrainSettings(**settings)
    elbos = model.history["valid_elbo"]
    assert elbos.idxmax() == 0
    assert valid_elbo(model.module, Loader(screen.valid), chosen).elbo == elbos.max()
    last = files.unprefixed("model", files.read(tmp_path / "checkpoint")[0])
    model.module.load_state_dict(last)
    assert valid_elbo(model.module, Loader(screen.valid), chosen).elbo == elbos.iloc[-1]


def test_elbo_improves(screen: samsvae.Screen) -> None:
    history = fitted(screen, max_steps=120, validate_every=20, learning_rate=5e-3).history
    assert history["valid_elbo"].iloc[-1] > history["valid_elbo"].iloc[0] + 1
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[0] + 1


@pytest.mark.parametrize(
    ("patience", "n_evaluations"), [(0.1, 7), (6, 7), (16, 12), (None, 25), (0, 25)]
)
def test_patience(
    screen: samsvae.Screen,
    monkeypatch: pytest.MonkeyPatch,
    patience: float | None,
    n_evaluations: int,
) -> None:
    """It is in epochs, of five evaluations at least; what is within the error is no rise."""
    states: list[dict[str, Tensor]] = []
    all_told = [-3.0, -2.0, -2.1, -1.995, *21 * [-2.5]]
    told = iter(all_told)

    def elbo(model: PerturbationVAE, *_: object) -> ValidElbo:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return ValidElbo(next(told), 0.01)

    monkeypatch.setattr(validator, "valid_elbo", elbo)
    model = fitted(screen, max_steps=100, patience=patience)
    assert model.history["valid_elbo"].tolist() == all_told[:n_evaluations]
    kept = model.module.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in states[3].items())


def test_a_history_that_could_not_be_read_again(screen: samsvae.Screen) -> None:
    with pytest.raises(samsvae.InputError, match="evaluates validation cells 60,000 times"):
        fitted(screen, max_steps=60_000, validate_every=1)


@pytest.mark.parametrize(("batch_size", "steps"), [(50, 9), (64, 8), (512, 3)])
def test_max_epochs(screen: samsvae.Screen, batch_size: int, steps: int) -> None:
    model = fitted(screen, max_steps=None, max_epochs=3, batch_size=batch_size)
    assert len(screen.train) == 150
    assert model.history["step"].iloc[-1] == steps


def test_last_model_is_kept_without_validation_cells(
    screen: samsvae.Screen, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    model = fitted(without_validation(screen), checkpoint=path, patience=0.1, validate_every=1)
    assert model.history["valid_elbo"].isna().all()
    assert model.history["step"].iloc[-1] == 12
    last = files.unprefixed("model", files.read(path)[0])
    assert all(torch.equal(last[name], value) for name, value in parameters(model).items())


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_clip_norm_bounds_the_gradient_of_the_update(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch, clip_norm: float | None
) -> None:
    norms = []
    step: Callable[..., Any] = torch.optim.Adam.step

    def spy(optimizer: torch.optim.Adam, *args: Any) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(g.double().square().sum().item() for g in gradients)))
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    history = fitted(screen, validate_every=1, clip_norm=clip_norm).history
    assert (history["gradient_norm"] > 1).all()
    wanted = history["gradient_norm"] if clip_norm is None else np.full(12, clip_norm)
    np.testing.assert_allclose(norms, wanted, rtol=1e-4)


@pytest.fixture
def poisoned_at_step_12(monkeypatch: pytest.MonkeyPatch) -> None:
    before_step(monkeypatch, 12, lambda model: model.likelihood.log_inverse_dispersion.fill_(1e38))


@pytest.mark.parametrize("validate_every", [5, 7, 100])
@pytest.mark.usefixtures("poisoned_at_step_12")
def test_not_finite(screen: samsvae.Screen, tmp_path: Path, validate_every: int) -> None:
    path = tmp_path / "checkpoint"
    model = samsvae.SAMSVAE(screen, **SMALL)
    settings = {"max_steps": 40, "validate_every": validate_every, "learning_rate": 1e-4}
    with pytest.raises(samsvae.NonFiniteError, match=r"^step 12 .*likelihood") as caught:
        model.train(**(QUICK | settings), checkpoint=path, checkpoint_every=5)
    assert str(path) in str(caught.value)
    assert "basal" not in str(caught.value)
    assert "\n" not in str(caught.value)
    tensors, header = files.read(path)
    assert header["step"] == 10
    assert all(value.isfinite().all() for value in tensors.values())
    if validate_every < 12:
        assert all(value.isfinite().all() for value in parameters(model).values())


@pytest.mark.usefixtures("poisoned_at_step_12")
def test_not_finite_before_any_checkpoint(screen: samsvae.Screen, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(samsvae.NonFiniteError, match="step 12") as caught:
        fitted(screen, checkpoint=path, checkpoint_every=500)
    assert not path.exists()
    assert "is kept in" not in str(caught.value)


def test_only_perturbations_of_the_batch_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"T{i}" for i in range(30))
    adata = make_adata(n_cells=310, labels=("control", *names))
    adata.obs["split"] = "train"
    screen = samsvae.Screen.from_anndata(adata, split_key="split")
    drawn: list[list[int]] = []
    noise = BernoulliMask.noise

    def spy(mask: BernoulliMask, perturbations: Tensor, *args: Any) -> Tensor:
        result = noise(mask, perturbations, *args)
        assert result.shape[1] == len(perturbations)
        drawn.append(perturbations.tolist())
        return result

    monkeypatch.setattr(BernoulliMask, "noise", spy)
    fitted(screen, max_steps=3, batch_size=6)
    order = EpochOrder(len(screen.train), seed=0)
    rows = [order.of_step(step, 6) for step in range(3)]
    wanted = [np.unique(screen.dosage[row].indices).tolist() for row in rows]
    assert drawn == [*wanted, []]  # the last one is of the control cells that the model keeps
    assert max(map(len, wanted)) <= 6


def test_a_step_never_reads_the_host(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = samsvae.SAMSVAE(screen, **SMALL).module
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    step = PlainStep(model, optimizer, clip_norm=1.0)
    batch = Loader(screen.train).batch(slice(0, 64))
    noise = draw_noise(model, batch, 2, torch.Generator().manual_seed(0))
    step(batch, *noise)
    before = {name: value.clone() for name, value in model.named_parameters()}

    def refuse(*_: object) -> None:
        raise AssertionError("a step waits for the device")

    with monkeypatch.context() as patched:
        patched.setattr(native, "serves", lambda *_: False)  # as on any device but the host
        methods = ("item", "tolist", "cpu", "numpy", "nonzero")
        dunders = ("bool", "float", "int", "index", "array", "iter", "contains")
        for method in (*methods, *(f"__{name}__" for name in dunders)):
            patched.setattr(Tensor, method, refuse)
        metrics = step(batch, *noise)
    assert all(isinstance(value, Tensor) for value in metrics.values())
    assert all((value != before[name]).any() for name, value in model.named_parameters())


def rates_of(model: samsvae.SAMSVAE | samsvae.ConditionalVAE, rate: float) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.module.named_parameters()}
    groups = parameter_groups(model.module, rate)
    rates = {names[one]: group["lr"] for group in groups for one in group["params"]}
    assert set(rates) == set(names.values())
    return rates


def one_cell_each(n_genes: int, n_perturbations: int) -> samsvae.Screen:
    labels = ["control", *(f"P{i}" for i in range(n_perturbations))]
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    adata = AnnData(np.ones((len(labels), n_genes), np.float32), obs=obs)
    return samsvae.Screen.from_anndata(adata).with_split(["train"] * len(labels))


def test_no_step_moves_a_unit_by_more_than_it_varies_at_the_start() -> None:
    sizes = {"n_hidden": 256, "n_layers": 2, "n_hidden_embedding": 64}
    model = samsvae.SAMSVAE(one_cell_each(500, 7), n_latent=400, embedding_given_mask=True, **sizes)
    wide = {name: rate for name, rate in rates_of(model, 3e-3).items() if rate < 3e-3}
    most = {
        "encoder.network.hidden.first.weights.0": 500,
        "encoder.network.hidden.first.weights.1": 400,  # the shift, which it sees beside counts
        "encoder.network.hidden.rest.0.weight": 256,
        "encoder.network.heads.weight": 256,
        "decoder.first.weights.0": 400,
        "decoder.rest.0.weight": 256,
        "likelihood.linear.weight": 256,
        "mechanism.embedding.network.hidden.first.weights.0": 400,  # the mask
    }
    assert wide == pytest.approx({name: 1 / (math.sqrt(3) * n) for name, n in most.items()})
    layer = model.module.likelihood.linear  # on inputs of size 1, whatever their signs
    varies = layer(torch.randn(1000, 256, generator=torch.Generator().manual_seed(0)).sign()).std()
    assert 256 * wide["likelihood.linear.weight"] == pytest.approx(varies.item(), rel=0.1)
    (all_of_them,) = parameter_groups(model.module, 0.1, scaled=False)
    assert all_of_them == {"params": list(model.module.parameters()), "lr": 0.1}
    assert set(rates_of(model, 5e-4).values()) == {5e-4}  # slow enough for all


def test_what_is_looked_up_is_not_wide() -> None:
    screen = one_cell_each(20, 700)
    models = (
        samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8, n_hidden_embedding=8),
        samsvae.ConditionalVAE(screen, n_latent=4, n_hidden=8),
    )
    for model in models:
        assert set(rates_of(model, 3e-3).values()) == {3e-3}


def test_rates_are_those_of_the_settings(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def spy(model: torch.nn.Module, rate: float, *, scaled: bool) -> list[dict[str, Any]]:
        seen.append(scaled)
        return parameter_groups(model, rate, scaled=scaled)

    monkeypatch.setattr(steps, "parameter_groups", spy)
    fitted(screen)
    fitted(screen, scale_learning_rate=False)
    assert seen == [True, False]


@pytest.mark.long
@pytest.mark.slow
def test_training_bears_thousands_of_genes() -> None:
    rng = np.random.default_rng(0)
    n_cells, n_genes = 1500, 5000
    counts = rng.poisson(0.2 * (0.5 + rng.random(n_genes)), (n_cells, n_genes)).astype(np.float32)
    counts[:, 0] += 1
    received = rng.choice(["control", *(f"p{i}" for i in range(100))], n_cells)
    obs = pd.DataFrame({"perturbation": received}, [f"c{i}" for i in range(n_cells)])
    cells = samsvae.Screen.from_anndata(AnnData(counts, obs=obs)).with_split(["train"] * n_cells)
    model = samsvae.SAMSVAE(  # the paper's network for a screen of 5,000 genes
        cells, n_latent=200, n_hidden=400, n_hidden_embedding=400, n_layers_embedding=4
    )
    model.train(max_steps=60, alignment="none", validate_every=1, progress=False)
    # At 3e-3 for all weights it is beyond 500 here, and not finite soon.
    assert model.history["gradient_norm"].max() < 100
