"""Files on which the HDF5 library hangs or crashes: a child process finds out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

import samsvae
from helpers.screens import make_adata
from samsvae import InputError
from samsvae.storage import probe

PROGRAMS = {
    "hangs": "import sys, time; sys.stdin.readline(); time.sleep(60)",
    "dies": "import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)",
    "is not to be had": "import sys; sys.exit(1)",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_adata().write_h5ad(tmp_path / "a 'file'.h5ad")
    return tmp_path / "a 'file'.h5ad"


@pytest.fixture
def walker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Replace the program that walks through files."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[request.param])
    probe._end()
    monkeypatch.setattr(probe, "_COMMAND", [sys.executable, str(program)])
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    yield
    probe._end()


@pytest.mark.usefixtures("walker")
@pytest.mark.parametrize(
    ("walker", "message"),
    [("hangs", "did not finish in 1 s"), ("dies", "the HDF5 library crashes on it")],
    indirect=["walker"],
)
def test_a_file_that_hangs_or_kills_is_told(message: str, path: Path) -> None:
    with pytest.raises(InputError, match=message):
        samsvae.read_h5ad(path)


@pytest.mark.usefixtures("walker")
@pytest.mark.parametrize("walker", ["is not to be had"], indirect=True)
def test_without_another_process_files_are_read(path: Path) -> None:
    assert len(samsvae.read_h5ad(path)) == 240


ENDLESS = """
from samsvae.storage import probe
def walk(path):
    while True:
        pass
probe.walk = walk
probe.main()
"""


def test_a_process_whose_parent_was_killed_ends_in_time() -> None:
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"1 /a file\n")
        process.stdin.flush()
        assert process.wait(30) == -signal.SIGALRM


def test_one_process_walks_through_all_files(path: Path, tmp_path: Path) -> None:
    paths = [shutil.copy(path, tmp_path / f"{i}.h5ad") for i in range(3)]
    for one in paths[:2]:
        samsvae.read_h5ad(one)
    child = probe._CHILDREN[os.getpid()]
    assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)  # by whomever: the next file gets another
    child.wait()
    assert len(samsvae.read_h5ad(paths[2])) == 240
    assert probe._CHILDREN[os.getpid()].pid != child.pid


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the files that are walked through from now on."""
    names: list[bytes] = []

    def answer(child: object, name: bytes, seconds: float) -> bytes:
        names.append(name)
        return b"ok\n"

    monkeypatch.setattr(probe, "_answer", answer)
    return names


@pytest.mark.parametrize("same_process", [True, False])
def test_a_file_is_walked_through_once(path: Path, walked: list, same_process: bool) -> None:
    for _ in range(3):
        samsvae.read_h5ad(path)
        if not same_process:
            probe._PASSED.clear()
    assert walked == [os.fsencode(path)]


def test_a_file_that_changed_is_walked_through_again(path: Path, walked: list) -> None:
    samsvae.read_h5ad(path)
    os.utime(path, (1, 1))
    samsvae.read_h5ad(path)
    assert len(walked) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(
    path: Path, walked: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(probe, "_note_of", lambda identity: tmp_path / "file" / identity)
    for _ in range(2):
        assert len(samsvae.read_h5ad(path)) == 240
    assert len(walked) == 1


def test_what_is_only_damaged_is_told_as_before(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as h5ad"):
        samsvae.read_h5ad(path)


def nested(path: Path, where: str, depth: int) -> None:
    """Nest groups in a file, of which each level takes longer than the one before."""
    with h5py.File(path, "r+") as file:
        group = file[where]
        for _ in range(depth):
            group = group.create_group("a")


@pytest.mark.parametrize("where", ["uns", "obsm"])
def test_groups_nested_deeply_are_not_walked_to_their_end(where: str, path: Path) -> None:
    nested(path, where, 1000)
    start = time.process_time()
    assert len(samsvae.read_h5ad(path)) == 240
    child = probe._CHILDREN[os.getpid()]
    assert child.poll() is None
    assert time.process_time() - start < 5
    if where == "uns":
        probe.walk(str(path))
    else:
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            probe.walk(str(path))


def test_a_structure_is_walked_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but what is not ours, also in the modalities."""
    with h5py.File(path, "r+") as file:
        file.copy(file["obs"], file.create_group("mod").create_group("rna"), "obs")
        file["mod/rna/uns/x"] = file["uns/x"] = file["obsm/x"] = [1.0]
    seen: list[str] = []
    monkeypatch.setattr(probe, "_look_at", lambda name, node: seen.append(node.name))
    probe.walk(str(path))
    assert {"/", "/X", "/obs/split/codes", "/mod/rna/obs/split/codes", "/obsm/x"} <= {*seen}
    assert not any("uns" in name for name in seen)
