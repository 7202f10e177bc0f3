"""Files that outlive a run: checkpoints that go on to the very numbers, and saved models."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import Tensor

import samsvae
from conftest import SMALL, make_adata
from samsvae.storage import tensors as files
from samsvae.train import loop
from samsvae.train.step import PlainStep
from samsvae.train.validation import valid_elbo

Spoil = Callable[[Path], object]

QUICK: dict[str, Any] = {
    "max_steps": 60,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 1e-2,
    "validate_every": 10,
    "checkpoint_every": 7,
    "progress": False,
}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
MODEL, NAMES, CHECKPOINT = "model.safetensors", "model.json", "checkpoint.safetensors"
SIGNALS = [signal.SIGINT, signal.SIGTERM]
TIMES = "cells_per_second"


def screen_of(adata: AnnData) -> samsvae.Screen:
    return samsvae.Screen.from_anndata(adata, split_key="split")


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
    return fitted(screen_of(make_adata()), path), path


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
    monkeypatch.setattr(loop, "valid_elbo", lambda *args: -valid_elbo(*args))
    whole = fitted(screen, tmp_path / "whole", patience=4)
    assert whole.history["valid_elbo"].idxmax() == 0
    assert whole.history["step"].iloc[-1] == 50
    fitted(screen, tmp_path / "part", patience=4, max_steps=30)
    goes_on_like((whole, tmp_path / "whole"), screen, tmp_path / "part", patience=4)


def command(folder: Path, *more: str) -> list[str]:
    settings = {
        **SMALL,
        "checkpoint_every": 7,
        "validate_every": 10,
        "batch_size": 64,
        "n_particles": 2,
    }
    return [
        str(Path(sys.executable).parent / "samsvae"),
        *("train", str(folder.parent / "data.h5ad"), "--out", str(folder)),
        *("--split-key", "split", "--no-progress", "--max-steps", "200"),
        *(f"--set={name}={value}" for name, value in settings.items()),
        *more,
    ]


def printed_by(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=ONE_THREAD)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_adata().write_h5ad(folder / "data.h5ad")
    printed_by(*command(folder / "whole"))
    return folder / "whole"


def signalled(run: Path, number: signal.Signals) -> tuple[int, str]:
    process = subprocess.Popen(command(run), stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (run / CHECKPOINT).exists():
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert not (run / NAMES).exists(), "training was over before the signal: nothing is tested"
    return process.returncode, message


@pytest.mark.slow
def test_a_killed_process_goes_on(whole_run: Path) -> None:
    run = whole_run.with_name("killed")
    assert signalled(run, signal.SIGKILL) == (-signal.SIGKILL, "")
    assert files.read(run / CHECKPOINT)[1]["step"] in range(7, 200, 7)
    printed_by(*command(run, "--resume"))
    assert (run / MODEL).read_bytes() == (whole_run / MODEL).read_bytes()
    ours, theirs = (pd.read_csv(r / "history.csv") for r in (run, whole_run))
    pd.testing.assert_frame_equal(ours.drop(columns=TIMES), theirs.drop(columns=TIMES))


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_process_says_how_to_go_on(whole_run: Path, number: signal.Signals) -> None:
    run = whole_run.with_name(number.name)
    code, message = signalled(run, number)
    assert code == 130
    step = files.read(run / CHECKPOINT)[1]["step"]
    assert re.fullmatch(f"samsvae: .*after step {step} of 200; .*resume\n", message)
    assert str(run / CHECKPOINT) in message


def newer(path: Path) -> None:
    tensors, header = files.read(path)
    files.write(path, tensors, header | {"schema_version": files.SCHEMA_VERSION + 1})


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: min(len(data) - 1, int(share * len(data)))])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 1.0), "not whole"),
        (lambda path: cut(path, 0.5), "not whole"),
        (lambda path: cut(path, 0.0), "not whole"),
        (lambda path: path.write_text("{}"), "not whole"),
        (newer, "schema version 5.*newer samsvae"),
        (lambda path: files.write(path, {}, {}), "not whole|not a checkpoint"),
    ],
    ids=["last byte", "half", "empty", "text", "newer", "not a checkpoint"],
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
    other = screen_of(make_adata(**data))
    with pytest.raises(samsvae.InputError, match=message):
        fitted(other, tmp_path / "checkpoint", resume=True, **settings)


@pytest.fixture(scope="module")
def saved(trained: samsvae.SAMSVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder)
    return folder


def answers(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> dict[str, np.ndarray]:
    effects = model.effects(["A", "C+B"], n_particles=20, n_draws=5, progress=False)
    return {
        "effects": effects.X,
        **{name: effects.layers[name] for name in ("mc_se", "lower", "upper")},
        "n_train_cells": effects.obs["n_train_cells"].to_numpy(),
        "iwelbo": model.iwelbo(screen.test, n_particles=5, progress=False).to_numpy(),
        "mask": model.mask_probabilities().to_numpy(),
        "embeddings": model.embeddings().to_numpy(),
        "counts": model.simulate("A", n_cells=5).X.toarray(),
        "history": model.history.to_numpy(),
    }


def test_loaded_model_answers_alike(
    trained: samsvae.SAMSVAE, saved: Path, screen: samsvae.Screen
) -> None:
    ours, theirs = answers(samsvae.load(saved), screen), answers(trained, screen)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert samsvae.load(saved).hyperparameters == trained.hyperparameters


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def of_another_model(path: Path) -> None:
    tensors, _ = files.read(path)
    tensors["model.mechanism.mask.logits"] += 1e-3
    files.write(path, tensors, {})


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        *((name, lambda p: cut(p, 1.0), "not whole") for name in (NAMES, MODEL)),
        *((name, lambda p: cut(p, 0.5), "not whole") for name in (NAMES, MODEL)),
        *((name, lambda p: cut(p, 0.0), "not whole") for name in (NAMES, MODEL)),
        *((name, Path.unlink, "no (file|saved model).*{}") for name in (NAMES, MODEL)),
        (NAMES, lambda p: edit(p, schema_version=5), "schema version 5.*newer samsvae"),
        (MODEL, newer, "schema version 5.*newer samsvae"),
        (NAMES, lambda p: edit(p, tensors="0"), "do not belong together"),
        (MODEL, of_another_model, "do not belong together"),
        (NAMES, lambda p: edit(p, schema_version=1), "schema version 1.*train the model anew"),
        (NAMES, lambda p: edit(p, estimator="sam-vae"), "no model 'sam-vae'.*'sams-vae'"),
    ],
)
def test_spoiled_model(saved: Path, tmp_path: Path, name: str, spoil: Spoil, message: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "copy")
    samsvae.load(folder)
    spoil(folder / name)
    with pytest.raises(samsvae.InputError, match=message.format(name)) as caught:
        samsvae.load(folder)
    assert "\n" not in str(caught.value)


def test_genes_are_matched_by_name(trained: samsvae.SAMSVAE, adata: AnnData) -> None:
    def iwelbo(data: AnnData) -> pd.DataFrame:
        return trained.iwelbo(screen_of(data), n_particles=5, progress=False)

    wanted = iwelbo(adata)
    pd.testing.assert_frame_equal(iwelbo(adata[:, ::-1].copy()), wanted, check_exact=True)
    more = make_adata(n_genes=14)
    more.var_names = ["x", "y", *adata.var_names]
    more.X[:, 2:] = adata.X
    with pytest.warns(UserWarning, match="^2 genes .* ignored"):
        pd.testing.assert_frame_equal(iwelbo(more), wanted, check_exact=True)
    with pytest.raises(samsvae.InputError, match="lack 1 of the model's 12 genes: 'g3'"):
        iwelbo(adata[:, adata.var_names != "g3"].copy())


FULL_DISK = """
import resource, signal, sys, samsvae
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, other, limit = sys.argv[1:]
model = samsvae.load(other)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
try:
    model.save(folder)
