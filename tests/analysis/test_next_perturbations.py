"""What to measure next: against dense covariances, and sensible choices."""

from __future__ import annotations

import numpy as np
import pytest

from samsvae import InputError, features, next_perturbations
from samsvae.analysis.next_perturbations import _greedy, _without


def test_a_known_row_is_conditioned_on() -> None:
    rng = np.random.default_rng(0)
    h, d = rng.normal(size=(6, 3)), rng.uniform(0.1, 1, 6)
    covariance = h @ h.T + np.diag(d)
    expected = covariance - np.outer(covariance[2], covariance[2]) / covariance[2, 2]
    h, d = _without(h, d, 2)
    np.testing.assert_allclose(h @ h.T + np.diag(d), expected, atol=1e-12)


def test_the_greedy_choice_is_that_of_dense_covariances() -> None:
    rng = np.random.default_rng(1)
    parts = [(rng.normal(size=(7, 2)), rng.uniform(0.1, 1, 7)) for _ in range(2)]
    size = np.array([1.0, 3.0])
    order, share, left = _greedy(parts, size, 3)
    whole = [h @ h.T + np.diag(d) for h, d in parts]
    first = sum(w * np.trace(c) for w, c in zip(size, whole, strict=True))
    for chosen, own in zip(order, share, strict=True):
        gain = sum(w * np.square(c).sum(0) / np.maximum(np.diag(c), 1e-9)
                   for w, c in zip(size, whole, strict=True))  # fmt: skip
        assert chosen == np.argmax(gain)
        assert own == pytest.approx(gain[chosen] / first)
        whole = [c - np.outer(c[chosen], c[chosen]) / c[chosen, chosen] for c in whole]
    rest = sum(w * np.trace(c) for w, c in zip(size, whole, strict=True))
    assert left[-1] == pytest.approx(rest / first)


def test_candidates_are_checked(trained) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="no features"):
        next_perturbations(trained)
    told = trained.with_features(features.read({"one": ["A", "B", "X", "Y"], "two": ["C", "Z"]}))
    table = next_perturbations(told, n=3)
    assert set(table["perturbation"]) == {"X", "Y", "Z"}
    assert table["left"].is_monotonic_decreasing
    assert (table["n_cells"] > 0).all()
    small = next_perturbations(told, n=1, effect=0.5)
    assert small["n_cells"][0] == pytest.approx(4 * table["n_cells"][0], rel=0.02, abs=4)
    for given, message in (
        (["A"], "'A' have training cells"),
        (["X", "X"], "more than once"),
    ):
        with pytest.raises(InputError, match=message):
            next_perturbations(told, given, n=1)
    with pytest.raises(InputError, match="there are 1 candidates"):
        next_perturbations(told, ["X"], n=2)
