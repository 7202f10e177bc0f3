"""The evidence for each perturbation and latent dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logit
from torch import nn
from torch.distributions import Bernoulli

import samsvae
from helpers.messages import fails
from helpers.models import TINY, shaken
from helpers.screens import SMALL, make_adata, read
from samsvae import CPAVAE, SAMSVAE, ConditionalVAE, Screen, SVAEPlus
from samsvae.estimators.base import Estimator
from samsvae.estimators.saving import _current_parameters
from samsvae.model.mask import MASKS, BernoulliMask
from samsvae.ops.spike_slab import Inclusion, inclusion

COLUMNS = [
    "perturbation",
    "dimension",
    "probability",
    "prior",
    "log_bayes_factor",
    "log_odds",
    "shift",
    "n_train_cells",
]


class PriorByDimension(BernoulliMask):
    """A mask whose prior differs between latent dimensions, as `docs/extending.md` makes one."""

    name = "by_dimension"

    def prior(self) -> Bernoulli:
        return Bernoulli(probs=torch.tensor([0.01, 0.1, 0.2, 0.5]))


PRIORS: dict[str, Any] = {
    "bernoulli": 0.05,
    "beta_bernoulli": 2 / 7,
    "beta_bernoulli_point": 2 / 7,
    "by_dimension": np.array([0.01, 0.1, 0.2, 0.5]),
    "svae-plus": 2 / 7,
}


def inferring(mask: str, screen: Screen) -> Estimator:
    beta = {"beta_a": 2.0, "beta_b": 5.0}
    if mask == "svae-plus":
        return shaken(SVAEPlus, screen, **beta)
    return shaken(SAMSVAE, screen, **beta, mask=mask, mask_prob=0.05)


@pytest.mark.parametrize("mask", PRIORS)
def test_inclusion_by_hand(screen: Screen, mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samsvae.estimators.models.MASKS", [*MASKS, PriorByDimension])
    model = inferring(mask, screen)
    table = model.inclusion()
    assert list(table.columns) == COLUMNS
    probability, embedding = model.mask_probabilities(), model.embeddings()
    assert list(dict.fromkeys(table["perturbation"])) == list(probability.index)
    label = np.array(screen.condition_names)[screen.condition][screen.split == "train"]
    for name, own in table.groupby("perturbation"):
        received = [
            name == part if mask == "svae-plus" else name in part.split("+") for part in label
        ]
        assert set(own["n_train_cells"]) == {sum(received)}
        assert own["probability"].is_monotonic_decreasing
        by_dimension = own.set_index("dimension").loc[list(probability.columns)]
        p = probability.loc[name]
        np.testing.assert_array_equal(by_dimension["probability"], p)
        np.testing.assert_allclose(by_dimension["prior"], np.broadcast_to(PRIORS[mask], 4), 1e-6)
        expected = logit(p) - logit(PRIORS[mask])
        np.testing.assert_allclose(by_dimension["log_bayes_factor"], expected, 1e-5, 1e-5)
        np.testing.assert_allclose(by_dimension["log_odds"], logit(p), 1e-5, 1e-5)
        np.testing.assert_allclose(by_dimension["shift"], p * embedding.loc[name])
    assert table["probability"].nunique() > 4


def test_with_a_beta_posterior_the_evidence_is_that_of_its_mean(screen: Screen) -> None:
    model = inferring("beta_bernoulli", screen)
    own: Any = model.module.mechanism.mask
    a, b = (log.detach().double().exp().numpy() for log in (own.log_a, own.log_b))
    table = model.inclusion().pivot(index="perturbation", columns="dimension")
    np.testing.assert_allclose(table["probability"], a / (a + b), rtol=1e-6)
    expected = np.log(a / b) - np.log(2 / 5)
    np.testing.assert_allclose(table["log_bayes_factor"], expected, 1e-5, 1e-5)


def test_evidence_stays_finite_and_sorts_where_probabilities_saturate(screen: Screen) -> None:
    model = inferring("bernoulli", screen)
    logits = torch.tensor([[-900.0, 40.0, 60.0, 0.0], [0, 0, 0, 0], [25, 30, 20, 35]])
    model.module.mechanism.mask.logits = nn.Parameter(logits)
    table = model.inclusion()
    assert table["dimension"][:4].tolist() == ["z2", "z1", "z3", "z0"]
    assert table["dimension"][4:].tolist() == ["z0", "z1", "z2", "z3", "z3", "z1", "z0", "z2"]
    evidence = np.array([60.0, 40.0, 0.0, -900.0]) - logit(0.05)
    np.testing.assert_allclose(table["log_bayes_factor"][:4], evidence)
    assert table["probability"][:4].tolist() == [1, 1, 0.5, 0]


@pytest.mark.parametrize("mask", ["bernoulli", "beta_bernoulli", "beta_bernoulli_point"])
def test_after_the_update_the_bayes_factor_is_of_the_entry_alone(
    screen: Screen, mask: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    posteriors: list[Inclusion] = []

    def spied(*args: Any) -> Inclusion:
        posteriors.append(inclusion(*args))
        return posteriors[-1]

    monkeypatch.setattr("samsvae.train.inclusion.inclusion", spied)
    model = SAMSVAE(screen, **{**SMALL, "mask": mask}).train(max_steps=20, progress=False)
    model.save(tmp_path)
    for answering in (model, samsvae.load(tmp_path)):
        table = answering.inclusion().pivot(index="perturbation", columns="dimension")
        table = table.loc[list(screen.perturbations)]
        np.testing.assert_allclose(table["log_bayes_factor"], posteriors[-1].evidence, 1e-4)
        moved = table["log_odds"] - logit(table["prior"])
        of_all = posteriors[-1].log_odds - logit(posteriors[-1].share)
        np.testing.assert_allclose(moved, of_all, 1e-4, 1e-4)
        assert np.abs(moved - table["log_bayes_factor"]).to_numpy().max() > 0.1


@pytest.mark.parametrize(("mask", "name"), [("bernoulli", "logits"), ("beta_bernoulli", "log_a")])
def test_models_that_were_saved_without_evidence_are_read(
    screen: Screen, mask: str, name: str
) -> None:
    state = dict(inferring(mask, screen).module.state_dict())
    del state["mechanism.mask.evidence"]
    for shape in (
        state,
        {k.replace("mechanism.", "mechanism.inner."): v for k, v in state.items()},
    ):
        current = _current_parameters(shape)
        (own,) = (key for key in current if key.endswith("mask.evidence"))
        assert current[own].shape == current[own.replace("evidence", name)].shape
        assert not current[own].any()


def test_only_perturbations_seen_in_training_have_evidence() -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "B", "split"] = "test"
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "test"
    with pytest.warns(match="^perturbations that only validation or test cells have: 'B'"):
        table = inferring("bernoulli", read(adata)).inclusion()
    assert list(dict.fromkeys(table["perturbation"])) == ["A", "C"]
    assert list(table.index) == list(range(8))


def test_models_without_an_inferred_mask_say_so(
    screen: Screen,
) -> None:
    fails(
        lambda: shaken(CPAVAE, screen).inclusion(),
        "^the mask of a CPAVAE is all ones, not inferred, so there is no evidence for it: emb",
    )
    fails(
        lambda: shaken(ConditionalVAE, screen).inclusion(),
        "^a ConditionalVAE has no masks: it disp",
    )
    fails(lambda: SAMSVAE(screen, **TINY).inclusion(), "^the model is not trained: call train")
    assert (shaken(CPAVAE, screen).mask_probabilities() == 1).all(axis=None)
