"""A screen whose counts stay in a file: everything that is asked gives the numbers of memory."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import read_h5ad

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae import InputError, Screen, TrainingInterrupted
from samsvae.data import source as stored
from samsvae.estimators.base import Estimator
from samsvae.reproduce.prepare import prepare
from samsvae.settings.experiment import PreparationSettings
from samsvae.train import batches, loop, validator
from samsvae.train.batches import BlockOrder
from samsvae.train.validator import ValidElbo

TRAINING: dict[str, Any] = {"batch_size": 40, "validate_every": 10, "progress": False}
FLAT = ValidElbo(-1.0, 0.0)
QUICK: dict[str, Any] = {"n_particles": 50, "progress": False}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata = make_adata(n_cells=600)
    adata.X = sp.csr_matrix(adata.X)
    label = adata.obs["perturbation"].astype(str)
    adata.obs["guide"] = label + np.where(np.arange(600) // 5 % 2, "g1", "g2")
    path = tmp_path_factory.mktemp("on_disk") / "screen.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read few cells at a time, so that there are several blocks and windows."""
    monkeypatch.setattr(stored, "ROWS", 64)
    monkeypatch.setattr(batches, "BlockOrder", SmallBlocks)


class SmallBlocks(BlockOrder):
    """Windows that are much smaller than an epoch."""

    def __init__(self, n_cells: int, seed: int) -> None:
        super().__init__(n_cells, seed, block=8, window=64)


def opened(path: Path, *, in_memory: bool) -> Screen:
    return Screen.open(
        path, split_key="split", batch_key="batch", sgrna_key="guide", in_memory=in_memory
    )


def model_of(screen: Screen, steps: int = 60, **settings: Any) -> Estimator:
    model = samsvae.SAMSVAE(screen, **SMALL)
    return model.train(max_steps=steps, **TRAINING | settings)


def test_training_takes_the_same_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order of cells every number is that of training from memory, bit for bit."""
    ours = model_of(opened(path, in_memory=False))
    monkeypatch.setattr(
        loop, "order_of", lambda loader, seed: SmallBlocks(len(loader.screen), seed)
    )
    theirs = model_of(opened(path, in_memory=True))
    columns = [name for name in ours.history if name != "cells_per_second"]
    pd.testing.assert_frame_equal(ours.history[columns], theirs.history[columns], check_exact=True)
    state = theirs.module.state_dict()
    for name, value in ours.module.state_dict().items():
        assert value.equal(state[name]), name


def test_training_goes_on_in_the_middle_of_a_window(path: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    screen, whole = opened(path, in_memory=False), model_of(opened(path, in_memory=False))
    stopped = samsvae.SAMSVAE(screen, **SMALL)

    def stop() -> None:
        raise TrainingInterrupted("here")

    with pytest.raises(TrainingInterrupted):
        stopped.train_with(
            samsvae.TrainSettings(
                max_steps=60, checkpoint=checkpoint, checkpoint_every=13, **TRAINING
            ),
            saved=stop,
        )
    again = model_of(screen, checkpoint=checkpoint, resume=True)
    columns = [name for name in whole.history if name != "cells_per_second"]
    pd.testing.assert_frame_equal(again.history[columns], whole.history[columns], check_exact=True)
    with pytest.raises(InputError, match=r"in another order.*resume with in_memory as it was"):
        model_of(opened(path, in_memory=True), checkpoint=checkpoint, resume=True)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Let nothing be tidied up by chance."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_reading_ends_with_training(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends: at its end, by Ctrl-C, over an error in a file."""
    screen = opened(path, in_memory=False)
    model_of(screen, steps=4)
    assert not readers()
    windows = BlockOrder.windows

    def stopped(order: BlockOrder, *given: Any) -> Iterator[np.ndarray]:
        for i, window in enumerate(windows(order, *given)):
            if i == 2:
                raise InputError("the file is damaged")
            yield window

    monkeypatch.setattr(BlockOrder, "windows", stopped)
    with pytest.raises(InputError, match="the file is damaged") as error:
        model_of(screen)
    assert not readers(), error
    monkeypatch.undo()
    monkeypatch.setattr(
        validator, "valid_elbo", lambda *_: signal.raise_signal(signal.SIGINT) or FLAT
    )
    with pytest.raises(TrainingInterrupted) as stop:
        model_of(screen, steps=200)
    assert not readers(), stop


