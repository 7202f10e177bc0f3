"""Orders of rows in which similar ones stand next to each other, for figures and tables."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage


def average_linkage_order(values: np.ndarray, *, optimal: bool = False) -> np.ndarray:
    """Return the order of the leaves of an average-linkage tree of rows, by Euclidean distances.

    `optimal` flips branches so that neighbouring leaves are as close as possible, which is slow
    above some thousand rows.

    >>> average_linkage_order(np.array([[0.0], [9.0], [1.0], [8.0]])).tolist()
    [0, 2, 1, 3]
    """
    if len(values) < 3:
        return np.arange(len(values))
    order: np.ndarray = leaves_list(linkage(values, "average", optimal_ordering=optimal))
    return order
