"""Correlations, all together and by condition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from samsvae.benchmark.metrics.effects import correlation_per_condition, pearson


def test_pearson() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 40))
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    assert pearson(a, b) == pytest.approx(expected)
    assert pearson(a, 2 * a + 1) == pytest.approx(1)
    assert np.isnan(pearson(a, np.full_like(a, 0.1))).all()  # constant but for rounding
    assert np.isnan(pearson(np.zeros_like(a), a)).all()


def test_correlation_per_condition() -> None:
    rng = np.random.default_rng(0)
    true = pd.DataFrame(rng.normal(size=(3, 9)), ["a", "b", "c"])
    predicted = true.loc[["c", "a", "b"]] * 3
    predicted.loc["b"] *= -1
    assert correlation_per_condition(predicted, true).round(9).tolist() == [1, -1, 1]