def readers() -> list[str]:
    """Return the threads that read ahead."""
    return [one.name for one in threading.enumerate() if one.name.startswith("ahead")]


@pytest.fixture(scope="module")
def trained(path: Path) -> Estimator:
    return model_of(opened(path, in_memory=True))


ASKED: dict[str, Callable[[Estimator, Screen], Any]] = {
    "iwelbo": lambda model, screen: model.iwelbo(screen.test, **QUICK),
    "latent": lambda model, screen: np.hstack(list(model.latent(screen).values())),
    "differential_expression": lambda model, screen: samsvae.differential_expression(screen),
    "evaluate": lambda model, screen: samsvae.evaluate(
        [model, samsvae.baselines.Additive(screen), samsvae.baselines.MatchingMean(screen)],
        screen,
        scale="log",
        n_particles=5,
        effect_particles=50,
        progress=False,
    ),
    "discoveries": lambda model, screen: samsvae.discoveries(model, screen, **QUICK),
    "by sgrna": lambda model, screen: samsvae.discoveries(model, screen, by="sgrna", **QUICK),
    "sgrnas": lambda model, screen: (
        samsvae.sgrnas(screen, n_permutations=29, progress=False).sgrnas
    ),
    "combinations": lambda model, screen: pd.concat(
        samsvae.combinations(model, screen, n_particles=50, progress=False)
    ),
    "predictive_check": lambda model, screen: (
        samsvae.predictive_check(
            model, screen.test, n_draws=3, effect_particles=50, progress=False
        ).replicated
    ),
    "summary": lambda model, screen: screen.summary(),
}


@pytest.mark.parametrize("name", ASKED)
def test_answers_are_those_of_memory(name: str, path: Path, trained: Estimator) -> None:
    found, known = (ASKED[name](trained, opened(path, in_memory=x)) for x in (False, True))
    if isinstance(known, pd.DataFrame):
        pd.testing.assert_frame_equal(found, known, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_allclose(np.asarray(found), np.asarray(known), rtol=1e-9)


@pytest.fixture
def never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody take all counts of a file into memory."""

    def refused(counts: stored.StoredCounts) -> None:
        raise AssertionError(f"{counts.shape[0]} cells at once")

    monkeypatch.setattr(stored.StoredCounts, "to_memory", refused)


@pytest.mark.usefixtures("never_whole")
def test_an_export_is_written_some_cells_at_a_time(path: Path, tmp_path: Path) -> None:
    found = {}
    for in_memory in (False, True):
        screen, folder = opened(path, in_memory=in_memory), tmp_path / str(in_memory)
        samsvae.export.cell_eval(samsvae.baselines.Additive(screen), screen, folder)
        found[in_memory] = [read_h5ad(folder / f"{name}.h5ad") for name in ("real", "pred")]
    for ours, theirs in zip(found[False], found[True], strict=True):
        pd.testing.assert_frame_equal(ours.obs, theirs.obs)
        np.testing.assert_allclose(ours.to_df(), theirs.to_df(), rtol=1e-12)


@pytest.mark.parametrize("name", ["norman", "replogle"])
@pytest.mark.usefixtures("never_whole")
def test_a_screen_is_prepared_some_cells_at_a_time(path: Path, name: str) -> None:
    loose = PreparationSettings(
        n_genes=5, min_cells=1, min_de_share=0.0, fdr=0.99, min_perturbation_share=0.01
    )
    ours, theirs = (prepare(name, opened(path, in_memory=x), loose) for x in (False, True))
    pd.testing.assert_frame_equal(ours.report, theirs.report)
    assert ours.screen.genes == theirs.screen.genes
    assert not ours.screen.is_in_memory
    assert ours.screen.digest == theirs.screen.digest


def test_a_model_made_from_a_file_is_the_same(path: Path) -> None:
    ours, theirs = (samsvae.SAMSVAE(opened(path, in_memory=x), **SMALL) for x in (False, True))
    assert repr(ours) == repr(theirs)
    for name, value in ours.module.state_dict().items():
        np.testing.assert_allclose(value, theirs.module.state_dict()[name], rtol=1e-6)
