"""The share of cells that respond, against numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from samsvae.inference.responders import BranchLikelihoods, response_rates


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moments_and_evidence_are_those_of_the_density(seed: int) -> None:
    odds = np.random.default_rng(seed).normal(0, 3, 12)

    def density(pi: float) -> float:
        return float(np.prod(pi * np.exp(odds) + 1 - pi))

    evidence = quad(density, 0, 1)[0]
    mean = quad(lambda pi: pi * density(pi), 0, 1)[0] / evidence
    found = response_rates(odds, np.zeros(12, int), 1)
    assert found.mean[0] == pytest.approx(mean, abs=1e-4)
    assert found.log_bayes_factor[0] == pytest.approx(np.log(evidence), abs=1e-3)
    for end, level in ((found.lower[0], 0.05), (found.upper[0], 0.95)):
        assert quad(density, 0, end)[0] / evidence == pytest.approx(level, abs=5e-3)


def test_sure_cells_give_a_beta_distribution_and_groups_are_apart() -> None:
    odds = np.array([60.0, -60.0, 60.0, 60.0, -60.0, -60.0, -60.0])
    group = np.array([2, 2, 2, 2, 0, 0, 0])
    found = response_rates(odds, group, 3)
    np.testing.assert_allclose(found.mean, [1 / 5, 1 / 2, 4 / 6], atol=1e-3)
    np.testing.assert_array_equal(found.n_cells, [3, 0, 4])
    assert (found.lower[1], found.upper[1]) == pytest.approx((0.05, 0.95), abs=1e-3)


def test_many_cells_are_added_up_part_by_part() -> None:
    odds = np.random.default_rng(0).normal(0, 2, 2500)
    together = response_rates(odds, np.zeros(2500, int), 1)
    pi = (np.arange(2001) + 0.5) / 2001
    log_density = np.logaddexp(np.log(pi) + odds[:, None], np.log1p(-pi)).sum(0)
    share = np.exp(log_density - log_density.max())
    assert together.mean[0] == pytest.approx((share @ pi) / share.sum(), abs=1e-9)


def test_cells_that_may_not_have_received_it_do_not_lower_the_rate() -> None:
    rng = np.random.default_rng(0)
    presence = np.repeat([1.0, 0.5], 2000)
    acts = (rng.random(4000) < presence) & (rng.random(4000) < 0.8)
    odds = np.where(acts, 4.0, -4.0) + rng.normal(0, 0.5, 4000)
    likelihoods = BranchLikelihoods(
        np.array([[0.0], [1.0]]),
        np.stack([np.zeros(4000), odds]),
        np.zeros((4000, 1), int),
        np.zeros((4000, 1), int),
        np.ones((4000, 1), bool),
        presence[:, None],
    )
    start = np.zeros(1)
    assert abs(likelihoods.rates(start, likelihoods.reagent, 1).mean[0] - 0.8) < 0.03
    ignored = likelihoods._replace(presence=np.ones((4000, 1)))
    assert ignored.rates(start, likelihoods.reagent, 1).mean[0] < 0.65
    prior = likelihoods.log_prior_odds(np.log([4.0]))
    np.testing.assert_allclose(1 / (1 + np.exp(-prior[[0, -1], 0])), [0.8, 0.4])
