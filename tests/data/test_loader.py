"""Minibatches: the screen's own rows, as lists of the perturbations present."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import samsvae
from helpers.doses import N_CELLS, ROWS, SCREEN, dense
from helpers.screens import make_adata
from samsvae.data.loader import Loader
from samsvae.train.batches import EpochOrder
from samsvae.types import Batch


@pytest.mark.parametrize("rows", ROWS, ids=["all", "slice", "positions", "one", "controls"])
def test_batch_is_the_rows_of_the_screen(rows: np.ndarray | slice) -> None:
    batch = Loader(SCREEN).batch(rows)
    np.testing.assert_array_equal(batch.counts, SCREEN.counts.toarray()[rows])
    np.testing.assert_array_equal(batch.library_size, SCREEN.library_size[rows].astype("f4"))
    np.testing.assert_array_equal(batch.covariates, np.eye(2)[SCREEN.batch[rows]])
    received = dense(batch.dosage, len(SCREEN.perturbations))
    np.testing.assert_array_equal(received, SCREEN.dosage.toarray()[rows])
    floats = (batch.counts, batch.library_size, batch.covariates, batch.dosage.dose)
    assert {values.dtype for values in floats} == {torch.float32}
    assert batch.dosage.columns.dtype == batch.dosage.position.dtype == torch.int64


@pytest.mark.parametrize(
    ("conditions", "listed"),
    [
        (["C@3", "control"], ["C"]),
        (["B@0.5", "C@3"], ["B", "C"]),
        (["A@4+B@2", "A"], ["A", "B"]),
    ],
)
def test_only_perturbations_present_are_listed(conditions: list[str], listed: list[str]) -> None:
    positions = [SCREEN.condition_names.index(name) for name in conditions]
    batch = Loader(SCREEN).batch(np.flatnonzero(np.isin(SCREEN.condition, positions)))
    assert [SCREEN.perturbations[i] for i in batch.dosage.columns] == listed
    n_t = SCREEN.cells_per_perturbation[batch.dosage.columns]
    np.testing.assert_array_equal(batch.cells_per_column, n_t)


def test_batch_of_controls_alone() -> None:
    batch = Loader(SCREEN).batch(np.flatnonzero(SCREEN.is_control))
    assert batch.dosage.dose.shape == (12, 2)
    assert not batch.dosage.dose.any()
    assert not batch.dosage.position.any()
    assert len(batch.dosage.columns) == 1  # an empty slot still points at something


def test_screen_of_controls_alone() -> None:
    batch = Loader(SCREEN.control).batch(slice(None))
    assert batch.dosage.dose.shape == (12, 0)
    assert (batch.cells_per_column > 0).all()  # it is divided by


def test_cells_per_perturbation_are_those_of_the_split() -> None:
    for part in (SCREEN, SCREEN.train, SCREEN.valid):
        batch = Loader(part).batch(slice(0, 5))
        n_t = (part.dosage.toarray() > 0).sum(0)
        assert list(batch.dosage.columns) == [0, 1, 2]
        np.testing.assert_array_equal(batch.cells_per_column, n_t)
    assert not np.array_equal(
        SCREEN.train.cells_per_perturbation, SCREEN.valid.cells_per_perturbation
    )


def test_covariates_without_batches_have_width_0() -> None:
    screen = samsvae.Screen.from_anndata(make_adata(n_cells=N_CELLS))
    assert Loader(screen).batch(slice(3)).covariates.shape == (3, 0)


def test_covariates_keep_their_place_where_a_batch_is_absent() -> None:
    second = Loader(SCREEN[SCREEN.batch == 1]).batch(slice(3)).covariates
    np.testing.assert_array_equal(second, [[0, 1]] * 3)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 100])
def test_in_order_yields_all_cells_once(batch_size: int) -> None:
    batches: list[Batch] = list(Loader(SCREEN).in_order(batch_size))
    assert max(len(batch.counts) for batch in batches) == min(batch_size, N_CELLS)
    counts = torch.cat([batch.counts for batch in batches])
    np.testing.assert_array_equal(counts, SCREEN.counts.toarray())


@given(st.integers(1, 25), st.integers(1, 30), st.integers(0, 2**31))
@settings(deadline=None)
def test_each_cell_once_per_epoch(n_cells: int, batch_size: int, seed: int) -> None:
    order = EpochOrder(n_cells, seed)
    n_epochs = 4
    n_steps = -(-n_epochs * n_cells // min(batch_size, n_cells))
    batches = [order.of_step(step, batch_size) for step in range(n_steps)]
    assert {len(rows) for rows in batches} == {min(batch_size, n_cells)}
    stream = np.concatenate(batches)[: n_epochs * n_cells].reshape(n_epochs, n_cells)
    np.testing.assert_array_equal(np.sort(stream, 1), [np.arange(n_cells)] * n_epochs)


@given(st.integers(1, 25), st.integers(1, 30), st.lists(st.integers(0, 40), min_size=1))
@settings(deadline=None)
def test_rows_are_a_function_of_the_step(n_cells: int, batch_size: int, steps: list[int]) -> None:
    used = EpochOrder(n_cells, 5)
    for step in steps:
        fresh = EpochOrder(n_cells, 5).of_step(step, batch_size)
        np.testing.assert_array_equal(used.of_step(step, batch_size), fresh)


def test_epochs_and_seeds_have_their_own_order() -> None:
    streams = [EpochOrder(N_CELLS, seed) for seed in (0, 1)]
    orders = [stream.of_step(step, N_CELLS) for step in (0, 1) for stream in streams]
    assert len({tuple(order) for order in orders}) == 4
    assert tuple(np.arange(N_CELLS)) not in {tuple(order) for order in orders}


def test_batch_size_above_the_number_of_cells_takes_all() -> None:
    order = EpochOrder(7, seed=0)
    for step in range(3):
        assert sorted(order.of_step(step, 512)) == list(range(7))