except samsvae.InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", ["neither file", "the tensors alone"])
def test_full_disk_leaves_the_old_model(tmp_path: Path, room: str) -> None:
    adata = make_adata()
    adata.var_names = [name * 5000 for name in adata.var_names]  # so model.json is the larger file
    tiny = {"n_latent": 1, "n_hidden": 2, "n_hidden_embedding": 2}
    for seed, folder in enumerate([tmp_path / "old", tmp_path / "new"]):
        model = samsvae.SAMSVAE(screen_of(adata), **tiny)
        model.train(**(QUICK | {"max_steps": 1, "seed": seed})).save(folder)
    size = (tmp_path / "old" / MODEL).stat().st_size
    assert size + 1000 < (tmp_path / "old" / NAMES).stat().st_size
    limit = size // 2 if room == "neither file" else size + 1000
    before = samsvae.load(tmp_path / "old").mask_probabilities()
    script = (sys.executable, "-c", FULL_DISK, tmp_path / "old", tmp_path / "new", str(limit))
    assert re.fullmatch(f"cannot write {tmp_path}/old/model.*: .*unchanged\n", printed_by(*script))
    assert {path.name for path in (tmp_path / "old").iterdir()} == {MODEL, NAMES}
    pd.testing.assert_frame_equal(samsvae.load(tmp_path / "old").mask_probabilities(), before)


def test_nothing_is_pickled() -> None:
    files = list(Path(samsvae.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = {
                getattr(node, field, None) for field in ("name", "attr", "id", "arg", "module")
            }
            assert not any("pickle" in str(name) for name in names), file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, (
                    file
                )
