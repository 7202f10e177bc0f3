"""Distances between clouds of cells: by hand, by loops, and without bias."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from helpers.clouds import Distance, far, plain_energy, plain_mmd, points, within
from helpers.statistics import errors
from samsvae.benchmark.metrics.populations import energy_distance, median_distance, mmd


def of_scale(scale: float) -> Distance:
    return lambda x, y: mmd(x, y, scale)


either = pytest.mark.parametrize(
    "distance", [energy_distance, of_scale(1.5)], ids=["energy", "mmd"]
)


@pytest.mark.parametrize(("n", "m", "n_features"), [(2, 2, 1), (5, 9, 3), (8, 3, 7)])
def test_distances_equal_plain_loops(n: int, m: int, n_features: int) -> None:
    x, y = points(n, n_features=n_features), points(m, n_features=n_features, at=0.7, seed=1)
    assert energy_distance(x, y) == pytest.approx(plain_energy(x, y), rel=1e-12, abs=1e-12)
    for scale in (0.5, 2.0):
        assert mmd(x, y, scale) == pytest.approx(plain_mmd(x, y, scale), rel=1e-12, abs=1e-12)
    assert median_distance(x) == pytest.approx(
        np.median([far(a, b) for a, b in combinations(x, 2)])
    )


def test_distances_by_hand() -> None:
    x, y = np.array([[0.0, 0], [0, 2]]), np.array([[3.0, 0], [3, 2], [3, 2]])
    # Between: 3, 3 and, three times, the root of 13 (twice of the first cell, once of the second).
    across = (3 + 2 * 13**0.5 + 13**0.5 + 2 * 3) / 6
    assert energy_distance(x, y) == pytest.approx(2 * across - 2 - 4 / 3)
    same, other = np.zeros((4, 1)), np.full((2, 1), 3.0)
    assert energy_distance(same, other) == 6
    assert mmd(same, other, 2.0) == pytest.approx(2 - 2 * np.exp(-9 / 8))
    assert median_distance(np.array([[0.0], [1], [3]])) == 2
    assert median_distance(np.array([[0.0, 0], [3, 4]])) == 5


def test_the_energy_distance_of_scipy_counts_cells_against_themselves() -> None:
    x, y = points(6, n_features=1), points(9, n_features=1, at=0.5, seed=1)
    theirs = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    expected = theirs - within(x) / 6 - within(y) / 9
    assert energy_distance(x, y) == pytest.approx(expected)
    many = points(1500, n_features=1), points(1500, n_features=1, at=2, seed=1)
    theirs = scipy.stats.energy_distance(many[0][:, 0], many[1][:, 0]) ** 2
    assert energy_distance(*many) == pytest.approx(theirs, abs=0.01)


@either
def test_distances_are_of_two_clouds_whatever_their_order(distance: Distance) -> None:
    x, y = points(6), points(9, at=0.5, seed=1)
    rng = np.random.default_rng(0)
    expected = distance(x, y)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for ours, theirs in [
        (y, x),
        (rng.permutation(x), rng.permutation(y)),
        (x + 7, y + 7),
        (x @ turn, y @ turn),
    ]:
        assert distance(ours, theirs) == pytest.approx(expected)


def test_the_units_of_distances() -> None:
    x, y = points(6), points(9, at=0.5, seed=1)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(3 * energy_distance(x, y))
    assert median_distance(3 * x) == pytest.approx(3 * median_distance(x))
    assert mmd(3 * x, 3 * y, 4.5) == pytest.approx(mmd(x, y, 1.5))


@either
@pytest.mark.parametrize(("n", "m"), [(0, 5), (1, 5), (5, 1), (5, 0), (1, 1)])
def test_fewer_than_two_cells_have_no_distance(distance: Distance, n: int, m: int) -> None:
    assert np.isnan(distance(points(n), points(m)))


@either
def test_clouds_far_apart_are_farther(distance: Distance) -> None:
    x = points(30)
    near, farther = (distance(x, points(30, at=at, seed=1)) for at in (0.5, 1.5))
    assert 0 < near < farther


N_REPEATS = 3000


def estimates(distance: Distance, at: float) -> np.ndarray:
    """Return distances of small clouds on a line, N(0, 1) and N(at, 1)."""
    rng = np.random.default_rng(1)
    return np.array(
        [distance(rng.normal(size=(4, 1)), rng.normal(at, 1, (7, 1))) for _ in range(N_REPEATS)]
    )


def close_to(expected: float, drawn: np.ndarray) -> None:
    allowed = errors() * drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert drawn.mean() == pytest.approx(expected, abs=allowed)
    assert allowed < 0.2  # what is claimed is worth claiming


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_energy_distance_is_unbiased(at: float) -> None:
    # X - Y is N(at, 2), so |X - Y| is a folded normal.
    folded = scipy.stats.foldnorm(at / np.sqrt(2), scale=np.sqrt(2)).mean()
    close_to(2 * folded - 2 * 2 / np.sqrt(np.pi), estimates(energy_distance, at))


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_mmd_is_unbiased(at: float) -> None:
    s = 0.8
    # E exp(-u^2 / 2 s^2) of u ~ N(at, 2).
    factor = s / np.sqrt(s**2 + 2)
    expected = 2 * factor * (1 - np.exp(-(at**2) / (2 * (s**2 + 2))))
    close_to(expected, estimates(of_scale(s), at))
