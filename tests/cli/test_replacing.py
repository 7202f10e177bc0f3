"""A run that is there is replaced by a better one or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import samsvae
from helpers.command_line import COMPARE_OUT, TRAIN_OUT, Call, content
from helpers.screens import make_adata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_adata().write_h5ad(tmp_path / "data.h5ad")
    return tmp_path


def test_training_that_fails_leaves_the_old_run_whole(folder: Path, call: Call) -> None:
    assert call(TRAIN_OUT).code == 0
    before = content(folder)
    line = TRAIN_OUT.replace("--max-steps 6", "--max-steps 200").replace(
        "--n-hidden 6", "--n-hidden 50"
    )
    done = call(f"{line} --overwrite --learning-rate 0.99 --no-scale-learning-rate")
    assert done.code == 1
    assert "not finite" in done.errors[0]
    assert content(folder) == before


def test_a_new_run_replaces_the_old_one_and_keeps_files_of_others(folder: Path, call: Call) -> None:
    assert call(f"{TRAIN_OUT} --batch-key batch").code == 0
    assert (
        call("evaluate out data.h5ad --no-progress --n-particles 5 --effect-particles 20").code == 0
    )
    (folder / "out" / "notes.txt").write_text("mine")
    assert call(f"{TRAIN_OUT} --overwrite --seed 1").code == 0
    names = {path.name for path in (folder / "out").iterdir()}
    assert "scores.csv" not in names  # of the model that is gone
    assert (folder / "out" / "notes.txt").read_text() == "mine"
    assert samsvae.load(folder / "out").metadata.registry.batches == ()
    assert sorted(os.listdir(folder)) == ["data.h5ad", "out"]


def test_the_data_in_a_run_directory_survive_its_replacement(folder: Path, call: Call) -> None:
    assert call(TRAIN_OUT).code == 0
    shutil.move(folder / "data.h5ad", folder / "out" / "data.h5ad")
    assert call(f"{TRAIN_OUT.replace('data.h5ad', 'out/data.h5ad')} --overwrite").code == 0
    assert (folder / "out" / "data.h5ad").exists()


def test_a_read_only_directory_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out").mkdir()
    (folder / "out").chmod(0o555)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for anyone but root
    monkeypatch.chdir(folder)
    from samsvae.runs.run import Run

    with pytest.raises(samsvae.InputError, match="'out' is read-only"):
        Run(Path("out")).check_new(overwrite=True, resume=False)


def test_a_saved_model_without_a_run_is_not_resumed_into(folder: Path, call: Call) -> None:
    assert call(TRAIN_OUT).code == 0
    (folder / "out" / "config.toml").unlink()
    (folder / "out" / "checkpoint.safetensors").unlink()
    before = content(folder)
    done = call(f"{TRAIN_OUT} --resume")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "no run to go on with in 'out'" in done.errors[0]
    assert content(folder) == before


def test_a_comparison_goes_on_with_a_model_that_is_not_there(folder: Path, call: Call) -> None:
    assert call(COMPARE_OUT).code == 0
    assert samsvae.load(folder / "out" / "runs" / "cpa-vae-seed0").is_trained
    for kind in ("runs", "scores"):
        shutil.rmtree(folder / "out" / kind / "cpa-vae-seed0")
    done = call(f"{COMPARE_OUT} --resume")
    assert (done.code, done.errors) == (0, [])
    assert "jobs were done before" in done.out
    assert (folder / "out" / "scores" / "cpa-vae-seed0" / "scores.csv").exists()
