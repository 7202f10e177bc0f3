"""Vectors of many dimensions as points of a plane, to be looked at."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import pandas as pd

from samsvae.errors import InputError, check_count, unknown
from samsvae.settings.arguments import checked

_NEIGHBOURS = 15
_FEWEST = 4
"""Rows of which UMAP can make a graph of neighbours."""
METHODS = ("pca", "umap")


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


@checked
def projection(
    values: pd.DataFrame | np.ndarray,
    method: Literal["pca", "umap"] = "pca",
    *,
    n_neighbors: int = _NEIGHBOURS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return rows as points of a plane, for `samsvae.plotting.shift_map` and `cell_map`.

    Distances in the plane of the first two principal components are at most those of the rows: what
    lies apart there is apart. In UMAP's only who is near whom means something, not how far groups
    lie from each other, nor how large they are.

    Parameters
    ----------
    values
        Rows x dimensions: shifts of perturbations, states of cells. A row with a NaN has no place,
        and is a row of NaN.
    method
        "pca", or "umap" (`pip install 'samsvae[umap]'`), which starts from the former.
    n_neighbors
        Of UMAP; at most the other rows there are.
    seed
        Of UMAP: same seed, same numbers.

    Returns
    -------
    Rows x 2; the columns name the axes, with the share of the variance that a principal component
    has.

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
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    check_count("n_neighbors", n_neighbors, low=2)
    check_count("seed", seed, low=0)
    table = pd.DataFrame(values)
    rows = table.to_numpy(float)
    if rows.shape[1] < 2:
        raise InputError(f"the rows have {rows.shape[1]} dimensions: expected two or more")
    if np.isinf(rows).any():
        raise InputError("a value is infinite: expected numbers")
    known = ~np.isnan(rows).any(1)
    points, names = _principal(rows[known])
    if method == "umap":
        points, names = _umap(rows[known], points, n_neighbors, seed), ("UMAP 1", "UMAP 2")
    places = np.full((len(rows), 2), np.nan)
    places[known] = points
    return pd.DataFrame(places, table.index, list(names))


def _principal(rows: np.ndarray) -> tuple[np.ndarray, Sequence[str]]:
    """Return the first two principal components, each with its largest weight positive."""
    if not len(rows):
        return np.zeros((0, 2)), [f"principal component {i}" for i in (1, 2)]
    centred = rows - rows.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    variance, axes = np.maximum(variance[::-1], 0), axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1, 1)
    shares = variance[:2] / (variance.sum() or 1)
    names = [
        f"principal component {i} ({share:.0%} of the variance)".replace("%", " %")
        for i, share in enumerate(shares, 1)
    ]
    return centred @ axes, names


def _umap(rows: np.ndarray, start: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    if not has_umap():
        raise InputError("umap-learn is not installed: pip install 'samsvae[umap]', or take 'pca'")
    if len(rows) < _FEWEST:
        raise InputError(
            f"there are {len(rows)} rows: expected {_FEWEST} or more for UMAP, or 'pca'"
        )
    with warnings.catch_warnings(action="ignore"):  # of parts of it that are not used
        import umap

    # One job: the numbers are then those of the seed.
    layout = umap.UMAP(
        n_neighbors=min(n_neighbors, len(rows) - 1),
        init=10 * start / (np.abs(start).max() or 1),
        random_state=seed,
        n_jobs=1,
    )
    points: Any = layout.fit_transform(rows)
    return np.asarray(points, float)
