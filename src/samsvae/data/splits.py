"""Splits of a screen's cells into training, validation and test cells."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.paper_splits import norman_data_efficiency, norman_ood
from samsvae.data.screen import Screen
from samsvae.data.vocabulary import UNUSED
from samsvae.errors import InputError, check_count, check_range
from samsvae.settings.arguments import checked

__all__ = [
    "data_efficiency",
    "heldout_combinations",
    "norman_data_efficiency",
    "norman_ood",
    "random",
    "stratified",
]


@checked
def random(
    screen: Screen, *, seed: int = 0, fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
) -> pd.Series:
    """Split the cells at random.

    Parameters
    ----------
    screen
        The cells.
    seed
        Same seed, same split.
    fractions
        Of training, validation and test cells; they sum to 1 (default: the paper's).

    Returns
    -------
    "train", "valid" or "test" by cell name, for `Screen.with_split`.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> screen = screen.with_split(random(screen, seed=0))
    >>> len(screen.train) > len(screen.test) > len(screen.valid)
    True
    """
    return _split_within(screen, np.zeros(len(screen), int), seed, fractions, least=0)


@checked
def stratified(
    screen: Screen, *, seed: int = 0, fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
) -> pd.Series:
    """Split the cells of each condition, at random: every condition has its share of each split.

    A condition with one cell goes to training, so that nothing is held out that was never seen.

    Parameters
    ----------
    screen
        The cells.
    seed
        Same seed, same split.
    fractions
        Of training, validation and test cells; they sum to 1.

    Returns
    -------
    "train", "valid" or "test" by cell name, for `Screen.with_split`.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> screen = screen.with_split(stratified(screen, seed=0))
    >>> screen.train.conditions == screen.test.conditions == screen.conditions
    True
    """
    return _split_within(screen, screen.condition, seed, fractions, least=1)


@checked
def heldout_combinations(
    screen: Screen, *, fraction: float = 0.3, valid: float = 0.2, seed: int = 0
) -> pd.Series:
    """Hold out whole combinations: all cells of some conditions with several perturbations.

    Parameters
    ----------
    screen
        The cells.
    fraction
        Share of the combinations whose cells become test cells, between 0 and 1. Combinations
        held out at a smaller fraction are held out at a larger one too.
    valid
        Share of the other cells that become validation cells, at random.
    seed
        Same seed, same split.

    Raises
    ------
    InputError
        If the screen has no combinations.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> screen = screen.with_split(heldout_combinations(screen, fraction=1.0))
    >>> screen.test.conditions
    ('G02+G03',)
    """
    check_count("seed", seed, low=0)
    check_range("fraction", fraction, low=0, high=1)
    check_range("valid", valid, low=0, high=1)
    rng = np.random.default_rng(seed)
    heldout = _some_combinations(screen, fraction, rng)
    split = np.where(rng.random(len(screen)) < valid, "valid", "train").astype(object)
    split[heldout] = "test"
    return _series(screen, split)


@checked
def data_efficiency(
    screen: Screen, *, fraction: float, test: float = 0.3, valid: float = 0.2, seed: int = 0
) -> pd.Series:
    """Train on a growing share of the combinations, tested always on the same others.

    Parameters
    ----------
    screen
        The cells.
    fraction
        Share of the combinations not held out that may be trained on, between 0 (singles and
        controls alone) and 1. The training cells at a smaller fraction are training cells at a
        larger one too; the cells of the remaining combinations are "unused".
    test
        Share of the combinations held out, as in `heldout_combinations` with the same seed.
    valid
        Share of the other cells that become validation cells, at random.
    seed
        Same seed, same split.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20, seed=0)
    >>> split = data_efficiency(screen, fraction=0.0, test=0.0)
    >>> sorted(split.unique())  # singles and control alone are trained on
    ['train', 'unused', 'valid']
    """
    check_range("fraction", fraction, low=0, high=1)
    split = heldout_combinations(screen, fraction=test, valid=valid, seed=seed)
    rest = np.flatnonzero(split.to_numpy() != "test")
    order = np.random.default_rng([seed, 1])
    used = np.zeros(len(screen), bool)
    used[rest[_some_combinations(screen[rest], fraction, order)]] = True
    unused = (split.to_numpy() != "test") & (np.diff(screen.dosage.indptr) > 1) & ~used
    split[unused] = UNUSED
    return split


def _some_combinations(screen: Screen, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return `cell`: whether its condition is among the first combinations of a random order."""
    combinations = np.unique(screen.condition[np.diff(screen.dosage.indptr) > 1])
    if len(combinations) == 0:
        raise InputError("no combinations are left: no condition has several perturbations")
    order = rng.permutation(combinations)
    return np.isin(screen.condition, order[: round(fraction * len(order))])


def _split_within(
    screen: Screen,
    group: np.ndarray,
    seed: int,
    fractions: tuple[float, float, float],
    *,
    least: int,
) -> pd.Series:
    """Split the cells of each group (codes from 0) at random; at least so many are for training."""
    check_count("seed", seed, low=0)
    if len(fractions) != 3 or not (min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-9):
        raise InputError(f"fractions are {fractions}: expected three numbers that sum to 1")
    order = np.random.default_rng(seed).permutation(len(screen))
    order = order[np.argsort(group[order], kind="stable")]
    n_cells = np.bincount(group)
    place = np.arange(len(order)) - np.repeat(np.cumsum(n_cells) - n_cells, n_cells)
    ends = np.round(np.cumsum(fractions) * n_cells[:, None]).astype(int)
    first, second = (np.repeat(np.maximum(end, least), n_cells) for end in ends.T[:2])
    split = np.full(len(screen), "test", object)
    split[order[place < second]] = "valid"
    split[order[place < first]] = "train"
    return _series(screen, split)


def _series(screen: Screen, split: np.ndarray) -> pd.Series:
    return pd.Series(split, index=screen.cells, name="split")
