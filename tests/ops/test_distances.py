"""Distances between rows: the C code equals torch's."""

from __future__ import annotations

import numpy as np
import pytest

from samsvae.ops.arrays import manhattan


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 2, 5), (4, 64, 256), (65, 67, 257), (9, 130, 3)])
def test_manhattan(sizes: tuple[int, int, int]) -> None:
    n, m, n_columns = sizes
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, n_columns)), rng.normal(size=(m, n_columns))
    np.testing.assert_allclose(manhattan(a, b), manhattan(a, b, fast=False), rtol=1e-12)
    np.testing.assert_allclose(manhattan(a, b)[0, 0], np.abs(a[0] - b[0]).sum(), rtol=1e-12)


def test_what_is_no_number_gives_none() -> None:
    a, b = np.ones((5, 300)), np.zeros((7, 300))
    a[2, 290], b[3, 1] = np.nan, np.inf
    expected = manhattan(a, b, fast=False)
    np.testing.assert_array_equal(manhattan(a, b), expected)
    assert np.isnan(expected[2]).all()


def test_other_layouts_and_types() -> None:
    a = np.arange(24.0).reshape(6, 4).T
    b = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(manhattan(a, b), manhattan(a, b, fast=False))
