"""Project vectors of many dimensions onto a plane, for figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import pandas as pd

from samsvae.errors import InputError
from samsvae.settings.arguments import Natural, Several, checked

_NEIGHBOURS = 15
_MIN_ROWS = 4
"""Rows that UMAP needs for a graph of neighbours."""


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


@checked
def projection(
    values: pd.DataFrame | np.ndarray,
    method: Literal["pca", "umap"] = "pca",
    *,
    n_neighbors: Several = _NEIGHBOURS,
    seed: Natural = 0,
) -> pd.DataFrame:
    """Project rows onto a plane, for `samsvae.plotting.shift_map` and `cell_map`.

    Distances in the plane of the first two principal components are at most those of the rows, so
    that points far apart there differ. In UMAP only neighbourhoods can be interpreted, not the
    distances between groups nor their sizes.

    Parameters
    ----------
    values
        Rows x dimensions: shifts of perturbations, states of cells. A row with a NaN stays NaN.
    method, n_neighbors, seed
        "pca", or "umap" (`pip install 'samsvae[umap]'`), initialised by PCA; the others are UMAP's.

    Returns
    -------
    Rows x 2; the columns name the axes, with the share of the variance that a component explains.

    Raises
    ------
    InputError
        If there are fewer than two dimensions, fewer than four rows for UMAP, a value is infinite,
        or umap-learn is not installed.

    Examples
    --------
    >>> shifts = pd.DataFrame({"z0": [0.0, 3.0, 0.0], "z1": [0.0, 0.0, 2.0]}, ["A", "B", "C"])
    >>> list(projection(shifts).columns)
    ['principal component 1 (80 % of the variance)', 'principal component 2 (20 % of the variance)']
    """
    table = pd.DataFrame(values)
    rows = table.to_numpy(float)
    if rows.shape[1] < 2:
        raise InputError(f"the rows have {rows.shape[1]} dimensions: expected two or more")
    if np.isinf(rows).any():
        raise InputError("a value is infinite: expected numbers")
    is_complete = ~np.isnan(rows).any(1)
    points, names = _principal(rows[is_complete])
    if method == "umap":
        points, names = _umap(rows[is_complete], points, n_neighbors, seed), ("UMAP 1", "UMAP 2")
    places = np.full((len(rows), 2), np.nan)
    places[is_complete] = points
    return pd.DataFrame(places, table.index, list(names))


def _principal(rows: np.ndarray) -> tuple[np.ndarray, Sequence[str]]:
    """Return the first two principal components, each with its largest weight positive."""
    if not len(rows):
        return np.zeros((0, 2)), ["principal component 1", "principal component 2"]
    centred = rows - rows.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    variance, axes = np.maximum(variance[::-1], 0), axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)
    percent = 100 * variance[:2] / (variance.sum() or 1)
    names = [
        f"principal component {i} ({share:.0f} % of the variance)"
        for i, share in enumerate(percent, 1)
    ]
    return centred @ axes, names


def _umap(rows: np.ndarray, start: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """Return the layout of rows in the plane, initialised by `start`."""
    if not has_umap():
        raise InputError("umap-learn is not installed: pip install 'samsvae[umap]', or take 'pca'")
    if len(rows) < _MIN_ROWS:
        raise InputError(
            f"there are {len(rows)} rows: expected {_MIN_ROWS} or more for UMAP, or 'pca'"
        )
    with warnings.catch_warnings(action="ignore"):  # about optional parts of umap
        import umap

    # With several jobs the seed would not determine the numbers.
    layout = umap.UMAP(
        n_neighbors=min(n_neighbors, len(rows) - 1),
        init=10 * start / (np.abs(start).max() or 1),
        random_state=seed,
        n_jobs=1,
    )
    points: Any = layout.fit_transform(rows)
    return np.asarray(points, float)
