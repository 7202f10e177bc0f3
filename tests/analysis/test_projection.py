"""Points of a plane: the right ones, named by what they hold."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import samsvae

ROWS = pd.DataFrame(
    np.random.default_rng(0).normal(0, [3, 2, 0.5, 0.1], (40, 4)), [f"r{i}" for i in range(40)]
)


def test_principal_components_keep_as_much_as_a_plane_can() -> None:
    points = samsvae.projection(ROWS)
    assert list(points.index) == list(ROWS.index)
    centred = ROWS.to_numpy() - ROWS.to_numpy().mean(0)
    sizes = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(np.square(points).sum(), sizes[:2] ** 2)
    shares = [int(re.findall(r"\((\d+) % of the variance\)", name)[0]) for name in points]
    np.testing.assert_allclose(shares, 100 * sizes[:2] ** 2 / np.square(sizes).sum(), atol=0.5)
    apart = np.linalg.norm(centred[0] - centred[1])
    assert np.linalg.norm(points.iloc[0] - points.iloc[1]) <= apart


def test_signs_are_those_of_the_largest_weight() -> None:
    for turned in (ROWS, -ROWS):
        points = samsvae.projection(turned)
        weights = turned.to_numpy().T @ points.to_numpy()
        assert (weights[np.abs(weights).argmax(0), [0, 1]] > 0).all()


def test_a_row_that_is_not_known_has_no_place() -> None:
    holed = ROWS.copy()
    holed.iloc[3, 1] = np.nan
    points = samsvae.projection(holed)
    assert np.flatnonzero(points.isna().any(axis=1)).tolist() == [3]
    rest = samsvae.projection(ROWS.drop(index="r3"))
    np.testing.assert_allclose(points.drop(index="r3"), rest)


def test_one_row_and_equal_rows_lie_in_the_origin() -> None:
    assert not samsvae.projection(ROWS.iloc[:1]).to_numpy().any()
    assert not samsvae.projection(np.ones((5, 3))).to_numpy().any()
    assert samsvae.projection(ROWS.iloc[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((ROWS[[0]],), "have 1 dimensions"),
        ((ROWS, "tsne"), "no method 'tsne'"),
        ((ROWS.replace(ROWS.iloc[0, 0], np.inf),), "infinite"),
    ],
)
def test_what_has_no_plane_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(samsvae.InputError, match=words):
        samsvae.projection(*arguments)


def test_umap_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samsvae.analysis.projection.has_umap", lambda: False)
    with pytest.raises(samsvae.InputError, match=r"umap-learn is not installed: pip install"):
        samsvae.projection(ROWS, "umap")
