"""Which estimates are not of 0."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from samsvae.ops import spike_slab
from samsvae.ops.spike_slab import HeldOut, inclusion, log_bayes_factor, most_likely_share

CELLS = np.full(60, 100.0)


def planted(seed: int = 0, used: int = 8) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return estimates of shifts, and which are not of 0, of 12 dimensions."""
    rng = np.random.default_rng(seed)
    true = (rng.random((60, 12)) < 0.2) & (np.arange(12) < used)
    shift = np.where(true, rng.normal(0, 1.5, true.shape), 0.0)
    return 10 * shift + rng.standard_t(5, true.shape), true


def test_bayes_factors_are_ratios_of_densities() -> None:
    x, narrow, wide = np.random.default_rng(0).uniform(0.5, 3, (3, 50))
    expected = stats.norm.logpdf(x, 0, wide**0.5) - stats.norm.logpdf(x, 0, narrow**0.5)
    np.testing.assert_allclose(log_bayes_factor(x, narrow, wide), expected, atol=1e-12)
    student = stats.t.logpdf(x, 5, scale=narrow**0.5)
    np.testing.assert_allclose(spike_slab._log_student(x, narrow), student, atol=1e-12)


@pytest.mark.parametrize("n_cells", [1, 20, 1000])
@pytest.mark.parametrize("error", [1.0, 8.0])
def test_evidence_never_falls_with_the_size_of_an_estimate(n_cells: int, error: float) -> None:
    z = np.geomspace(0.01, 1e6, 400)
    wide = np.full_like(z, error + n_cells)
    evidence = spike_slab._log_student(z, wide)
    evidence -= spike_slab._log_student(z, np.full_like(z, error))
    assert (np.diff(evidence) >= 0).all()
    assert evidence[-1] > 0


@pytest.mark.parametrize("size", [20, 80, 300])
def test_very_sure_shifts_are_found(size: float) -> None:
    """All of one size, or one among moderate ones."""
    rng = np.random.default_rng(1)
    true = rng.random((40, 20)) < 0.1
    sign = rng.choice([-1, 1], true.shape)
    noise, n_cells = rng.normal(size=true.shape), np.full(40, 150.0)
    found = inclusion(noise + np.where(true, size * sign, 0), n_cells).log_odds > 0
    np.testing.assert_array_equal(found, true)
    z = noise + np.where(true, 20 * sign, 0)
    row, column = np.argwhere(true)[3]
    z[row, column] = size
    found = inclusion(z, n_cells).log_odds
    np.testing.assert_array_equal(found > 0, true)
    assert found[row, column] > 5


def test_the_share_is_the_most_likely_one() -> None:
    evidence = np.random.default_rng(0).normal(-1, 3, 300)
    share = most_likely_share(evidence)

    def log_likelihood(alpha: float) -> float:
        halves = 0.5 * np.log(alpha) + 0.5 * np.log1p(-alpha)  # half an entry of either kind
        return float(np.log1p(alpha * np.expm1(evidence)).sum() + halves)

    best = log_likelihood(share)
    assert best > log_likelihood(share * 1.01)
    assert best > log_likelihood(share / 1.01)


def test_probabilities_are_those_of_bayes_rule() -> None:
    """With what has been learned given: dimensions by summing over all masks of two entries."""
    z, _ = planted()
    found = inclusion(z, CELLS)
    leaked, doubt, _ = spike_slab._leakage(
        z, expit(found.log_odds), found.in_use, spike_slab._Noise(found.error, found.misalignment)
    )
    narrow = found.error + doubt
    wide = narrow + found.slab * CELLS[:, None]
    off = stats.t.logpdf(z - leaked, 5, scale=narrow**0.5)
    on = stats.t.logpdf(z - leaked, 5, scale=wide**0.5)
    n_used = found.in_use.sum()
    share = (expit(found.log_odds).sum() + 0.5) / (n_used * 60 + 1)
    in_use = (n_used + 0.5) / 13
    marginal = np.logaddexp(np.log1p(-share) + off, np.log(share) + on)
    used = expit(logit(in_use) + marginal.sum(0) - off.sum(0))
    np.testing.assert_allclose(found.in_use, used, atol=1e-3)
    expected = used * np.exp(np.log(share) + on - marginal)
    np.testing.assert_allclose(expit(found.log_odds), expected, atol=2e-3)
    np.testing.assert_allclose(found.evidence, on - off, atol=0.02)
    assert (found.evidence - found.log_odds)[:, found.in_use < 0.1].min() > 1  # the odds are low


