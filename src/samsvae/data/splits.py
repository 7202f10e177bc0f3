"""Splits of a screen's cells into training, validation and test cells.

The splits of the paper's experiments on combinations (Norman et al. 2019).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.names import UNUSED
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count, check_range, note
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


FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the combinations, or of their cells, that the paper trains on."""
_SHARES = (0.64, 0.8)
"""Ends of the training and the validation cells of combinations; the rest are test cells."""
_TESTED = 0.75
"""From which share of the combinations on they are tested."""


@checked
def norman_ood(screen: Screen, *, fraction: float, seed: int = 0) -> pd.Series:
    """Train on a growing share of the combinations, tested on others, as the paper does.

    Of the cells with at most one perturbation 80 % are for training and 20 % for validation. The
    cells of combinations are dealt 64/16/20. The combinations come in a random order: the first
    `fraction` of them give their 64 % to training and their 16 % to validation, the last quarter
    gives its 20 % to the test; all other cells are "unused". So test cells are the same at every
    fraction, and up to 0.75 none of their combinations was seen; at 1 all were (the reference).
    Combinations with a perturbation that no training cell has alone come first in the order, and
    are not tested: at fraction 0 nothing is learned of it.

    Parameters
    ----------
    screen
        The cells.
    fraction
        Share of the combinations that are trained on, between 0 and 1 (the paper: 0, 0.25, 0.5,
        0.75, 1).
    seed
        Same seed, same split. What is trained on at a smaller fraction is so at a larger one.

    Returns
    -------
    "train", "valid", "test" or "unused" by cell name, for `Screen.with_split`.

    Raises
    ------
    InputError
        If the screen has fewer than two combinations, or none that can be tested.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023, section 5.2.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=4, n_combinations=4, n_genes=20, seed=0)
    >>> screen = screen.with_split(norman_ood(screen, fraction=0.75))
    >>> set(screen.test.conditions) & set(screen.train.conditions)
    set()
    """
    check_range("fraction", fraction, low=0, high=1)
    rng, combined, dealt = _dealt(screen, seed)
    combinations = np.unique(screen.condition[combined])
    if len(combinations) < 2:
        raise InputError(
            f"the screen has {len(combinations)} combinations: expected two or more, some to train "
            "on and some to test"
        )
    untold = _untold(screen, combined, dealt)
    order = rng.permutation(combinations)
    order = order[np.argsort(~np.isin(order, screen.condition[untold]), kind="stable")]
    n_used, n_others = (round(share * len(order)) for share in (fraction, _TESTED))
    used = np.isin(screen.condition, order[:n_used])
    tested = np.isin(screen.condition, order[n_others:]) & ~untold
    keep = ~combined | np.where(dealt == "test", tested, used)
    return pd.Series(np.where(keep, dealt, UNUSED).astype(object), screen.cells, name="split")


@checked
def norman_data_efficiency(screen: Screen, *, fraction: float, seed: int = 0) -> pd.Series:
    """Train on a growing share of the cells of combinations, tested always on the same others.

    The cells are dealt as in `norman_ood`. Of the shuffled training cells of combinations the first
    `fraction` are trained on, and so many of their validation cells are validated on; the others
    are "unused". The test cells are 20 % of the cells of combinations, but for those with a
    perturbation that no training cell has alone: at fraction 0 nothing is learned of it.

    Parameters
    ----------
    screen
        The cells.
    fraction
        Share of the combinations' cells that are trained on, between 0 and 1 (the paper: 0, 0.25,
        0.5, 0.75, 1).
    seed
        Same seed, same split. What is trained on at a smaller fraction is so at a larger one.

    Returns
    -------
    "train", "valid", "test" or "unused" by cell name, for `Screen.with_split`.

    Raises
    ------
    InputError
        If the screen has no combinations, or none that can be tested.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023, section 5.2.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=4, n_combinations=4, n_genes=20, seed=0)
    >>> none, half = (norman_data_efficiency(screen, fraction=f) for f in (0.0, 0.5))
    >>> int((none == "train").sum()) < int((half == "train").sum())
    True
    """
    check_range("fraction", fraction, low=0, high=1)
    rng, combined, dealt = _dealt(screen, seed)
    split, untold = dealt.copy(), _untold(screen, combined, dealt)
    split[untold & (dealt == "test")] = UNUSED
    for name in ("train", "valid"):
        cells = rng.permutation(np.flatnonzero(combined & (dealt == name)))
        split[cells[round(fraction * len(cells)) :]] = UNUSED
    return pd.Series(split, screen.cells, name="split")


def _dealt(screen: Screen, seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Return a generator, `cell` whether it received a combination, and `cell` its split.

    Both experiments deal the same cells at the same seed.
    """
    check_count("seed", seed, low=0)
    rng = np.random.default_rng(seed)
    combined = np.diff(screen.dosage.indptr) > 1
    if not combined.any():
        raise InputError("the screen has no combinations: no condition has several perturbations")
    split = np.full(len(screen), "train", object)
    for cells, (first, second) in (
        (np.flatnonzero(~combined), (_SHARES[1], 1.0)),
        (np.flatnonzero(combined), _SHARES),
    ):
        order = rng.permutation(cells)
        ends = [round(share * len(order)) for share in (first, second)]
        split[order[ends[0] : ends[1]]] = "valid"
        split[order[ends[1] :]] = "test"
    return rng, combined, split


def _untold(screen: Screen, combined: np.ndarray, dealt: np.ndarray) -> np.ndarray:
    """Return `cell` whether it has a combination of which a part is in no training cell alone."""
    received = screen.dosage != 0
    alone = received[~combined & (dealt == "train")].sum(0) > 0
    untold = combined & (np.asarray(received @ ~np.ravel(alone)) > 0)
    if untold[combined].all():
        raise InputError(
            "no combination can be tested: each has a perturbation that no training cell has "
            "alone. Expected cells with one perturbation of those that are combined"
        )
    if untold.any():
        n, n_all = (len(np.unique(screen.condition[cells])) for cells in (untold, combined))
        note(f"{n} of {n_all} combinations are not tested: a part of each is in no cell alone")
    return untold
