"""Two commands at once: what is written belongs to one model, and to one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import samsvae
from helpers.command_line import Call, Done
from helpers.screens import make_adata
from samsvae.runs import jobs, run
from samsvae.storage.directory import Directory
from samsvae.storage.locks import only_writer

TRAIN = (
    "train data.h5ad --out out --split-key split --n-latent 3 --n-hidden 6 --no-progress "
    "--no-report --checkpoint-every 2"
)
EVALUATE = "evaluate out data.h5ad --no-baselines --no-progress --n-particles 4 --no-report"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_adata().write_h5ad(tmp_path / "data.h5ad")
    return tmp_path


@pytest.fixture
def trained(folder: Path, call: Call) -> Path:
    assert call(f"{TRAIN} --max-steps 4").code == 0
    return folder / "out"


def test_no_model_is_replaced_while_it_is_scored(
    trained: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of the old model were put beside the new one."""
    meanwhile: list[Done] = []
    score = jobs.score

    def slowly(*arguments: Any, **how: Any) -> Any:
        with monkeypatch.context() as patch:  # as another process, which has its own files open
            patch.setattr("samsvae.cli.console._LASTING", type("", (), {"close": lambda _: None})())
            meanwhile.append(call(f"{TRAIN} --max-steps 6 --overwrite"))
        return score(*arguments, **how)

    monkeypatch.setattr(jobs, "score", slowly)
    assert call(EVALUATE).code == 0
    (refused,) = meanwhile
    assert (refused.code, len(refused.errors)) == (2, 1)
    assert "another process is writing 'out'" in refused.errors[0]
    assert samsvae.load(trained).history["step"].iloc[-1] == 4
    assert call(f"{TRAIN} --max-steps 6 --overwrite").code == 0  # now it may
    assert not (trained / "metrics.json").exists()


@pytest.mark.parametrize("line", [EVALUATE, "report out data.h5ad --no-progress"])
def test_nothing_is_written_into_a_run_that_is_being_trained(
    line: str, trained: Path, call: Call
) -> None:
    before = sorted(trained.rglob("*"))
    with Directory(trained).held():
        done = call(line)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "another process is writing 'out'" in done.errors[0]
    assert sorted(trained.rglob("*")) == before


def test_scores_go_with_the_model_that_they_are_of(trained: Path, call: Call) -> None:
    assert call(EVALUATE.replace("--no-report", "")).code == 0
    names = {"scores.csv", "metrics.json", "effects.h5ad", "report.html"}
    assert names <= {path.name for path in trained.iterdir()}
    assert call(f"{TRAIN} --max-steps 4 --resume").code == 0  # the same model
    assert json.loads((trained / "metrics.json").read_text())["test"]["iwelbo"] < 0
    assert call(f"{TRAIN} --max-steps 8 --resume").code == 0
    assert not names & {path.name for path in trained.iterdir()}


def test_a_new_file_is_written_by_one_command(trained: Path, folder: Path, call: Call) -> None:
    lines = [
        "effects out A --no-progress --n-particles 4 --out new.csv",
        "simulate out A --n-cells 3 --out new.h5ad",
        "mechanisms out --out new.csv",
    ]
    for line in lines:
        new = folder / line.split()[-1]
        with only_writer(new):
            done = call(line)
        assert (done.code, len(done.errors)) == (2, 1), line
        assert f"another process is writing '{new.name}'" in done.errors[0]
        assert not new.exists()
        assert call(line).code == 0, line
        new.unlink()
    assert not list(folder.glob(".*.lock"))


def test_an_error_gives_the_lock_back(trained: Path, folder: Path, call: Call) -> None:
    for _ in range(2):
        done = call("effects out NONE --no-progress --out new.csv")
        assert (done.code, "another process" in done.errors[0]) == (2, False)
    shutil.rmtree(trained)
    assert "expected a run" in call(EVALUATE).errors[0]
    assert run.Run(trained).is_being_written is False
