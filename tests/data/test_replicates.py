"""Replicates of a screen, and the variance between them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from helpers.clones import N_CONDITIONS, screen_of_clones
from helpers.screens import make_adata, read
from samsvae import InputError, Screen
from samsvae.data.expression import expression, within_batches
from samsvae.data.fold_changes import FoldChanges, fold_changes
from samsvae.data.replicates import Replicates, variance_of_means


def with_clones() -> Screen:
    """Return a screen with two clones per condition."""
    adata = make_adata()
    second = np.where(np.arange(len(adata)) % 2, "a", "b")
    adata.obs["clone"] = adata.obs["perturbation"].astype(str) + second
    return read(adata, replicate_key="clone")


def test_replicates_stay_with_their_cells() -> None:
    screen = with_clones()
    names = np.asarray(screen.replicate)
    rows = np.random.default_rng(0).permutation(len(screen))[:50]
    np.testing.assert_array_equal(np.asarray(screen[rows].replicate), names[rows])
    np.testing.assert_array_equal(screen.to_anndata().obs["replicate"].astype(str), names)


def test_the_digest_is_of_the_replicates_too() -> None:
    screen = with_clones()
    adata = make_adata()
    assert read(adata).digest != screen.digest
    adata.obs["clone"] = "one"
    assert read(adata, replicate_key="clone").digest not in (read(adata).digest, screen.digest)


def test_cells_without_a_replicate() -> None:
    adata = make_adata()
    clone = adata.obs["perturbation"].astype(str).to_numpy(object)
    clone[:3] = None
    adata.obs["clone"] = clone
    with pytest.raises(InputError, match=r"'clone'.*lacks the replicate of 3 of \d+ cells"):
        read(adata, replicate_key="clone")
    with pytest.warns(UserWarning, match="3 without a label"):
        screen = read(adata, replicate_key="clone", drop_unlabelled=True)
    assert len(screen) == len(adata) - 3


def against_control(screen: Screen) -> FoldChanges:
    group = np.where(screen.is_control, -1, screen.condition - 1)
    return fold_changes(screen, group, screen.is_control, N_CONDITIONS)


def z_values(change: FoldChanges) -> np.ndarray:
    return change.difference / np.sqrt(change.variance)


@pytest.mark.parametrize("sd", [0.15, 0.4])
def test_differences_between_clones_enter_standard_errors(sd: float) -> None:
    plain, told = (
        np.concatenate(
            [z_values(against_control(screen_of_clones(seed, sd=sd, told=told))) for seed in (0, 1)]
        )
        for told in (False, True)
    )
    assert plain.std() > 1.3
    assert 0.9 < told.std() < 1.1
    assert (np.abs(told) > 3).mean() < 0.008


def test_clones_that_do_not_differ_change_little() -> None:
    change = against_control(screen_of_clones(0, sd=0.0))
    assert (change.between / change.variance).mean() < 0.1
    assert 0.9 < z_values(change).std() < 1.1


def test_one_clone_has_all_of_the_variance_of_others() -> None:
    n_clones = (8, 1, *[4] * (N_CONDITIONS - 1))
    change = against_control(screen_of_clones(0, sd=0.3, n_clones=n_clones))
    own = np.median(change.between - np.median(change.control_variance), 1)
    tau = (0.3 / np.log(2)) ** 2
    assert 0.7 < np.median(change.between[0]) / (tau * (1 + 1 / 8)) < 1.2
    assert 2 < own[0] / np.median(own[1:]) < 5


def test_single_clones_of_each_condition_say_nothing() -> None:
    screen = screen_of_clones(0, sd=0.3, n_clones=(1,) * (N_CONDITIONS + 1))
    with pytest.warns(UserWarning, match="no condition has two replicates"):
        change = against_control(screen)
    assert not change.between.any()
    np.testing.assert_array_equal(
        change.variance,
        against_control(
            screen_of_clones(0, sd=0.3, n_clones=(1,) * (N_CONDITIONS + 1), told=False)
        ).variance,
    )


@pytest.mark.parametrize("scale", ["log", "normalized"])
def test_means_on_other_scales(scale: str) -> None:
    z = []
    for seed in (0, 1):
        screen = screen_of_clones(seed, sd=0.4)
        values = expression(screen, scale)  # type: ignore[arg-type]
        group = np.where(screen.is_control, -1, screen.condition - 1)
        cells = group, screen.is_control, screen.batch, N_CONDITIONS
        sums, control, _ = within_batches(values, *cells)
        variance = sums.variance / sums.n_cells[:, None]
        variance = variance + control.squares / control.n_cells[:, None] ** 2
        of_group, of_control = variance_of_means(
            values, screen, group, screen.is_control, N_CONDITIONS
        )
        z.append((sums.mean - control.mean) / np.sqrt(variance + of_group + of_control))
    assert 0.88 < np.std(z) < 1.12


def test_shares_of_replicates() -> None:
    clone = pd.Categorical(list("aabc" + "xxy" + "z"))
    group = np.array([0, 0, 0, 0, -1, -1, -1, 1])
    control, batch = group == -1, np.array([0, 0, 0, 1, 0, 0, 1, 2])
    found = Replicates.of(clone, batch, group, control, 2, np.array([1.0, 1, 2, 4, 3, 1, 2, 5]))
    np.testing.assert_array_equal(found.group, [0, 0, 0, 2, 2])
    np.testing.assert_array_equal(found.of_cell, [0, 0, 1, 2, 3, 3, 4, -1])  # z: no control there
    np.testing.assert_allclose(found.weight, [0.25, 0.25, 0.5, 2 / 3, 1 / 3])
    np.testing.assert_allclose(found.squares, [0.375, 0])
    # Half of the group is in each batch, and each batch has one clone of control.
    np.testing.assert_allclose(found.squares_of_control, [0.5, 0])


def test_unknown_replicates_are_none() -> None:
    screen = screen_of_clones(0, sd=0.4, told=False)
    assert screen.replicate is None
    with warnings.catch_warnings(action="error"):
        assert not against_control(screen).between.any()
