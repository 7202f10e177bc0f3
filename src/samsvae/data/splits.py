"""Splits for `Screen.with_split`: "train", "valid", "test" or "unused" by cell name.

The same seed gives the same split. What is trained on (in `heldout_combinations`: tested) at a
smaller fraction is so at a larger one, too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.data.expression import places_within
from samsvae.data.names import UNUSED
from samsvae.data.screen import Screen
from samsvae.errors import InputError, note
from samsvae.settings.arguments import Natural, Share, checked

__all__ = [
    "data_efficiency",
    "heldout_combinations",
    "heldout_contexts",
    "heldout_perturbations",
    "norman_data_efficiency",
    "norman_ood",
    "random",
    "stratified",
]

_FRACTIONS = (0.64, 0.16, 0.2)
"""The paper's fractions of training, validation and test cells."""
_TESTED_FROM = 0.75
"""Share of the combinations, in random order, from which on `norman_ood` tests them."""


@checked
def random(
    screen: Screen, *, seed: Natural = 0, fractions: tuple[float, float, float] = _FRACTIONS
) -> pd.Series:
    """Split the cells at random.

    `fractions` of training, validation and test cells sum to 1; the defaults are the paper's.

    Examples
    --------
    >>> screen = screen.with_split(random(screen, seed=0))
    >>> len(screen.train) > len(screen.test) > len(screen.valid)
    True
    """
    return _split_within(screen, np.zeros(len(screen), int), seed, fractions, min_train=0)


@checked
def stratified(
    screen: Screen, *, seed: Natural = 0, fractions: tuple[float, float, float] = _FRACTIONS
) -> pd.Series:
    """Split the cells of each condition at random, so that every split has its share of each.

    The training cells of a condition are at least one: every condition of the test was seen.

    Examples
    --------
    >>> screen = screen.with_split(stratified(screen, seed=0))
    >>> screen.train.conditions == screen.test.conditions == screen.conditions
    True
    """
    return _split_within(screen, screen.condition, seed, fractions, min_train=1)


@checked
def heldout_combinations(
    screen: Screen, *, fraction: Share = 0.3, valid: Share = 0.2, seed: Natural = 0
) -> pd.Series:
    """Hold out whole combinations: all cells of some conditions with several perturbations.

    All cells of a `fraction` of the combinations become test cells, and a fraction `valid` of the
    other cells validation cells, at random. It is an error if there are no combinations.

    Examples
    --------
    >>> screen = screen.with_split(heldout_combinations(screen, fraction=1.0))
    >>> screen.test.conditions
    ('G02+G03',)
    """
    rng = np.random.default_rng(seed)
    is_test = _in_first_combinations(screen, fraction, rng)
    split = np.where(rng.random(len(screen)) < valid, "valid", "train").astype(object)
    split[is_test] = "test"
    return _by_cell(screen, split)


@checked
def heldout_perturbations(
    screen: Screen,
    *,
    fraction: Share = 0.2,
    n_folds: int | None = None,
    fold: Natural = 0,
    valid: Share = 0.2,
    seed: Natural = 0,
) -> pd.Series:
    """Hold out whole perturbations: all cells of conditions with one of them, alone or combined.

    All cells that received one of a `fraction` of the perturbations become test cells, and a
    fraction `valid` of the other cells validation cells, at random. With `n_folds`, the
    perturbations of one `fold` (from 0) are held out; every perturbation is in one of them. It is
    an error if that leaves no perturbation to train on, or none to test.

    Examples
    --------
    >>> screen = screen.with_split(heldout_perturbations(screen, n_folds=3, fold=1))
    >>> len(set(screen.test.conditions) & set(screen.train.conditions))
    0
    """
    received = np.flatnonzero(screen.cells_per_perturbation > 0)
    n = len(received)
    rng = np.random.default_rng(seed)
    order = rng.permutation(received)
    if n_folds is not None and not (2 <= n_folds <= n and fold < n_folds):
        raise InputError(
            f"got fold {fold} of {n_folds}: expected 2 to {n} folds (of {n} perturbations), and a "
            "fold below that"
        )
    held = order[: round(fraction * n)] if n_folds is None else order[fold::n_folds]
    if not 0 < len(held) < n:
        raise InputError(
            f"a fraction of {fraction:g} of {n} perturbations is {len(held)}: expected at least "
            "one, and not all"
        )
    is_held = np.isin(np.arange(len(screen.perturbations)), held)
    is_test = np.asarray((screen.dosage != 0) @ is_held.astype(np.float32)).ravel() > 0
    split = np.where(rng.random(len(screen)) < valid, "valid", "train").astype(object)
    split[is_test] = "test"
    return _by_cell(screen, split)


