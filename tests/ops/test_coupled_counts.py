"""Counts that change no more than their rates do: the law of each, and of the change."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from helpers.statistics import FAILURE_RATE, errors
from samsvae.ops import native
from samsvae.ops import negative_binomial as nb

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")

RATES = [(0.3, 0.2), (0.3, 0.5), (8.0, 1.0), (8.0, 7.9), (8.0, 8.3), (300.0, 299.0), (300.0, 410.0)]
"""Before and after: few and many counts, lost and gained, by single trials and by waiting times."""


def coupled(before: float, after: float, *, fast: bool = True, seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    rate = torch.full((400, 100), before)
    counts = torch.poisson(rate, generator=rng)
    return counts, nb.poisson_coupled(counts, rate, torch.full_like(rate, after), rng, fast=fast)


@pytest.mark.parametrize(("before", "after"), RATES)
def test_coupled_counts_follow_the_poisson_distribution(before: float, after: float) -> None:
    drawn = coupled(before, after)[1].flatten().numpy()
    law = scipy.stats.poisson(after)
    edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 15)))
    observed = np.histogram(drawn, [-np.inf, *(edges + 0.5), np.inf])[0]
    share = np.diff([0, *law.cdf(edges), 1])
    assert scipy.stats.chisquare(observed, share * drawn.size).pvalue > FAILURE_RATE / 200


@pytest.mark.parametrize(("before", "after"), RATES)
def test_counts_are_coupled_as_in_the_plain_form(before: float, after: float) -> None:
    (counts, fast), (_, plain) = (coupled(before, after, fast=fast) for fast in (True, False))
    changes = fast - counts if after > before else counts - fast
    assert torch.all(changes >= 0)
    assert torch.equal(fast, fast.round())
    for a, b in ((changes, (plain - counts).abs()), (changes.square(), (plain - counts).square())):
        se = ((a.var() + b.var()) / a.numel()) ** 0.5
        assert abs(a.mean() - b.mean()) < errors(2) * se + 1e-6


def test_coupled_counts_are_the_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(native, "threads", lambda n, threads=threads: threads)
        drawn.append(coupled(8.0, 5.0)[1])
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], coupled(8.0, 5.0, seed=1)[1])
    rows = drawn[0][:200].flatten(), drawn[0][200:].flatten()
    r = float(torch.corrcoef(torch.stack(rows))[0, 1])
    assert abs(r) < errors() / len(rows[0]) ** 0.5  # every row has a stream of its own


def test_equal_rates_and_empty_cells_change_nothing() -> None:
    counts, drawn = coupled(8.0, 8.0)
    assert torch.equal(counts, drawn)
    nothing = torch.zeros(3, 4)
    rng = torch.Generator().manual_seed(0)
    assert not nb.poisson_coupled(nothing, nothing, nothing, rng).any()
    assert not nb.poisson_coupled(nothing, nothing + 5, nothing + 1, rng).any()
