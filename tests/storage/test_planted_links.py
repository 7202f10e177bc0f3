"""Links and pipes where names are looked for: what somebody planted in or beside a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae import InputError
from samsvae.runs.run import ExperimentDirectory
from samsvae.storage.directory import Directory
from samsvae.storage.files import write_text

TRAIN = "train data.h5ad --out run --split-key split --n-latent 3 --n-hidden 6 --no-progress"
LINES = {
    "resumed": f"{TRAIN} --max-steps 4 --resume",
    "replaced": f"{TRAIN} --max-steps 4 --overwrite",
    "asked": "effects run A --no-progress --n-particles 4",
    "reported": "report run data.h5ad --no-progress",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    make_adata().write_h5ad(folder / "data.h5ad")
    (folder / "victim").mkdir()
    (folder / "victim" / "private.txt").write_text("precious")
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once."""
    if not (folder / "run").exists():
        assert call(f"{TRAIN} --max-steps 2").code == 0
    return folder / "run"


PLANTED = {
    ".run.replaced-by-samsvae": ("victim", ("resumed", "replaced")),
    ".run.lock": ("victim/private.txt", ("resumed", "replaced")),
    "run/config.toml": ("victim/private.txt", ("resumed", "reported")),
    "run/screen.h5ad": ("victim/private.txt", ("resumed", "asked", "reported")),
    "run/report": ("victim", ("resumed", "asked", "reported")),
    "run/report/discoveries.csv": ("victim/private.txt", ("reported",)),
    "run/valid.json": ("victim/new.txt", ("resumed", "asked")),
}
"""Where a link stands, what it leads to, and in which commands its name is looked for."""


@pytest.mark.parametrize("name", PLANTED)
def test_no_link_is_followed(name: str, run: Path, folder: Path, call: Call) -> None:
    link, (target, commands) = folder / name, PLANTED[name]
    kept = folder / "kept"
    is_there = link.exists()
    if is_there:
        link.rename(kept)
    link.symlink_to(folder / target)
    try:
        for command in commands:
            done = call(LINES[command])
            assert (done.code, len(done.errors)) == (2, 1), (command, done)
            assert f"{name}' is a link, which is not followed" in done.errors[0]
        victim = {path.name: path.read_text() for path in (folder / "victim").iterdir()}
        assert victim == {"private.txt": "precious"}
    finally:
        link.unlink()
        if is_there:
            kept.rename(link)


def test_a_hard_link_in_the_place_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("precious")
    os.link(tmp_path / "private.txt", tmp_path / ".run.lock")
    with (
        pytest.raises(InputError, match=r"\.run\.lock' is a link"),
        Directory(tmp_path / "run").made(),
    ):
        pass
    assert (tmp_path / "private.txt").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_not_waited_for(run: Path, call: Call) -> None:
    (run / "model.json").rename(run / "kept")
    os.mkfifo(run / "model.json")
    try:
        done = call(LINES["asked"])
    finally:
        (run / "kept").replace(run / "model.json")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "model.json' is neither a file nor a directory" in done.errors[0]


@pytest.mark.parametrize("name", ["runs", "runs/a-seed0", "scores/a-seed0/scores.csv", "tables"])
def test_no_link_in_an_experiment_is_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "victim")
    directory = ExperimentDirectory(tmp_path / "out")
    with pytest.raises(InputError, match=f"{name}' is a link"), directory.made(resume=True):
        pass


def test_files_of_others_are_not_moved_through_a_link(tmp_path: Path) -> None:
    """An interrupted replacement: the new directory has a link where the old one had a folder."""
    place, old = tmp_path / "run", tmp_path / ".run.replaced-by-samsvae"
    write_text(old / "notes" / "mine.txt", "mine")
    (tmp_path / "victim").mkdir()
    place.mkdir()
    (place / "notes").symlink_to(tmp_path / "victim")
    with Directory(place).made(resume=True):
        pass
    assert list((tmp_path / "victim").iterdir()) == []


def test_no_link_is_followed_where_a_file_is_written_aside(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("precious")
    (tmp_path / f".table.{os.getpid()}.csv").symlink_to(tmp_path / "private.txt")
    write_text(tmp_path / "table.csv", "new")
    assert (tmp_path / "private.txt").read_text() == "precious"
    assert (tmp_path / "table.csv").read_text() == "new"
    assert not (tmp_path / "table.csv").is_symlink()
