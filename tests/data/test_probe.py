"""Files over which the HDF5 library hangs or dies: another process finds out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import samsvae
from helpers.screens import make_adata
from samsvae import InputError
from samsvae.data.files import probe

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
    """Put another program in the place of the one that walks through files."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[request.param])
    probe._end()
    monkeypatch.setattr(probe, "walker", SimpleNamespace(__file__=program))
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    yield
    probe._end()


@pytest.mark.usefixtures("walker")
@pytest.mark.parametrize(
    ("walker", "message"),
    [("hangs", "did not come to an end in 1 s"), ("dies", "the HDF5 library crashes over it")],
    indirect=["walker"],
)
def test_a_file_that_hangs_or_kills_is_told(message: str, path: Path) -> None:
    with pytest.raises(InputError, match=message):
        samsvae.read_h5ad(path)


@pytest.mark.usefixtures("walker")
@pytest.mark.parametrize("walker", ["is not to be had"], indirect=True)
def test_without_another_process_files_are_read(path: Path) -> None:
    assert len(samsvae.read_h5ad(path)) == 240


def test_one_process_walks_through_all_files(path: Path) -> None:
    for _ in range(2):
        samsvae.read_h5ad(path)
    child = probe._CHILDREN[os.getpid()]
    assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)  # by whomever: the next file has another
    child.wait()
    assert len(samsvae.read_h5ad(path)) == 240
    assert probe._CHILDREN[os.getpid()].pid != child.pid


def test_what_is_only_damaged_is_told_as_before(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as h5ad"):
        samsvae.read_h5ad(path)
