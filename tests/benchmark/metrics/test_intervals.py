"""Are intervals as wide as the errors? Simulated effects, and intervals that are right or not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from helpers.observed import observed_of, of_part, per_condition
from helpers.statistics import errors
from samsvae.benchmark.metrics.effects import coverage, variance_ratio, variances
from samsvae.benchmark.metrics.observed import Intervals, Observed
from samsvae.benchmark.metrics.registry import Scored, bootstrap

SHAPE = (40, 1000)
(RATIO,) = (metric for metric in of_part("intervals") if metric.name == "variance_ratio")


def simulated(*, error: float, width: float = 1.0, seed: int = 0) -> tuple[Intervals, Observed]:
    """Return intervals of so many times the right width, and effects with a sampling error."""
    rng = np.random.default_rng(seed)
    ate, sd = rng.normal(size=SHAPE), rng.gamma(2, 0.2, SHAPE)
    true = ate + sd * rng.normal(size=SHAPE)
    ends = {
        level: (ate - half, ate + half)
        for level in (0.5, 0.9)
        for half in [width * norm.isf((1 - level) / 2) * sd]
    }
    observed = observed_of(true + error * rng.normal(size=SHAPE), error=error)
    return Intervals(ate, ends), observed


@pytest.mark.parametrize("error", [0.1, 1.0])
@pytest.mark.parametrize(("width", "expected"), [(1, 1), (0.5, 0.25), (0, 0), (2, 4)])
def test_the_variance_ratio_tells_whether_the_width_is_right(
    error: float, width: float, expected: float
) -> None:
    intervals, observed = simulated(error=error, width=width)
    scores = Scored(RATIO, RATIO.statistics(intervals, observed))
    low, high = bootstrap(RATIO, scores.statistics)
    ratio = scores.all()[-1]
    assert low <= ratio <= high
    assert high - low < 0.4 * expected + 1e-9
    # Standard deviation of the sum of squared errors over its expectation.
    excess = 6 * 0.2**2
    sd = np.sqrt(2 * (excess + error**2) ** 2 / np.prod(SHAPE)) / excess
    assert ratio == pytest.approx(expected, rel=errors(6) * 2 * sd)


def test_coverage_cannot_tell_where_the_sampling_error_dominates() -> None:
    shares = {}
    for error in (0.1, 10.0):
        for width in (0.0, 1.0):
            intervals, observed = simulated(error=error, width=width)
            shares[error, width] = coverage(
                *intervals.ends[0.9], intervals.ate, observed, 0.9
            ).mean()
    assert abs(shares[10.0, 0.0] - shares[10.0, 1.0]) < 0.005
    assert shares[0.1, 1.0] - shares[0.1, 0.0] > 0.3


@pytest.mark.parametrize("level", [50, 90])
def test_coverage_of_intervals_of_no_width(level: int) -> None:
    by_name = {metric.name: metric for metric in of_part("intervals")}
    given, observed = simulated(error=0.3)
    narrow, _ = simulated(error=0.3, width=0)
    zero_width = by_name[f"coverage_{level}_zero_width"]
    np.testing.assert_array_equal(
        per_condition(zero_width, given, observed),
        per_condition(by_name[f"coverage_{level}"], narrow, observed),
    )


def test_the_variance_ratio_by_hand() -> None:
    z = norm.isf(0.05)
    ate = np.zeros((1, 4))
    lower, upper = np.array([[-z, 0, -z, np.nan]]), np.array([[z, 2 * z, z, np.nan]])
    observed = observed_of([[3.0, 2, 9, 9]], error=np.array([[1.0, 2, np.inf, 0]]))
    means = variances(lower, upper, ate, observed)
    # Claimed: 1 and (0 + 4) / 2; excess: 9 - 1 and 4 - 4; the other genes have no error.
    np.testing.assert_allclose(means, [[3 / 4, 8 / 4]])
    np.testing.assert_allclose(variance_ratio(means), [3 / 8])
    observed.weight[0, 1] = 0.1  # its errors say little
    np.testing.assert_allclose(variances(lower, upper, ate, observed), [[1 / 4, 8 / 4]])


def test_errors_within_the_sampling_error_give_no_finite_ratio() -> None:
    np.testing.assert_array_equal(
        variance_ratio(np.array([[1.0, -1], [1, 0], [0, 0], [0, 1], [np.nan, 1]])),
        [np.inf, np.inf, np.nan, 0, np.nan],
    )
    statistics = np.array([[1.0, 1.0], [1.0, -2.0], [1.0, -2.0]])
    low, high = bootstrap(RATIO, statistics)
    assert low == 1
    assert high == np.inf
    assert bootstrap(RATIO, statistics[1:]) == (np.inf, np.inf)


def test_a_condition_without_an_interval_has_no_ratio() -> None:
    intervals, observed = simulated(error=0.1)
    intervals.ends[0.9][0][3, 5] = np.nan
    ratio = per_condition(RATIO, intervals, observed)
    assert np.flatnonzero(np.isnan(ratio)).tolist() == [3]
