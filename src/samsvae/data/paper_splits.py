"""The splits of the paper's experiments on combinations (Norman et al. 2019)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.data.vocabulary import UNUSED
from samsvae.errors import InputError, check_count, check_range, note
from samsvae.settings.arguments import checked

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
