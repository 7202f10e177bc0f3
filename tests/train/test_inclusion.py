"""Masks after training: their posterior given the data, with the networks fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor

import samsvae
from helpers.models import shaken
from helpers.screens import SMALL, make_adata, read
from samsvae.analysis.agreement import matched_truth, recovery
from samsvae.data.loader import Loader
from samsvae.data.simulate import simulated_screen
from samsvae.model.encoder import Encoder
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.ops import native, negative_binomial, spike_slab
from samsvae.ops.spike_slab import HeldOut, Inclusion
from samsvae.train import inclusion, loop
from samsvae.train.inclusion import _between_replicates, shift_scores, update_inclusion
from samsvae.train.processes import SingleProcess
from samsvae.types import Shifts

QUICK: dict[str, Any] = {"max_steps": 20, "batch_size": 64, "progress": False}


def mechanism_of(model: samsvae.SAMSVAE) -> AdditiveShift:
    assert isinstance(model.module.mechanism, AdditiveShift)
    return model.module.mechanism


def test_scores_by_hand(screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell from the definition, combinations and doses included."""
    monkeypatch.setattr(inclusion, "_CELLS_AT_ONCE", len(screen.train))  # one batch: the same noise
    model = shaken(samsvae.SAMSVAE, screen)
    mechanism, train = mechanism_of(model), Loader(screen.train)
    scores = shift_scores(model.module, train)
    batch = train.batch(slice(0, len(screen.train)))
    mask = (model.mask_probabilities() > 0.5).to_numpy()
    shift = torch.from_numpy(mask * model.embeddings().to_numpy()).float()
    given = Shifts(shift[None, batch.dosage.columns], {})
    context = mechanism.context(batch, given).detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    noise = model.module.encoder.noise(len(screen.train), 8, generator)
    likelihood, basal = model.module.cell_terms(context, batch, noise, closed_form=True)
    elbo = likelihood.mean(0) + basal.mean(0)
    gradient = torch.autograd.grad(elbo.sum(), context)[0][0].double().numpy()
    variance = model.module.encoder.posterior(batch, context).scale[0].square()
    told = (1 - variance).clamp(min=1e-6).detach().double().numpy()
    dose = screen.train.dosage.toarray()
    spread, of_cells = gradient.var(0), gradient.mean(0)
    control = gradient[(dose == 0).all(1)]
    apart, by_chance = control.mean(0) - of_cells, spread / len(control)
    share = np.maximum(0, 1 - by_chance / apart**2)
    score, precision = dose.T @ (gradient - of_cells), (dose**2).T @ told
    square, total = (dose**2).sum(0)[:, None], dose.sum(0)[:, None]
    away = (precision * shift.numpy() + score) / total
    beside = np.clip(away, np.minimum(0, share * apart), np.maximum(0, share * apart))
    assert (beside != 0).any()
    assert (beside == 0).any()
    score -= total * beside
    error = np.sqrt(square * spread + (beside != 0) * total**2 * share * by_chance)
    expected = (precision * shift.numpy() + score) / error
    np.testing.assert_allclose(scores.n_cells, square[:, 0])
    z = scores.z.numpy()
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)
    value, variance = (values.numpy() for values in scores.estimates(2.0, scores.z > 0))
    known = shift.numpy() + score / precision
    np.testing.assert_allclose(value, np.where(z > 0, known, np.nan), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(variance, 2 * (error / precision) ** 2, rtol=1e-4)


class Noting(SingleProcess):
    """One of some processes, which notes what it would exchange."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def sum(self, values: Sequence[Tensor], share: float = 1.0) -> None:
        self.noted = [value.clone() for value in values]


def test_processes_share_the_cells(screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inclusion, "_CELLS_AT_ONCE", 40)
    model, starts = shaken(samsvae.SAMSVAE, screen), []

    def follow(batches: Sequence[int]) -> Sequence[int]:
        starts.append(list(batches))
        return batches

    processes = Noting(0, 1), Noting(0, 2), Noting(1, 2)
    for process in processes:
        shift_scores(model.module, Loader(screen.train), process, progress=follow)
    assert starts == [[0, 40, 80, 120], [0, 80], [40, 120]]
    for whole, first, second in zip(*(process.noted for process in processes), strict=True):
        torch.testing.assert_close(first + second, whole)


def test_a_large_screen_is_sampled(screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many pairs, of cells at random; errors are those of the sample."""
    model, train = shaken(samsvae.SAMSVAE, screen), Loader(screen.train)
    noises: list[Any] = []
    drawn = Encoder.noise

    def spy(encoder: Encoder, n_cells: int, n_particles: int, *given: Any) -> Tensor:
        noises.append((n_particles, n_cells))
        return drawn(encoder, n_cells, n_particles, *given)

    monkeypatch.setattr(Encoder, "noise", spy)
    for pairs, expected in ((2**19, (8, 150)), (450, (3, 150)), (150, (1, 150)), (75, (1, 75))):
        monkeypatch.setattr(inclusion, "_PAIRS", pairs)
        scores = shift_scores(model.module, train)
        assert noises.pop() == expected
    rows = np.sort(np.random.default_rng(0).choice(150, 75, replace=False))
    sample = Loader(screen.train[rows])
    assert scores.n_cells.tolist() == np.square(sample.dosage.toarray()).sum(0).tolist()
    torch.testing.assert_close(scores.z, shift_scores(model.module, sample).z)


@pytest.mark.skipif(native.library() is None, reason="no C compiler")
def test_no_gradients_of_weights_are_taken(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, of_weight = shaken(samsvae.SAMSVAE, screen), []
    evaluated = negative_binomial._evaluated

    def spy(*given: Any) -> Any:
        of_weight.append(given[-1])
        value, gradients = evaluated(*given)
        assert (gradients[1] is None) == (not given[-1])
        return value, gradients

    monkeypatch.setattr(negative_binomial, "_evaluated", spy)
    shift_scores(model.module, Loader(screen.train))
    assert of_weight == [False]
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_the_last_pass_is_in_the_progress_bar(
    screen: samsvae.Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    samsvae.SAMSVAE(screen, **SMALL).train(**QUICK | {"progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert any("20/20" in line and "ELBO" in line for line in lines)
    assert any("1/1" in line and "inclusion probabilities" in line for line in lines)


def test_training_ends_with_updated_masks(screen: samsvae.Screen) -> None:
    model = samsvae.SAMSVAE(screen, **{**SMALL, "mask_prob": None}).train(**QUICK)
    before = model.mask_probabilities()
    table = model.inclusion()
    assert table["prior"].nunique() == 1
    assert table["prior"].iloc[0] == pytest.approx((before.to_numpy().sum() + 0.5) / 13, rel=1e-3)
    other = samsvae.SAMSVAE(screen, **SMALL).train(**QUICK)
    evidence = other.inclusion()["log_bayes_factor"]
    assert np.isfinite(evidence).all()
    np.testing.assert_allclose(other.inclusion()["prior"], SMALL["mask_prob"], rtol=1e-5)


def test_a_perturbation_without_cells_keeps_its_prior() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"].str.contains("B"), "split"] = "test"
    screen = read(adata)
    with pytest.warns(UserWarning, match="only validation or test cells have: 'B'"):
        model = shaken(samsvae.SAMSVAE, screen)
    update_inclusion(model.module, Loader(screen.train))
    logits = mechanism_of(model).mask.logit().detach()
    prior = mechanism_of(model).mask.prior_logit()
    position = screen.perturbations.index("B")
    torch.testing.assert_close(logits[position], prior[position])
    assert not torch.isclose(logits, prior).all()


def test_validation_cells_are_those_held_out(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[HeldOut | None] = []

    def spied(z: Any, n_cells: Any, held_out: HeldOut | None = None) -> Inclusion:
        given.append(held_out)
        return spike_slab.inclusion(z, n_cells, held_out)

    monkeypatch.setattr(inclusion, "inclusion", spied)
    model = shaken(samsvae.SAMSVAE, screen)
    train, valid = Loader(screen.train), Loader(screen.valid)
    expected = shift_scores(model.module, valid)
    update_inclusion(model.module, train, valid)
    update_inclusion(model.module, train, Loader(screen.valid[[]]))
    held_out, nothing = given
    assert nothing is None
    assert held_out is not None
    np.testing.assert_array_equal(held_out.z, expected.z.numpy())
    np.testing.assert_allclose(held_out.n_cells, np.square(valid.dosage.toarray()).sum(0))


def bound(model: PerturbationVAE, train: Loader, n_draws: int = 30) -> float:
    """Return the ELBO of all training cells, nats, on the same noise every time."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    mechanism = model.mechanism
    columns = torch.arange(len(train.cells_per_column))
    with torch.no_grad():
        for _ in range(n_draws):
            noise = mechanism.noise(columns, 1, generator)
            drawn = mechanism.draw(columns, noise, closed_form=True)
            total += sum(float(ratio.sum()) for ratio in drawn.log_ratios.values())
            for batch in train.in_order(512):
                own = Shifts(drawn.value[:, batch.dosage.columns], {})
                basal = model.encoder.noise(len(batch.counts), 1, generator)
                context = mechanism.context(batch, own)
                terms = model.cell_terms(context, batch, basal, closed_form=True)
                total += sum(float(term.sum()) for term in terms)
    return total / n_draws


@pytest.mark.parametrize("given_mask", [False, True])
def test_what_is_opened_gets_an_embedding_of_its_own(
    given_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both change together, so the bound rises (unless the update is sure of less than gradients
    were, and closes entries); what was open stays as it is."""
    screen = simulated_screen(
        n_perturbations=6,
        n_combinations=0,
        n_latent=4,
        n_genes=80,
        cells_per_condition=250,
        n_control=400,
        shift_scale=2.0,
        library_size=3000.0,
        mask_prob=0.1,
        seed=0,
    )
    found: list[bool] = []

    def spied(module: PerturbationVAE, train: Loader, *given: Any, **others: Any) -> None:
        additive = module.mechanism.additive
        assert additive is not None
        if given_mask:  # gradients open nearly all: as if they had not
            z = shift_scores(module, train).z
            with torch.no_grad():
                additive.mask.logits[np.unravel_index(int(z.abs().argmax()), z.shape)] = -4
        (mask, before), low = additive.most_probable(), bound(module, train)
        update_inclusion(module, train)
        after_mask, after = additive.most_probable()
        opened, kept = after_mask > mask, after_mask * mask > 0
        scale = additive.embedding.posterior(torch.arange(len(mask)), after_mask).scale
        sure = opened & (additive.mask.probability() > 0.95)
        found.append(bool(sure.any()))
        assert (after[sure].abs() > 1.5 * scale[sure]).all()
        assert (scale[sure] < 0.4).all()
        torch.testing.assert_close(after[kept], before[kept], rtol=1e-4, atol=1e-4)
        is_closed = bool((after_mask < mask).any())
        assert given_mask or not is_closed
        assert is_closed or bound(module, train) > low + 20

    monkeypatch.setattr(loop, "update_inclusion", spied)
    model = samsvae.SAMSVAE(screen, n_latent=6, n_hidden=32, embedding_given_mask=given_mask)
    model.train(max_steps=600, batch_size=256, learning_rate=2e-3, progress=False)
    assert found == [True]


def test_the_variance_between_replicates_is_found() -> None:
    """Of scores of 300 columns with 3 replicates of unequal size; none where there is none."""
    rng = np.random.default_rng(0)
    column = np.repeat(np.arange(300), 3)
    size = rng.integers(10, 60, len(column)).astype(float)
    variance, tau = np.array([1.0, 2.0]), np.array([0.3, 0.0])
    score = size[:, None] * rng.normal(0, tau, (len(column), 2))
    score += np.sqrt(size[:, None] * variance) * rng.normal(size=(len(column), 2))
    given = (torch.from_numpy(v) for v in (column, score, size, variance))
    found = _between_replicates(*given, n_columns=301).numpy()
    squares = np.bincount(column, size**2, 301)
    np.testing.assert_allclose(found[:, 0], 0.3**2 * squares, rtol=0.15)
    assert (found[:300, 1] < 0.02 * squares[:300]).all()
    assert (found[300] == 0).all()


def of_clones(seed: int) -> AnnData:
    """Return cells of twenty perturbations, of three clones each; only clones differ."""
    rng = np.random.default_rng(seed)
    share = rng.normal(0, 1, 120)
    program = rng.normal(0, 1, (3, 120)) * (rng.random((3, 120)) < 0.3)
    label = np.repeat([*np.repeat([f"N{i:02d}" for i in range(20)], 3), *["control"] * 12], 50)
    clone = np.repeat(np.arange(72), 50)
    change = (rng.normal(0, 0.35, (72, 3)) @ program)[clone]
    mean = np.exp(share + change)
    mean *= 1000 / mean.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(8, 1 / 8, mean.shape)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": label, "clone": clone.astype(str)})
    return AnnData(sp.csr_matrix(counts), obs.rename(index=str))


@pytest.mark.long
@pytest.mark.slow
def test_what_clones_differ_by_is_no_mechanism() -> None:
    adata, n_called = of_clones(0), []
    for key in (None, "clone"):
        screen = samsvae.Screen.from_anndata(adata, replicate_key=key)
        screen = screen.with_split(samsvae.splits.stratified(screen, seed=0))
        model = samsvae.SAMSVAE(screen, n_latent=10, n_hidden=32)
        model.train(max_steps=1000, learning_rate=3e-3, progress=False)
        n_called.append(int((model.mask_probabilities() > 0.9).to_numpy().sum()))
    assert n_called[0] > 5
    assert n_called[1] == 0


@pytest.mark.long
@pytest.mark.slow
def test_probabilities_mean_what_they_say() -> None:
    """Of the pairs called at probability p the share p is true, where no axis is given."""
    screen = simulated_screen(decoder="mixed", n_perturbations=30, n_combinations=0, seed=3)
    model = samsvae.SAMSVAE(screen, n_latent=16, n_hidden=48)
    model.train(max_steps=1200, learning_rate=5e-3, progress=False)
    probability = model.mask_probabilities().to_numpy()
    true = matched_truth(probability > 0.5, screen.truth.mask.to_numpy())
    bins = np.minimum((10 * probability).astype(int), 9)
    gaps = [abs((probability - true)[bins == b].sum()) for b in range(10)]
    assert sum(gaps) / probability.size < 0.04
    assert probability[~true].mean() < 0.04
    assert recovery(model, screen).mask_f1 > 0.9
