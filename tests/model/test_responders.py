"""Branches: the sum over what may act in a cell, against sums that are written out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from helpers.screens import SMALL, make_adata, read
from samsvae import CPAVAE, SAMSVAE, objective
from samsvae.data.loader import Loader
from samsvae.estimators.base import Estimator
from samsvae.inference.latent import draw_shifts
from samsvae.model.mechanism import Responding, all_patterns
from samsvae.types import Batch, Shifts

KINDS = [SAMSVAE, CPAVAE]


def moved(kind: type[Estimator]) -> tuple[Estimator, Batch, Shifts, Tensor]:
    """Return a model away from its start, all cells, and what is drawn of them."""
    screen = read(make_adata(n_cells=60))
    sizes = SMALL if kind is SAMSVAE else {"n_latent": 4, "n_hidden": 8}
    model = kind(screen, learn_responders=True, **sizes)
    torch.manual_seed(0)
    module = model.module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = _double(Loader(screen, sgrnas=()).batch(slice(None)))
    generator = torch.Generator().manual_seed(0)
    shifts = draw_shifts(module, batch.dosage.columns, 3, generator)
    return model, batch, shifts, module.encoder.noise(60, 3, generator).double()


def responding(model: Estimator) -> Responding:
    assert isinstance(model.module.mechanism, Responding)
    return model.module.mechanism


def _double(batch: Batch) -> Batch:
    dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
    rest = (batch.counts, batch.library_size, batch.covariates)
    return Batch(*(x.double() for x in rest), dosage, batch.cells_per_column.double())


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_the_sum_over_all_that_may_act(kind: type[Estimator]) -> None:
    model, batch, shifts, noise = moved(kind)
    module, dosage = model.module, batch.dosage
    weights = module(batch, shifts, noise)
    mechanism = responding(model)
    pi = mechanism.probability()
    total = torch.full((3, 60), -math.inf, dtype=torch.float64)
    for w in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        given = torch.tensor(w, dtype=torch.float64)
        received = dosage._replace(dose=dosage.dose * given, acting=None)
        context = mechanism.context(batch._replace(dosage=received), shifts)
        likelihood, basal = module.cell_terms(context, batch, noise)
        own = pi[dosage.columns[dosage.position]]
        prior = torch.where(given == 1, own, 1 - own)
        prior = torch.where(dosage.dose != 0, prior, 0.5)  # both alike: it sums to 1
        total = torch.logaddexp(total, prior.log().sum(-1) + likelihood + basal)
    torch.testing.assert_close(objective.predictive_log_weights(weights), total)
    terms = objective.elbo_terms(weights, batch)
    torch.testing.assert_close(terms["response"], weights.response.mean())
    torch.testing.assert_close(
        objective.elbo(weights, batch).mean(), torch.stack(list(terms.values())).sum()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_control_cells_are_untouched(kind: type[Estimator]) -> None:
    model, batch, shifts, noise = moved(kind)
    control = (batch.dosage.dose == 0).all(1)
    learned = model.module(batch, shifts, noise)
    model.module.mechanism = responding(model).inner
    plain = model.module(batch, shifts, noise)
    assert control.any()
    both = (objective.predictive_log_weights(w)[:, control] for w in (learned, plain))
    torch.testing.assert_close(*both)
    torch.testing.assert_close(
        learned.response[:, control], torch.zeros_like(plain.basal[:, control]), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_respond_it_is_the_model_without(kind: type[Estimator]) -> None:
    model, batch, shifts, noise = moved(kind)
    with torch.no_grad():
        responding(model).logits.fill_(1e4)
    learned = model.module(batch, shifts, noise, closed_form=True)
    model.module.mechanism = responding(model).inner
    plain = model.module(batch, shifts, noise, closed_form=True)
    for name in ("likelihood", "basal"):
        torch.testing.assert_close(getattr(learned, name), getattr(plain, name))


def test_responding_weighs_the_branches() -> None:
    model, batch, shifts, noise = moved(CPAVAE)
    found = model.module.with_responses(batch, shifts, noise).dosage.acting
    terms = partial(model.module.cell_terms, closed_form=True)
    branches = responding(model).branches(terms, batch, shifts, noise)
    value = (branches.likelihood + branches.basal).mean(1) + branches.log_prior
    cell = int(torch.nonzero(batch.dosage.dose.ne(0).sum(1) == 2)[0])
    p = (value[:, cell] - value[:, cell].max()).exp()
    torch.testing.assert_close(found[cell, 0], (p[1] + p[3]) / p.sum())
    torch.testing.assert_close(found[cell, 1], (p[2] + p[3]) / p.sum())


def test_only_reagents_of_the_cells_get_a_gradient() -> None:
    model, batch, shifts, noise = moved(CPAVAE)
    single = batch.dosage._replace(dose=batch.dosage.dose * (batch.dosage.position == 1))
    model.module(batch._replace(dosage=single), shifts, noise).likelihood.sum().backward()
    logits = responding(model).logits
    assert logits.grad is not None
    nonzero = logits.grad.nonzero().flatten().tolist()
    assert nonzero == [int(batch.dosage.columns[1])]


def test_patterns() -> None:
    found = all_patterns(3, torch.zeros(1, dtype=torch.float64))
    assert found.dtype == torch.float64
    assert len({tuple(row) for row in found.tolist()}) == 8
    assert found[0].sum() == 0
    assert found[-1].sum() == 3
    assert all_patterns(0, torch.zeros(1)).shape == (1, 0)


def test_the_prior_of_a_set_is_a_product() -> None:
    model, batch, _, _ = moved(CPAVAE)
    inner = model.module.mechanism.additive
    assert inner is not None
    responders = Responding(inner, 3).double()
    with torch.no_grad():
        responders.logits.copy_(torch.tensor([0.3, -1.0, 2.0]))
    acting = all_patterns(2, responders.logits)
    log_prior = responders.log_prior(batch.dosage, acting)
    torch.testing.assert_close(log_prior.exp().sum(0), torch.ones(60, dtype=torch.float64))
    pair = int(torch.nonzero(batch.dosage.dose.ne(0).sum(1) == 2)[0])
    pi = responders.probability().detach()[batch.dosage.columns[batch.dosage.position[pair]]]
    assert log_prior[1, pair].item() == pytest.approx(math.log(pi[0] * (1 - pi[1])))


@pytest.mark.parametrize("kind", KINDS)
def test_with_hard_calls_presence_changes_nothing(kind: type[Estimator]) -> None:
    model, batch, shifts, noise = moved(kind)
    present = batch.dosage._replace(presence=torch.ones_like(batch.dosage.dose))
    plain = model.module(batch, shifts, noise)
    sure = model.module(batch._replace(dosage=present), shifts, noise)
    for one, other in zip(plain[:2] + plain[3:], sure[:2] + sure[3:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    gradients = []
    for weights in (plain, sure):
        model.module.zero_grad()
        weights.likelihood.sum().add(weights.response.sum()).backward(retain_graph=True)
        gradients.append(responding(model).logits.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


def test_the_posterior_of_presence_is_a_factor_of_the_prior() -> None:
    model, batch, shifts, noise = moved(CPAVAE)
    mechanism, dosage = responding(model), batch.dosage
    presence = torch.linspace(0.05, 1, dosage.dose.numel(), dtype=torch.float64)
    uncertain = dosage._replace(presence=presence.view_as(dosage.dose))
    acting = all_patterns(dosage.dose.shape[1], dosage.dose)
    p = mechanism.probability()[mechanism.reagent(dosage)] * uncertain.presence
    p = torch.where(dosage.dose != 0, p, 0.5)
    expected = torch.where(acting.unsqueeze(1) == 1, p, 1 - p).log().sum(-1)
    torch.testing.assert_close(mechanism.log_prior(uncertain, acting), expected)
    mechanism.log_prior(uncertain, acting).sum().backward()
    assert mechanism.logits.grad.isfinite().all()
    # A cell that surely received nothing is as one in which it does not act.
    absent = batch._replace(dosage=dosage._replace(presence=torch.full_like(dosage.dose, 1e-12)))
    nothing = mechanism.with_responses(
        partial(model.module.cell_terms), absent, shifts, lambda: noise
    )
    received = dosage.dose != 0
    assert nothing.dosage.acting[received].max() < 0.01
    expected_acting = mechanism.with_expected_responses(batch._replace(dosage=uncertain))
    torch.testing.assert_close(expected_acting.dosage.acting[received], p[received])
