"""Noise drawn by C code: its distribution, its independence, and whose it is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from helpers.statistics import FAILURE_RATE, errors
from samsvae.ops import draws, native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")

LIKE = torch.empty(0)
N = 1_000_001


def draw(kind: str, *shape: int, seed: int = 0, fast: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn: Tensor = getattr(draws, kind)(shape, LIKE, generator, fast=fast)
    return drawn


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_has_its_distribution(kind: str) -> None:
    """Chi-square of the quantiles; and the far tails, where single precision could fail."""
    law = scipy.stats.norm if kind == "normal" else scipy.stats.uniform
    drawn = draw(kind, N).double().numpy()
    for fine in (50, 5000):
        edges = law.ppf(np.linspace(0, 1, fine + 1)[1:-1])
        observed = np.histogram(drawn, [-np.inf, *edges, np.inf])[0]
        assert scipy.stats.chisquare(observed).pvalue > FAILURE_RATE / 10
    p = 1e-4
    for ends in (drawn < law.ppf(p), drawn > law.ppf(1 - p)):
        assert abs(ends.sum() - p * N) < errors(4) * (p * N) ** 0.5


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("lag", [1, 2, 1024, N // 2, N // 2 + 1])
def test_noise_has_no_memory(kind: str, lag: int) -> None:
    """Neither of neighbours, nor of the two halves of a pair; nor do their squares."""
    drawn = draw(kind, N).double()
    drawn = (drawn - drawn.mean()) / drawn.std()
    for values in (drawn, drawn.square() - 1):
        product = values[lag:] * values[:-lag]
        assert product.mean().abs() < errors(20) * product.std() / len(product) ** 0.5


def test_uniform_noise_never_is_0_or_1() -> None:
    for seed in range(15):  # 150 million: of 2^23 values, each end comes up some 18 times
        drawn = draw("uniform", 10 * N, seed=seed)
        assert drawn.min() > 0
        assert drawn.max() < 1
    drawn = draw("uniform", N, fast=False)
    assert 0 < drawn.min() < drawn.max() < 1


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_is_the_seeds_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(native, "threads", lambda n, threads=threads: threads)
        drawn.append(draw(kind, 3, 5, 7001))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    other = draw(kind, 3, 5, 7001, seed=1)
    r = float(torch.corrcoef(torch.stack([drawn[0].flatten(), other.flatten()]))[0, 1])
    assert abs(r) < errors() / other.numel() ** 0.5


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_generator_does_not_draw_the_same_twice(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (getattr(draws, kind)((5, 3), LIKE, generator) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 0), (3, 1, 5)])
def test_noise_has_the_shape_and_type_that_was_asked_for(kind: str, shape: tuple[int, ...]) -> None:
    assert draw(kind, *shape).shape == shape
    generator = torch.Generator().manual_seed(0)
    double = getattr(draws, kind)(shape, LIKE.double(), generator)
    assert double.shape == shape
    assert double.dtype == torch.float64
