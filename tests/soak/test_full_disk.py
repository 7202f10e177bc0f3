"""A full disk leaves a run as it was."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command_line import Call
from helpers.screens import make_adata

QUICK = (
    "data.h5ad --split-key split --n-latent 3 --n-hidden 6 --max-steps 6 --batch-size 64 "
    "--no-progress"
)
TRAIN = f"train {QUICK} --out out"
COMPARE = f"compare {QUICK} --out out --models cpa-vae --baselines none --seeds 1 --jobs 1"
DEMO = "demo --out out --no-progress"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_adata().write_h5ad(tmp_path / "data.h5ad")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, hidden ones too."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def on_a_full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def fails(folder: Path, line: str, before: Callable[[], None] | None = None) -> str:
    """Run a line of the command line that fails; return the one line that says why."""
    command = [sys.executable, "-m", "samsvae", *line.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, preexec_fn=before)
    errors = [one for one in done.stderr.splitlines() if not one.startswith("samsvae: note: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    return errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("line", [TRAIN, COMPARE, DEMO], ids=["train", "compare", "demo"])
def test_a_full_disk_leaves_the_old_run_whole(folder: Path, call: Call, line: str) -> None:
    assert call(TRAIN).code == 0
    (folder / "out" / "notes.txt").write_text("mine")
    before = content(folder)
    message = fails(folder, f"{line} --overwrite", on_a_full_disk)
    assert "cannot write out" in message
    assert message.endswith("'out' is as it was")
    assert content(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("line", [TRAIN, COMPARE, DEMO], ids=["train", "compare", "demo"])
def test_a_full_disk_leaves_no_new_directory(folder: Path, line: str) -> None:
    before = content(folder)
    message = fails(folder, line, on_a_full_disk)
    assert message.endswith("'out' was not made")
    assert content(folder) == before
    assert not (folder / "out").exists()