def test_what_leaks_is_found_without_the_entry_itself() -> None:
    """By hand: ridge regression of the entries that are 0, the asked one left out."""
    z, true = planted()
    open_ = true.astype(float)
    noise = spike_slab._Noise(1.3, 0.01)
    leaked, doubt, after = spike_slab._leakage(z, open_, np.ones(12), noise)
    own, entry = 3, int(np.flatnonzero(~true[:, 3])[5])
    others = np.delete(open_ * z, own, 1)
    rows = ~true[:, own] & (np.arange(60) != entry)
    x, y = others[rows], z[rows, own]
    covariance = np.linalg.inv(x.T @ x / 1.3 + np.eye(11) / 0.01)
    mean = covariance @ x.T @ y / 1.3
    assert leaked[entry, own] == pytest.approx(others[entry] @ mean)
    assert doubt[entry, own] == pytest.approx(others[entry] @ covariance @ others[entry])
    assert after.error == 1.3
    assert 0 < after.misalignment < 0.01  # nothing does


def test_turned_axes_do_not_show_what_is_not_there() -> None:
    z, true = planted()
    angle = 0.2
    turned = z.copy()  # of what is large in the first, the second dimension shows a share
    turned[:, 0] = np.cos(angle) * z[:, 0] - np.sin(angle) * z[:, 1]
    turned[:, 1] = np.sin(angle) * z[:, 0] + np.cos(angle) * z[:, 1]
    found = inclusion(turned, CELLS)
    assert (found.log_odds[:, :2][~true[:, :2]] > 0).sum() <= 1
    assert (found.log_odds[true] > 0).mean() > 0.7
    alone = spike_slab._log_student(turned, np.full_like(z, 1 + 100 * found.slab))
    alone -= spike_slab._log_student(turned, np.ones_like(z))
    assert (alone[:, :2][~true[:, :2]] + logit(0.2) > 0).sum() >= 3  # else it would not be needed


def test_probabilities_are_calibrated_and_nothing_is_found_in_noise() -> None:
    probability, truth = [], []
    for seed in range(20):
        z, true = planted(seed)
        probability.append(expit(inclusion(z, CELLS).log_odds))
        truth.append(true)
        nothing = inclusion(np.random.default_rng(seed).normal(size=z.shape), CELLS)
        assert nothing.log_odds.max() < -2
    p, t = np.concatenate(probability).ravel(), np.concatenate(truth).ravel()
    unsure = (p > 0.1) & (p < 0.9)
    assert unsure.sum() > 100
    assert p[unsure].mean() == pytest.approx(t[unsure].mean(), abs=0.15)
    assert p.mean() == pytest.approx(t.mean(), abs=0.01)
    assert t[p > 0.9].mean() > 0.97


def test_dimensions_that_are_not_in_use_have_no_entries() -> None:
    z, _ = planted(used=3)
    found = inclusion(z, CELLS)
    assert (found.in_use[:3] > 0.99).all()
    assert (found.in_use[3:] < 0.01).all()
    assert found.log_odds[:, 3:].max() < -4


def test_an_offset_of_noise_is_not_found() -> None:
    """Entries whose noise is twice the standard error are 0 all the same."""
    z = 2 * np.random.default_rng(0).normal(size=(60, 12))
    found = inclusion(z, CELLS)
    assert (found.log_odds < 0).all()


def test_what_is_fitted_to_training_cells_alone_is_no_shift() -> None:
    """In a dimension of its own, with many standard errors, and nothing in held-out cells."""
    z, true = planted()
    rng = np.random.default_rng(1)
    overfitted = np.zeros_like(true)
    overfitted[[3, 17, 31, 40, 50, 5], [8, 8, 9, 9, 10, 10]] = True
    z += np.where(overfitted, 14.0, 0.0)
    expected = np.where(true, z / 2, 0.0)
    held_out = HeldOut(expected + rng.standard_t(5, z.shape), CELLS / 4)
    without = inclusion(z, CELLS).log_odds > 0
    with_them = inclusion(z, CELLS, held_out).log_odds > 0
    assert without[overfitted].all()
    assert not with_them[overfitted].any()
    sure = true & (np.abs(z) > 8)
    assert (with_them & sure).sum() > 0.9 * sure.sum()
    assert (with_them & ~true).sum() <= 2


def test_perturbations_without_held_out_cells_are_judged_by_the_others() -> None:
    z, true = planted()
    has = np.arange(60) < 50
    held_out = HeldOut(np.where(has[:, None], z / 2, 0.0), np.where(has, CELLS / 4, 0.0))
    posterior = inclusion(z, CELLS, held_out)
    sure = true & (np.abs(z) > 12)
    assert sure[~has].any()
    assert (posterior.log_odds[sure] > 0).all()
    # They cannot tell a shift from what is overfitted: less sure than the share of the latter.
    assert posterior.evidence[~has].max() < 10 < posterior.evidence[has].max()
