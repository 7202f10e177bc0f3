"""A full disk leaves a run as it was."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from helpers.command_line import COMPARE_OUT, DEMO_OUT, TRAIN_OUT, Call, content, fails
from helpers.screens import make_adata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_adata().write_h5ad(tmp_path / "data.h5ad")
    return tmp_path


def on_a_full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [TRAIN_OUT, COMPARE_OUT, DEMO_OUT], ids=["train", "compare", "demo"]
)
def test_a_full_disk_leaves_the_old_run_whole(folder: Path, call: Call, line: str) -> None:
    assert call(TRAIN_OUT).code == 0
    (folder / "out" / "notes.txt").write_text("mine")
    before = content(folder)
    message = fails(folder, f"{line} --overwrite", on_a_full_disk)
    assert "cannot write out" in message
    assert message.endswith("'out' is as it was")
    assert content(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [TRAIN_OUT, COMPARE_OUT, DEMO_OUT], ids=["train", "compare", "demo"]
)
def test_a_full_disk_leaves_no_new_directory(folder: Path, line: str) -> None:
    before = content(folder)
    message = fails(folder, line, on_a_full_disk)
    assert message.endswith("'out' was not made")
    assert content(folder) == before
    assert not (folder / "out").exists()
