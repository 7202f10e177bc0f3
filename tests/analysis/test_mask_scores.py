"""Overlap and correlation of masks and states, over every order of the latent dimensions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import (
    f1_score,
    jaccard_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from helpers.masks import masks, over_orders
from helpers.messages import fails
from samsvae.analysis.agreement import (
    chance_f1,
    mask_jaccard,
    mask_matthews,
    mask_score,
    matched_overlap,
    mean_correlation,
    shift_agreement,
)

SHAPES = [((9, 4), (9, 4)), ((9, 5), (9, 3)), ((9, 3), (9, 5)), ((1, 4), (1, 4))]


@pytest.mark.parametrize(("first", "second"), SHAPES)
def test_masks_are_matched_as_well_as_any_order_does(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    a, b = masks(*first, seed=0), masks(*second, seed=10)
    a[0], b[0] = True, True  # every dimension is used
    assert matched_overlap(a, b) == over_orders(a, b, lambda x, y: int((x & y).sum()))
    assert mask_jaccard(a, b) == pytest.approx(over_orders(a, b, jaccard_score))
    if len(a) > 1:
        best = over_orders(a, b, matthews_corrcoef)
        assert mask_matthews(a, b) == pytest.approx(best)


def test_the_matthews_correlation_tells_chance_from_recovery() -> None:
    true = masks(40, 6, seed=0, share=0.3)
    unused = np.zeros((40, 7), bool)
    other = masks(40, 6, seed=1, share=0.3)
    assert mask_matthews(true[:, [3, 0, 5, 1, 4, 2]], true) == 1
    assert mask_matthews(np.hstack([unused, true]), true) == 1
    assert mask_matthews(np.hstack([unused, other]), true) == mask_matthews(other, true)
    assert mask_matthews(np.ones_like(true), true) == 0 < mask_score(np.ones_like(true), true).f1
    assert mask_matthews(np.zeros_like(true), true) == 0
    assert mask_matthews(other, np.zeros_like(true)) == 0


def test_the_mean_correlation_is_that_of_the_best_match() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 3))
    fitted = true @ rng.normal(size=(3, 4)) + rng.normal(size=(50, 4))
    r = np.abs(np.corrcoef(fitted.T, true.T)[:4, 4:])
    by_hand = max(r[list(p), range(3)].mean() for p in itertools.permutations(range(4), 3))
    assert mean_correlation(fitted, true) == pytest.approx(by_hand)
    narrow = max(r[range(2), list(p)].sum() for p in itertools.permutations(range(3), 2)) / 3
    assert mean_correlation(fitted[:, :2], true) == pytest.approx(narrow)


def test_states_are_recovered_up_to_order_sign_scale_and_origin() -> None:
    true = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    fitted = true[:, [2, 0, 1]] * np.array([-3.0, 0.1, 2.0]) + 7
    assert mean_correlation(fitted, true) == pytest.approx(1)
    constant = np.where([True, False, False], fitted, 0.1)
    best = np.abs(np.corrcoef(fitted[:, 0], true.T)[0, 1:]).max()
    assert mean_correlation(constant, true) == pytest.approx(best / 3)
    assert mean_correlation(np.full_like(true, 0.1), true) == 0
    fails(
        lambda: mean_correlation(fitted[1:], true), "^got fitted states of 29 cells and true .* 30"
    )


def test_the_ends_of_the_jaccard_index() -> None:
    mask = masks(20, 5, seed=0)
    assert mask_jaccard(mask[:, ::-1], mask) == 1
    assert mask_jaccard(np.hstack([mask, np.zeros((20, 3), bool)]), mask) == 1
    above = np.arange(20)[:, None] < 10
    assert mask_jaccard(mask & above, mask & ~above) == 0
    assert mask_jaccard(mask & False, mask) == 0
    assert np.isnan(mask_jaccard(mask & False, mask & False))


def test_mask_score_matches_dimensions_in_any_order() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((30, 6)) < 0.3
    assert mask_score(true[:, rng.permutation(6)], true).f1 == 1
    wide = np.hstack([np.zeros((30, 5), bool), true])
    assert mask_score(wide, true).f1 == 1
    wide[:4, 0] = True
    spoiled = mask_score(wide, true)
    assert spoiled.precision == pytest.approx(true.sum() / (true.sum() + 4))
    assert spoiled.recall == 1


def test_mask_score_equals_scikit_learn_without_matching() -> None:
    true = np.eye(8, dtype=bool)
    fitted = true.copy()
    fitted[0, 0], fitted[1, 0], fitted[2, 3] = False, True, True
    ours = mask_score(fitted, true)
    arguments = (true.ravel(), fitted.ravel())
    assert ours.f1 == pytest.approx(f1_score(*arguments))
    assert ours.precision == pytest.approx(precision_score(*arguments))
    assert ours.recall == pytest.approx(recall_score(*arguments))


def test_chance_is_worse_than_the_truth_and_an_empty_mask_scores_zero() -> None:
    true = np.random.default_rng(0).random((30, 6)) < 0.2
    assert chance_f1(true, true) < 0.6
    assert mask_score(np.zeros_like(true), true) == (0, 0, 0)


def test_shifts_agree_axis_by_axis_or_after_a_rotation() -> None:
    rng = np.random.default_rng(0)
    shift = rng.normal(size=(20, 4)) * (rng.random((20, 4)) < 0.4)
    order, sign = rng.permutation(4), np.array([1, -1, -1, 1])
    assert shift_agreement(shift, shift[:, order] * sign) == pytest.approx((1, 1))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    matched, rotated = shift_agreement(shift, 3 * shift @ turn)
    assert rotated == pytest.approx(1)
    assert matched < 0.9
    wide = np.hstack([np.zeros((20, 3)), shift])
    assert shift_agreement(shift, wide) == pytest.approx((1, 1))
    assert np.isnan(shift_agreement(shift, 0 * shift)).all()
