"""Checkpoints: an interrupted run goes on to the very numbers, and a spoiled file is refused."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import samsvae
from helpers.processes import SIGNALS
from helpers.saved_files import TIMES, Spoil, cut, newer
from helpers.screens import SMALL, make_adata, read
from samsvae.errors import LostProcessError
from samsvae.estimators import base
from samsvae.storage import tensors as files
from samsvae.train import loop, validator
from samsvae.train.processes import SingleProcess
from samsvae.train.step import PlainStep
from samsvae.train.validator import ValidElbo, valid_elbo

QUICK: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 60,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 1e-2,
    "validate_every": 10,
    "checkpoint_every": 7,
    "progress": False,
}


def fitted(screen: samsvae.Screen, path: Path, **settings: Any) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(**(QUICK | settings), checkpoint=path)


def stop_in_step(monkeypatch: pytest.MonkeyPatch, number: int, by: signal.Signals | None) -> None:
    taken = PlainStep.__call__
    numbers = iter(range(1, 1000))

    def stopped(step: PlainStep, *args: Any) -> dict[str, Tensor]:
        if next(numbers) == number:
            if by is None:
                raise RuntimeError("crash")
            signal.raise_signal(by)
        return taken(step, *args)

    monkeypatch.setattr(PlainStep, "__call__", stopped)


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, header = files.read(path)
    for row in header["history"]:
        del row[TIMES]
    return tensors, header


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[samsvae.SAMSVAE, Path]:
    path = tmp_path_factory.mktemp("whole") / "checkpoint"
    return fitted(read(make_adata()), path), path


def goes_on_like(
    uninterrupted: tuple[samsvae.SAMSVAE, Path],
    screen: samsvae.Screen,
    path: Path,
    **settings: Any,
) -> None:
    model, whole = uninterrupted
    resumed = fitted(screen, path, resume=True, **settings)
    ours, theirs = (m.history.drop(columns=TIMES) for m in (resumed, model))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert equal(resumed.module.state_dict(), model.module.state_dict())
    (our_tensors, our_header), (their_tensors, their_header) = contents(path), contents(whole)
    assert equal(our_tensors, their_tensors)
    assert our_header == their_header


def test_a_shorter_run_goes_on(
    uninterrupted: tuple[samsvae.SAMSVAE, Path], screen: samsvae.Screen, tmp_path: Path
) -> None:
    fitted(screen, tmp_path / "checkpoint", max_steps=30)
    goes_on_like(uninterrupted, screen, tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("by", "number"),
    [(None, 9), (None, 22), (None, 29), (None, 50), (signal.SIGINT, 33), (signal.SIGTERM, 40)],
)
def test_an_interrupted_run_goes_on(
    uninterrupted: tuple[samsvae.SAMSVAE, Path],
    screen: samsvae.Screen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: signal.Signals | None,
    number: int,
) -> None:
    path, handlers = tmp_path / "checkpoint", [signal.getsignal(s) for s in SIGNALS]
    message = "crash" if by is None else rf"after step {number} of 60; .*{path}: .*resume"
    with monkeypatch.context() as patched:
        stop_in_step(patched, number, by)
        with pytest.raises((RuntimeError, samsvae.TrainingInterrupted), match=message):
            fitted(screen, path)
    saved = number if by else (number - 1) // 7 * 7
    assert files.read(path)[1]["step"] == saved
    assert [signal.getsignal(s) for s in SIGNALS] == handlers
    goes_on_like(uninterrupted, screen, path)


def test_the_best_model_and_patience_go_on(
    screen: samsvae.Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(*args: Any) -> ValidElbo:
        elbo, mc_se = valid_elbo(*args)
        return ValidElbo(-elbo, mc_se)

    monkeypatch.setattr(validator, "valid_elbo", worse)
    whole = fitted(screen, tmp_path / "whole", max_steps=90)
    assert whole.history["valid_elbo"].idxmax() == 0
    assert whole.history["step"].iloc[-1] == 60
    fitted(screen, tmp_path / "part", max_steps=30)
    goes_on_like((whole, tmp_path / "whole"), screen, tmp_path / "part", max_steps=90)
    resumed = fitted(screen, tmp_path / "whole", max_steps=90, resume=True)  # it has ended
    assert resumed.history["step"].iloc[-1] == 60


def test_a_checkpoint_goes_on_on_any_device(
    uninterrupted: tuple[samsvae.SAMSVAE, Path], screen: samsvae.Screen, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    fitted(screen, path, max_steps=30)
    tensors, header = files.read(path)
    parts = {name.split(".")[0] for name in tensors}
    assert parts == {"model", "optimizer", "best"}  # and no state of a device's generator
    files.write(path, tensors, header | {"device": "cuda"})  # as those of before said
    goes_on_like(uninterrupted, screen, path)


def changed(change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Spoil:
    """Return what changes a checkpoint, and signs it anew."""

    def spoil(path: Path) -> None:
        tensors, header = files.read(path)
        del header["schema_version"]
        change(tensors, header)
        files.write(path, tensors, header)

    return spoil


def lacking(name: str) -> Spoil:
    return changed(lambda tensors, _: tensors.__delitem__(name))


def saying(name: str, value: Any) -> Spoil:
    return changed(lambda _, header: header.update({name: value}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 1.0), "not whole"),
        (lambda path: cut(path, 0.5), "not whole"),
        (lambda path: cut(path, 0.0), "not whole"),
        (lambda path: path.write_text("{}"), "not whole"),
        (
            lacking("optimizer.3.exp_avg"),
            r"of parameter 3 its optimiser holds 'exp_avg_sq', 'step'",
        ),
        (lacking("best.encoder.scale"), "its best model is not whole"),
        (saying("step", -5), "its step is -5"),
        (saying("history", [None]), r"its history\.0 is None"),
        (saying("latest_alignment", ["a"]), "its latest_alignment is a list"),
        (saying("since_rise", None), "its since_rise is None"),
        (saying("risen_elbo", "high"), "its risen_elbo is 'high'"),
        (newer, "schema version 8.*newer samsvae"),
        (lambda path: files.write(path, {}, {}), "not whole|not a checkpoint"),
    ],
    ids=[
        *("last byte", "half", "empty", "text", "optimiser", "best", "step", "history"),
        *("alignment", "evaluations", "ELBO"),
        *("newer", "not a checkpoint"),
    ],
)
def test_spoiled_checkpoint(
    screen: samsvae.Screen, tmp_path: Path, spoil: Spoil, message: str
) -> None:
    path = tmp_path / "checkpoint"
    fitted(screen, path, max_steps=7)
    spoil(path)
    with pytest.raises(samsvae.InputError, match=message):
        fitted(screen, path, resume=True)


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"seed": 1}, {}, "seed 0, not 1"),
        ({"batch_size": 32}, {}, "batch_size 64, not 32"),
        ({}, {"n_cells": 230}, "another model or other data"),
        ({}, {"n_genes": 13}, "another model or other data"),
        ({}, {"labels": ("control", "A", "B", "C", "D")}, "another model or other data"),
        ({}, {"seed": 1}, "other data"),
    ],
    ids=["seed", "batch size", "cells", "genes", "perturbations", "counts"],
)
def test_checkpoint_of_another_run(
    screen: samsvae.Screen,
    tmp_path: Path,
    settings: dict[str, int],
    data: dict[str, Any],
    message: str,
) -> None:
    fitted(screen, tmp_path / "checkpoint", max_steps=7)
    other = read(make_adata(**data))
    with pytest.raises(samsvae.InputError, match=message):
        fitted(other, tmp_path / "checkpoint", resume=True, **settings)


class Lost(SingleProcess):
    """One of several processes, of which another dies over an evaluation of validation cells."""

    def __init__(self, evaluation: int) -> None:
        self.left = evaluation
        self.steps_since = 0

    def sum(self, values: Sequence[Tensor], share: float | None = None) -> None:
        if share is not None:  # gradients are weighed
            self.steps_since += 1
            return
        self.left -= self.steps_since > 0  # an evaluation asks several times
        self.steps_since = 0
        if not self.left:
            raise LostProcessError("another process is gone")


@pytest.mark.parametrize(("alignment", "step"), [("none", 20), ("rotate", 20), ("rotate", 50)])
def test_a_process_lost_over_validation_loses_no_step(
    alignment: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, path = read(make_adata()), tmp_path / "checkpoint"
    often = {"alignment": alignment, "checkpoint_every": 1000}
    whole = fitted(screen, tmp_path / "whole", **often)
    monkeypatch.setattr(base, "processes", lambda _: nullcontext(Lost(step // 10)))
    with pytest.raises(LostProcessError, match=r"is gone; it is saved in .*resume=True"):
        fitted(screen, path, **often)
    monkeypatch.undo()
    assert files.read(path)[1]["step"] == step
    goes_on_like((whole, tmp_path / "whole"), screen, path, **often)


def test_a_process_lost_at_alignment_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half aligned is never saved."""
    screen, path = read(make_adata()), tmp_path / "checkpoint"

    def lost(*_: Any, **__: Any) -> None:
        raise LostProcessError("another process is gone")

    monkeypatch.setattr(loop, "align", lost)
    with pytest.raises(LostProcessError, match=r"is gone; it is saved in"):
        fitted(screen, path, alignment="rotate")
    monkeypatch.undo()
    assert files.read(path)[1]["step"] == 28
    monkeypatch.setattr(loop, "align", lost)
    with pytest.raises(LostProcessError, match=r"is gone$"):  # where there is none, none is named
        fitted(screen, tmp_path / "none", alignment="rotate", checkpoint_every=1000)