@checked
def heldout_contexts(
    screen: Screen, *, fraction: Share = 0.2, valid: Share = 0.2, seed: Natural = 0
) -> pd.Series:
    """Hold out pairs of a perturbation and a context: what it does where it was not tried.

    All cells of a context that received a held-out perturbation, alone or with others, become test
    cells, and a fraction `valid` of the other cells validation cells, at random. A perturbation can
    be held out if there are cells with it alone in several contexts that have control cells, too,
    and is kept in one of them, chosen at random; of all such pairs a `fraction` is held out, as far
    as that leaves one. Cells of combinations with a perturbation that is thereby in no other cell
    are "unused".

    Raises
    ------
    InputError
        If there are no two contexts, or no pair can be held out.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> adata = simulated_screen(n_perturbations=4, n_combinations=0, n_genes=20).to_anndata()
    >>> adata.obs["line"] = ["K562", "RPE1"] * (len(adata) // 2) + ["K562"] * (len(adata) % 2)
    >>> lines = Screen.from_anndata(adata, context_key="line")
    >>> test = lines.with_split(heldout_contexts(lines, fraction=0.25)).test
    >>> len(test.conditions), len(np.unique(test.batch))
    (2, 1)
    """
    registry = screen.registry
    if len(registry.contexts) < 2:
        raise InputError(
            "the screen has no two contexts: read it with context_key, a column of at least two "
            "levels"
        )
    context = registry.context_of_batch[screen.batch]
    received = (screen.dosage != 0).tocsr()
    alone = np.flatnonzero(~screen.is_combination & ~screen.is_control)
    has_cells = np.zeros((received.shape[1], len(registry.contexts)), bool)
    has_cells[received[alone].indices, context[alone]] = True
    without_control = np.setdiff1d(np.arange(has_cells.shape[1]), context[screen.is_control])
    has_cells[:, without_control] = False
    pairs = np.argwhere(has_cells & (has_cells.sum(1, keepdims=True) > 1))
    rng = np.random.default_rng(seed)
    order = rng.permutation(pairs)
    order = order[places_within(order[:, 0]) > 0]  # the first of each perturbation is kept
    held = order[: round(fraction * len(pairs))]
    if fraction > 0 and not len(held):
        raise InputError(
            f"no pair of perturbation and context can be held out of {len(pairs)} at fraction "
            f"{fraction:g}: expected perturbations with cells of their own in several contexts "
            "that have control cells"
        )
    is_held = np.zeros_like(has_cells)
    is_held[tuple(held.T)] = True
    cell = np.repeat(np.arange(len(screen)), np.diff(received.indptr))
    is_test = np.zeros(len(screen), bool)
    is_test[cell[is_held[received.indices, context[cell]]]] = True
    split = np.where(rng.random(len(screen)) < valid, "valid", "train").astype(object)
    split[is_test] = "test"
    is_lost = np.asarray(received[~is_test].sum(0)).ravel() == 0
    split[is_test & (received @ is_lost)] = UNUSED
    return _by_cell(screen, split)


@checked
def data_efficiency(
    screen: Screen, *, fraction: Share, test: float = 0.3, valid: Share = 0.2, seed: Natural = 0
) -> pd.Series:
    """Train on a fraction of the combinations, and always test on the same others.

    As in `heldout_combinations` with the same seed, a fraction `test` of the combinations is held
    out, and a fraction `valid` of the other cells become validation cells. A `fraction` of the
    combinations not held out is trained on, between 0 (single perturbations and control alone) and
    1; the cells of the others are "unused".

    Examples
    --------
    >>> split = data_efficiency(screen, fraction=0.0, test=0.0)
    >>> sorted(split.unique())  # single perturbations and control alone are trained on
    ['train', 'unused', 'valid']
    """
    split = heldout_combinations(screen, fraction=test, valid=valid, seed=seed)
    rest = np.flatnonzero(split.to_numpy() != "test")
    is_used = ~screen.is_combination
    is_used[rest] |= _in_first_combinations(
        screen[rest], fraction, np.random.default_rng([seed, 1])
    )
    return split.where(is_used | (split == "test").to_numpy(), UNUSED)


@checked
def norman_ood(screen: Screen, *, fraction: Share, seed: Natural = 0) -> pd.Series:
    """Train on a fraction of the combinations and test on others, as the paper does (section 5.2).

    Cells with at most one perturbation are split 80/20 into training and validation, cells of
    combinations 64/16/20. Of the combinations, in random order, the first `fraction` keep their
    training and validation cells, the last quarter their test cells; all other cells of
    combinations are "unused". Up to a fraction of 0.75 no tested combination was seen; at 1 all
    were (the paper's reference). Combinations with a perturbation that no training cell has alone
    come first and are not tested, because nothing is learned of it at fraction 0. It is an error
    if there are fewer than two combinations, or none that can be tested.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=4, n_combinations=4, n_genes=20, seed=0)
    >>> screen = screen.with_split(norman_ood(screen, fraction=0.75))
    >>> set(screen.test.conditions) & set(screen.train.conditions)
    set()
    """
    rng, split, is_untestable = _norman(screen, seed)
    combinations = np.unique(screen.condition[screen.is_combination])
    if len(combinations) < 2:
        raise InputError(
            f"the screen has {len(combinations)} combinations: expected two or more, some to train "
            "on and some to test"
        )
    order = rng.permutation(combinations)
    order = order[np.argsort(~np.isin(order, screen.condition[is_untestable]), kind="stable")]
    n_used, n_untested = (round(share * len(order)) for share in (fraction, _TESTED_FROM))
    is_used = np.isin(screen.condition, order[:n_used])
    is_tested = np.isin(screen.condition, order[n_untested:]) & ~is_untestable
    is_kept = ~screen.is_combination | np.where(split == "test", is_tested, is_used)
    return _by_cell(screen, np.where(is_kept, split, UNUSED))


