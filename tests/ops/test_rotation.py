"""The rotation to the sparsest axes: planted factors come back, noise and thin data do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from samsvae.analysis.agreement import mask_score
from samsvae.ops import rotation
from samsvae.ops.rotation import sparsest


def planted(
    seed: int, *, n: int = 40, true: int = 6, fitted: int = 10, noise: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a sparse mask, values in turned axes with noise, and the scale of that."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n, fitted), bool)
    mask[:, :true] = rng.random((n, true)) < 0.2
    mask[np.arange(n), rng.integers(0, true, n)] |= ~mask.any(1)
    sizes = rng.normal(0, 2, mask.shape)
    sizes = np.where(np.abs(sizes) < 1, np.sign(sizes) * 1.5, sizes)
    turn = np.linalg.qr(rng.normal(size=(fitted, fitted)))[0]
    values = (mask * sizes + noise * rng.normal(size=mask.shape)) @ turn
    return mask, values, np.full(values.shape, noise)


@pytest.mark.parametrize("seed", range(5))
def test_planted_factors_come_back(seed: int) -> None:
    mask, values, scale = planted(seed)
    found = sparsest(values, scale)
    np.testing.assert_allclose(found.matrix.T @ found.matrix, np.eye(10), atol=1e-10)
    assert mask_score(np.abs(values @ found.matrix) > 0.7, mask).f1 > 0.98
    assert mask_score(np.abs(values) > 0.7, mask).f1 < 0.6
    assert mask.mean() - 0.02 < found.share < 2 * mask.mean()
    held = np.square(values @ found.matrix).sum(0)
    assert (np.diff(held) <= 1e-9).all()


def test_the_axes_do_not_depend_on_those_that_were_given() -> None:
    mask, values, scale = planted(0)
    other = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    ours = values @ sparsest(values, scale).matrix
    theirs = values @ other @ sparsest(values @ other, scale).matrix
    used = mask.any(0).sum()
    np.testing.assert_allclose(np.abs(ours[:, :used]), np.abs(theirs[:, :used]), atol=0.02)


def test_same_seed_same_rotation() -> None:
    _, values, scale = planted(0)
    first, second = (sparsest(values, scale, seed=3).matrix for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_start_nearby_leads_to_the_same_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, values, scale = planted(0)
    found = sparsest(values, scale).matrix
    monkeypatch.setattr(rotation, "_starts", None)  # no other is tried
    again = sparsest(values + 0.01, scale, start=found).matrix
    ours, theirs = (np.abs(values @ q)[:, : mask.any(0).sum()] for q in (again, found))
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    away = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    lost = sparsest(np.eye(3, 10), np.full((3, 10), 0.1), start=away).matrix  # of three axes only
    np.testing.assert_allclose(lost.T @ lost, np.eye(10), atol=1e-10)
    assert (np.abs(np.eye(3, 10) @ lost) > 0.1).sum() == 3


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_perturbations_than_dimensions(n: int) -> None:
    """What has no entry stays orthogonal to all."""
    rng = np.random.default_rng(0)
    values = np.eye(n, 8) @ np.linalg.qr(rng.normal(size=(8, 8)))[0] * 3
    found = sparsest(values, np.full((n, 8), 0.1))
    np.testing.assert_allclose(found.matrix.T @ found.matrix, np.eye(8), atol=1e-10)
    turned = values @ found.matrix
    np.testing.assert_allclose(turned[:, n:], 0, atol=1e-10)
    assert (np.abs(turned) > 0.1).sum() == n  # one axis each: the sparsest there is


def test_rank_deficiency_and_nothing_at_all() -> None:
    values = np.outer([1.0, -2.0, 3.0], [1.0, 1.0, 0.0, 2.0])
    turned = values @ sparsest(values, np.full((3, 4), 0.1)).matrix
    np.testing.assert_allclose(turned[:, 1:], 0, atol=1e-12)
    nothing = sparsest(np.zeros((5, 3)), np.full((5, 3), 0.1))
    np.testing.assert_allclose(nothing.matrix.T @ nothing.matrix, np.eye(3), atol=1e-12)


def test_noise_alone_is_called_nothing() -> None:
    """Posterior means of noise of half the prior's size are within what the mixture expects."""
    rng = np.random.default_rng(0)
    variance = 0.2
    values = rng.normal(0, np.sqrt(variance * (1 - variance)), (60, 8))
    assert sparsest(values, np.full((60, 8), np.sqrt(variance))).share < 0.05
