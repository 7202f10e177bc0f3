"""Closed forms and identities of the objective."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import samsvae
from helpers.screens import SMALL, make_adata
from helpers.statistics import errors
from samsvae import objective
from samsvae.data.loader import Loader
from samsvae.model.mechanism import Mechanism
from samsvae.model.vae import PerturbationVAE
from samsvae.train.step import draw_noise
from samsvae.types import Batch, Draw, Shifts

N_GENES, N_LATENT, N_CELLS = 5, 2, 3
SD = 0.7


class ExactEncoder(nn.Module):
    """The posterior of a linear Gaussian model, or one beside it by `off`."""

    def __init__(self, weight: Tensor, off: float) -> None:
        super().__init__()
        self.weight, self.off = weight, off
        precision = torch.eye(N_LATENT, dtype=torch.float64) + weight.T @ weight / SD**2
        self.covariance = torch.linalg.inv(precision)

    def draw(self, batch: Batch, context: Tensor, noise: Tensor, *, closed_form: bool) -> Draw:
        residual = batch.counts - context @ self.weight.T
        mean = residual @ self.weight @ self.covariance / SD**2 + self.off
        posterior = MultivariateNormal(mean, self.covariance)
        value = mean + noise @ torch.linalg.cholesky(self.covariance).T
        prior = Normal(torch.zeros((), dtype=torch.float64), 1.0)
        return Draw(value, prior.log_prob(value).sum(-1) - posterior.log_prob(value))


class LinearGaussian(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        return Normal(hidden @ self.weight.T, SD).log_prob(batch.counts).sum(-1)


class GivenShift(Mechanism):
    """A mechanism whose shifts are fixed, so that the evidence has a closed form."""

    noise = draw = None

    def context(self, batch: Batch, shifts: Shifts) -> Tensor:
        return shifts.value

    def apply_to(self, basal: Tensor, context: Tensor) -> tuple[Tensor]:
        return (basal + context,)


class Same(nn.Module):
    def forward(self, state: Tensor, covariates: Tensor) -> Tensor:
        return state


def linear_gaussian(off: float) -> tuple[PerturbationVAE, Batch, Shifts, Tensor]:
    """Return a model, its batch and shifts, and the evidence log N(x; W s, W W' + SD^2 I)."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(N_GENES, N_LATENT, generator=rng, dtype=torch.float64)
    x = torch.randn(N_CELLS, N_GENES, generator=rng, dtype=torch.float64)
    shift = torch.randn(1, N_CELLS, N_LATENT, generator=rng, dtype=torch.float64)
    covariance = weight @ weight.T + SD**2 * torch.eye(N_GENES, dtype=torch.float64)
    evidence = MultivariateNormal(shift[0] @ weight.T, covariance).log_prob(x)
    model = PerturbationVAE(GivenShift(), ExactEncoder(weight, off), Same(), LinearGaussian(weight))
    empty = torch.zeros(N_CELLS, 0, dtype=torch.float64)
    return model, Batch(x, x.sum(1), empty, None, empty), Shifts(shift, {}), evidence


def weights(off: float, n_particles: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    model, batch, shifts, evidence = linear_gaussian(off)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_particles, N_CELLS, N_LATENT, generator=rng, dtype=torch.float64)
    return objective.predictive_log_weights(model(batch, shifts, noise)), evidence


def test_every_weight_is_the_evidence_at_the_exact_posterior() -> None:
    values, evidence = weights(off=0.0, n_particles=7)
    torch.testing.assert_close(values, evidence.expand(7, -1), rtol=0, atol=1e-10)


def test_elbo_falls_short_of_the_evidence_by_the_kl() -> None:
    values, evidence = weights(off=0.3, n_particles=200_000)
    model, *_ = linear_gaussian(0.3)
    off = torch.full((N_LATENT,), 0.3, dtype=torch.float64)
    kl = 0.5 * off @ torch.linalg.inv(model.encoder.covariance) @ off
    se = values.std(0) / 200_000**0.5
    assert torch.all((values.mean(0) - (evidence - kl)).abs() < errors(N_CELLS) * se)


def test_iwelbo_rises_to_the_evidence_with_particles() -> None:
    values, evidence = weights(off=0.3, n_particles=400_000)
    bounds = [
        torch.stack([objective.iwelbo(part) for part in values.split(k)[:2000]]).mean(0)
        for k in (1, 4, 16, 64)
    ]
    for looser, tighter in pairwise(bounds):
        assert torch.all(tighter > looser)
    assert torch.all(bounds[-1] < evidence)
    assert torch.all(evidence - bounds[-1] < 0.1 * (evidence - bounds[0]))
    torch.testing.assert_close(objective.iwelbo(values), evidence, rtol=0, atol=0.02)


def fitted(screen: samsvae.Screen, seed: int = 0, **hyperparameters: object) -> PerturbationVAE:
    torch.manual_seed(seed)
    model = samsvae.SAMSVAE(screen, **{**SMALL, **hyperparameters}).module.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def double(batch: Batch) -> Batch:
    dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
    counts, size, covariates, _, n_t = batch
    return Batch(counts.double(), size.double(), covariates.double(), dosage, n_t.double())


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_one_epoch_of_minibatches_sums_to_the_full_elbo(
    screen: samsvae.Screen, batch_size: int
) -> None:
    model = fitted(screen)
    loader = Loader(screen.train)
    everyone = torch.arange(3)
    rng = torch.Generator().manual_seed(0)
    shift_noise = model.mechanism.noise(everyone, 4, rng)
    basal_noise = model.encoder.noise(len(screen.train), 4, rng)
    total, start = torch.zeros((), dtype=torch.float64), 0
    for batch in loader.in_order(batch_size):
        present = batch.dosage.columns
        own = type(shift_noise)(*(noise[:, present] for noise in shift_noise))
        rows = slice(start, start := start + len(batch.counts))
        shifts = model.mechanism.draw(present, own)
        values = model(double(batch), shifts, basal_noise[:, rows])
        total = total + objective.elbo(values, double(batch)).sum()
    whole = double(loader.batch(slice(None)))
    shifts = model.mechanism.draw(everyone, shift_noise)
    values = model(whole, shifts, basal_noise)
    full = values.likelihood.sum(1).mean() + values.basal.sum(1).mean()
    for global_term in values.shifts.values():
        full = full + global_term.sum(1).mean()
    torch.testing.assert_close(total, full, rtol=1e-10, atol=0)


def test_a_perturbation_absent_from_the_batch_costs_nothing(screen: samsvae.Screen) -> None:
    rows = np.flatnonzero(screen.train.is_control)[:5]
    batch = Loader(screen.train).batch(rows)
    model = fitted(screen).float()
    noise = draw_noise(model, batch, 2, torch.Generator().manual_seed(0))
    shifts = model.mechanism.draw(batch.dosage.columns, noise[0])
    values = model(batch, shifts, noise[1])
    torch.testing.assert_close(
        objective.log_weights(values, batch), values.likelihood + values.basal, rtol=0, atol=0
    )


def test_terms_sum_to_the_elbo(screen: samsvae.Screen) -> None:
    batch = Loader(screen.train).batch(slice(0, 50))
    model = fitted(screen).float()
    noise = draw_noise(model, batch, 3, torch.Generator().manual_seed(0))
    shifts = model.mechanism.draw(batch.dosage.columns, noise[0])
    values = model(batch, shifts, noise[1])
    terms = objective.elbo_terms(values, batch)
    assert set(terms) == {"likelihood", "basal", "mask", "embedding"}
    torch.testing.assert_close(sum(terms.values()), objective.elbo(values, batch).mean())


def test_zero_dosage_gives_the_basal_state(screen: samsvae.Screen) -> None:
    model = fitted(screen).float()
    batch = Loader(screen.train).batch(slice(0, 20))
    noise = model.mechanism.noise(batch.dosage.columns, 2, torch.Generator().manual_seed(0))
    shifts = model.mechanism.draw(batch.dosage.columns, noise)
    nothing = batch.dosage._replace(dose=torch.zeros_like(batch.dosage.dose))
    basal = torch.randn(2, 20, SMALL["n_latent"])
    context = model.mechanism.context(batch._replace(dosage=nothing), shifts)
    assert torch.equal(*model.mechanism.apply_to(basal, context), basal)
    context = model.mechanism.context(batch, shifts)
    assert not torch.equal(*model.mechanism.apply_to(basal, context), basal)


def test_doses_scale_the_shift_and_shifts_add_up(screen: samsvae.Screen) -> None:
    model = fitted(screen)
    rng = torch.Generator().manual_seed(0)
    shifts = model.mechanism.draw(torch.arange(3), model.mechanism.noise(torch.arange(3), 2, rng))
    batch = double(Loader(screen.train).batch(slice(0, 30)))
    dosage = batch.dosage
    dense = torch.zeros(30, 3, dtype=torch.float64)
    doses = dosage.dose * torch.arange(1, 31)[:, None]
    for cell in range(30):
        for slot in range(dosage.dose.shape[1]):
            dense[cell, dosage.columns[dosage.position[cell, slot]]] += doses[cell, slot]
    expected = dense @ shifts.value[:, dosage.columns.argsort()]
    context = model.mechanism.context(batch._replace(dosage=dosage._replace(dose=doses)), shifts)
    torch.testing.assert_close(context, expected)


@pytest.mark.parametrize("embedding_given_mask", [True, False])
@pytest.mark.parametrize("basal_given_shift", [True, False])
def test_permuting_genes_perturbations_and_cells_permutes_the_weights(
    screen: samsvae.Screen, embedding_given_mask: bool, basal_given_shift: bool
) -> None:
    options = {"embedding_given_mask": embedding_given_mask, "basal_given_shift": basal_given_shift}
    model = fitted(screen, **options)
    batch = double(Loader(screen.train).batch(slice(0, 40)))
    rng = torch.Generator().manual_seed(0)
    noise = draw_noise(model, batch, 3, rng)
    shifts = model.mechanism.draw(batch.dosage.columns, noise[0])
    before = objective.log_weights(model(batch, shifts, noise[1]), batch)
    cells, genes = torch.randperm(40, generator=rng), torch.randperm(12, generator=rng)
    names = torch.randperm(3, generator=rng)
    with torch.no_grad():
        first = model.encoder.network.hidden.first.weights[0]  # of the genes
        first.copy_(first[genes].clone())
        model.encoder.center.copy_(model.encoder.center[genes].clone())
        model.encoder.scale.copy_(model.encoder.scale[genes].clone())
        for parameter in (*model.likelihood.parameters(),):
            parameter.copy_(parameter[genes].clone())
    dosage = batch.dosage
    permuted = Batch(
        batch.counts[cells][:, genes],
        batch.library_size[cells],
        batch.covariates[cells],
        dosage._replace(
            columns=dosage.columns[names],
            position=names.argsort()[dosage.position[cells]],
            dose=dosage.dose[cells],
        ),
        batch.cells_per_column[names],
    )
    own = type(noise[0])(*(values[:, names] for values in noise[0]))
    shifts = model.mechanism.draw(permuted.dosage.columns, own)
    after = objective.log_weights(model(permuted, shifts, noise[1][:, cells]), permuted)
    torch.testing.assert_close(after, before[:, cells], rtol=1e-10, atol=1e-10)


def test_a_panel_leaves_the_rest_of_the_library_unobserved() -> None:
    adata = make_adata()
    adata.obs["total"] = np.asarray(adata.X.sum(1)).ravel() * 10
    screen = samsvae.Screen.from_anndata(adata, split_key="split", library_size_key="total")
    likelihood = samsvae.SAMSVAE(screen, **SMALL).module.likelihood
    hidden = torch.randn(6, SMALL["n_hidden"])
    observed = likelihood.proportions(hidden, panel=False)
    assert torch.all(observed.sum(-1) < 1)
    panel = likelihood.proportions(hidden, panel=True)
    torch.testing.assert_close(panel, observed / observed.sum(-1, keepdim=True))
    whole = samsvae.Screen.from_anndata(adata, split_key="split")
    complete = samsvae.SAMSVAE(whole, **SMALL).module.likelihood.proportions(hidden, panel=False)
    torch.testing.assert_close(complete.sum(-1), torch.ones(6))