@checked
def norman_data_efficiency(screen: Screen, *, fraction: Share, seed: Natural = 0) -> pd.Series:
    """Train on a fraction of the cells of combinations, as the paper does (section 5.2).

    The cells are split as in `norman_ood`. A random `fraction` of the training cells of
    combinations, and of their validation cells, are kept; the others are "unused". The test cells
    are the same 20 % of the cells of combinations at every fraction, without combinations with a
    perturbation that no training cell has alone. It is an error if none can be tested.

    Examples
    --------
    >>> from samsvae.datasets import simulated_screen
    >>> screen = simulated_screen(n_perturbations=4, n_combinations=4, n_genes=20, seed=0)
    >>> none, half = (norman_data_efficiency(screen, fraction=f) for f in (0.0, 0.5))
    >>> int((none == "train").sum()) < int((half == "train").sum())
    True
    """
    rng, split, is_untestable = _norman(screen, seed)
    is_dropped = is_untestable & (split == "test")
    for name in ("train", "valid"):
        cells = rng.permutation(np.flatnonzero(screen.is_combination & (split == name)))
        is_dropped[cells[round(fraction * len(cells)) :]] = True
    return _by_cell(screen, np.where(is_dropped, UNUSED, split))


def _by_cell(screen: Screen, split: np.ndarray) -> pd.Series:
    return pd.Series(split.astype(object), index=screen.cells, name="split")


def _in_first_combinations(screen: Screen, fraction: Share, rng: np.random.Generator) -> np.ndarray:
    """Return `cell`: whether its condition is among the first combinations of a random order."""
    combinations = np.unique(screen.condition[screen.is_combination])
    if len(combinations) == 0:
        raise InputError("no combinations are left: no condition has several perturbations")
    order = rng.permutation(combinations)
    return np.isin(screen.condition, order[: round(fraction * len(order))])


def _split_within(
    screen: Screen,
    group: np.ndarray,
    seed: Natural,
    fractions: tuple[float, float, float],
    *,
    min_train: int,
) -> pd.Series:
    """Split the cells of each group (codes from 0) at random, with at least so many in training."""
    if len(fractions) != 3 or not (min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-9):
        raise InputError(f"fractions are {fractions}: expected three numbers that sum to 1")
    order = np.random.default_rng(seed).permutation(len(screen))
    place = np.empty(len(order), int)
    place[order] = places_within(group[order])
    ends = np.round(np.cumsum(fractions) * np.bincount(group)[:, None]).astype(int)
    first, second, _ = np.maximum(ends, min_train)[group].T
    split = np.select([place < first, place < second], ["train", "valid"], "test")
    return _by_cell(screen, split)


def _norman(screen: Screen, seed: Natural) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Return a generator, and `cell` its split and whether its combination cannot be tested.

    Both of the paper's experiments begin with the same split at the same seed. A combination cannot
    be tested if a part of it is in no training cell alone.
    """
    rng = np.random.default_rng(seed)
    combined = screen.is_combination
    if not combined.any():
        raise InputError("the screen has no combinations: no condition has several perturbations")
    split = np.full(len(screen), "train", object)
    for is_member, shares in ((~combined, (0.8, 1.0)), (combined, (0.64, 0.8))):
        order = rng.permutation(np.flatnonzero(is_member))
        first, second = (round(share * len(order)) for share in shares)
        split[order[first:second]] = "valid"
        split[order[second:]] = "test"
    received = screen.dosage != 0
    is_alone = received[~combined & (split == "train")].sum(0) > 0
    is_untestable = combined & (np.asarray(received @ ~np.ravel(is_alone)) > 0)
    if is_untestable[combined].all():
        raise InputError(
            "no combination can be tested: each has a perturbation that no training cell has "
            "alone. Expected cells with one perturbation of those that are combined"
        )
    if is_untestable.any():
        n, n_all = (len(np.unique(screen.condition[one])) for one in (is_untestable, combined))
        note(f"{n} of {n_all} combinations are not tested: a part of each is in no cell alone")
    return rng, split, is_untestable
