"""Turning and moving latent space: what does not see the axes stays what it is, to 1e-9."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import samsvae
from helpers.screens import make_adata, read
from samsvae.data.loader import Loader
from samsvae.estimators.base import Estimator
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, Shifts

CASES: dict[str, tuple[type[Estimator], dict[str, Any]]] = {
    "free": (samsvae.SAMSVAE, {}),
    "given mask": (samsvae.SAMSVAE, {"embedding_given_mask": True, "n_hidden_embedding": 6}),
    "mean field": (samsvae.SAMSVAE, {"basal_given_shift": False}),
    "deep": (samsvae.SAMSVAE, {"n_layers": 3, "n_layers_decoder": 2, "n_hidden_decoder": 9}),
    "hill": (samsvae.SAMSVAE, {"saturating_dose": True}),
    "beta": (samsvae.SAMSVAE, {"mask": "beta_bernoulli"}),
    "poisson": (samsvae.SAMSVAE, {"likelihood": "poisson"}),
    "cpa": (samsvae.CPAVAE, {}),
    "svae+": (samsvae.SVAEPlus, {}),
}


class Problem:
    """A model of double precision with open masks, and cells."""

    def __init__(self, name: str, *, combinations: bool = True) -> None:
        kind, own = CASES[name]
        adata = make_adata()
        adata.obs["lane"] = np.where(np.arange(adata.n_obs) % 3 == 0, "one", "two")
        if not combinations:
            adata = adata[~adata.obs["perturbation"].str.contains("+", regex=False)].copy()
        screen = read(adata, batch_key="lane")
        estimator = kind(screen, n_latent=5, n_hidden=8, **own)
        self.model: PerturbationVAE = estimator.module.double()
        assert isinstance(self.model.mechanism, AdditiveShift)
        self.model.mechanism.masks_fixed = True
        rng = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():  # none of them is 0
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng).double()
        cells = Loader(screen.train, torch.device("cpu"), encoding=estimator.encoding)
        batch = cells.batch(np.arange(40))
        dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
        floats = ("counts", "library_size", "covariates")
        self.batch: Batch = batch._replace(
            dosage=dosage, **{name: getattr(batch, name).double() for name in floats}
        )
        self.turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0])

    def shifts(self, model: PerturbationVAE) -> Tensor:
        """Return the means of the embeddings, `1 column latent`."""
        mechanism, asked = model.mechanism, self.batch.dosage.columns
        assert isinstance(mechanism, AdditiveShift)
        ones = torch.ones(len(asked), 5, dtype=torch.float64)
        return mechanism.embedding.mean(asked, ones)[None].detach()

    def densities(self, model: PerturbationVAE, basal: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x | z) at the means of the shifts, and log p(z_basal), `cell`."""
        shifts = Shifts(self.shifts(model), {})
        hidden = model.hidden(self.batch, shifts, basal)
        prior = model.encoder.prior().log_prob(basal).sum(-1)
        return model.likelihood.log_prob(hidden, self.batch), prior

    def posterior(self, model: PerturbationVAE) -> torch.distributions.Normal:
        return model.posterior(self.batch, Shifts(self.shifts(model), {}))


def rotated(model: PerturbationVAE, matrix: Tensor) -> PerturbationVAE:
    copy = deepcopy(model)
    copy.rotate(matrix)
    return copy


@pytest.fixture
def basal() -> Tensor:
    return torch.randn(1, 40, 5, generator=torch.Generator().manual_seed(1)).double()


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_rotation_changes_no_density(name: str, basal: Tensor) -> None:
    given = Problem(name)
    turned = rotated(given.model, given.turn)
    assert turned is not given.model
    before = given.densities(given.model, basal)
    after = given.densities(turned, basal @ given.turn)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    still = given.densities(given.model, basal)  # the copy is one
    torch.testing.assert_close(still, before, rtol=0, atol=0)
    loc = given.posterior(given.model).loc @ given.turn
    torch.testing.assert_close(given.posterior(turned).loc, loc, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_variances_stay_between_those_along_and_those_given_the_others(name: str) -> None:
    """A diagonal variance cannot be rotated: it lies between the two that a Gaussian has."""
    given = Problem(name)
    square = given.turn.square()
    before = given.posterior(given.model).scale.square()
    after = given.posterior(rotated(given.model, given.turn)).scale.square()
    along, given_others = before @ square, 1 / (1 / before @ square)
    assert (after <= along * (1 + 1e-3) + 1e-4).all()
    assert (after >= given_others * (1 - 1e-3) - 1e-4).all()
    permuted = rotated(given.model, torch.eye(5, dtype=torch.float64)[[2, 0, 1, 4, 3]])
    exact = given.posterior(given.model).scale[..., [1, 2, 0, 4, 3]]
    torch.testing.assert_close(given.posterior(permuted).scale, exact, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_moving_the_origin_leaves_single_perturbations_as_likely(name: str, basal: Tensor) -> None:
    given = Problem(name, combinations=False)
    offset = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.3], dtype=torch.float64)
    before, posterior = given.densities(given.model, basal)[0], given.posterior(given.model).loc
    given.model.translate(offset)
    after = given.densities(given.model, basal)[0]
    perturbed = (given.batch.dosage.dose != 0).any(1)
    assert 0 < int(perturbed.sum()) < len(perturbed)
    same = torch.isclose(after, before, rtol=1e-9, atol=1e-9)[0]
    if name != "hill":  # a shift at a dose that is not the unit is another one
        assert same[perturbed].all()
        moved = given.posterior(given.model).loc
        torch.testing.assert_close(
            moved[..., perturbed, :], posterior[..., perturbed, :], rtol=1e-9, atol=1e-9
        )
    assert not same[~perturbed].any()
