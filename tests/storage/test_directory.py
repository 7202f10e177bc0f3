"""Directories that are replaced whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from samsvae import InputError
from samsvae.storage.directory import Directory
from samsvae.storage.files import (
    check_new_file,
    remove_half_written,
    write_text,
    written_together,
)


class Results(Directory):
    """Results of one file."""

    files = ("result.txt",)


def make(place: Path, text: str) -> None:
    directory = Results(place)
    directory.check_new(overwrite=True, resume=False)
    with directory.made():
        write_text(directory / "result.txt", text)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_one_stands_until_the_new_one_settles(tmp_path: Path) -> None:
    place = tmp_path / "out"
    make(place, "old")
    directory = Results(place)
    with directory.made():
        write_text(directory / "result.txt", "new")
        assert (place / "result.txt").read_text() == "old"
        path = directory.file("later.txt")
        directory.move_into_place()
        assert (place / "result.txt").read_text() == "new"
        write_text(path, "after it moved")
    assert names(tmp_path) == ["out"]
    assert names(place) == ["later.txt", "result.txt"]


@pytest.mark.parametrize("error", [InputError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_one_whole(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "out"
    make(place, "old")
    with pytest.raises(type(error)), Results(place).made():
        raise error
    assert (place / "result.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_failure_leaves_no_new_directory_and_no_parents(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Results(tmp_path / "a" / "b" / "out").made():
        raise RuntimeError("no")
    assert names(tmp_path) == []


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    place = tmp_path / "out"
    make(place, "old")
    write_text(place / "notes.txt", "mine")
    make(place, "new")
    assert (place / "result.txt").read_text() == "new"
    assert (place / "notes.txt").read_text() == "mine"


# Killed.


def test_killed_between_the_two_renames(tmp_path: Path) -> None:
    place = tmp_path / "out"
    make(place, "old")
    place.rename(tmp_path / ".out.replaced-by-samsvae")
    with pytest.raises(InputError, match=r"the directory '.*out' exists"):
        Results(place).check_new(overwrite=False, resume=False)
    Results(place).restore()
    assert (place / "result.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_killed_before_files_of_others_were_taken_over(tmp_path: Path) -> None:
    place, old = tmp_path / "out", tmp_path / ".out.replaced-by-samsvae"
    make(old, "old")
    write_text(old / "notes.txt", "mine")
    write_text(place / "result.txt", "new")
    with Results(place).made(resume=True):
        pass
    assert (place / "result.txt").read_text() == "new"
    assert (place / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["out"]


KILLED_IN_A_WRITE = """
import os, signal, sys
from pathlib import Path
from samsvae.storage.files import (
    check_new_file,
    remove_half_written,
    write_text,
    written_together,
)
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_text(Path(sys.argv[1]), "new")
"""


def test_killed_between_writing_a_file_and_renaming_it(tmp_path: Path) -> None:
    place = tmp_path / "out"
    make(place, "old")
    with python(KILLED_IN_A_WRITE, place / "result.txt") as process:
        assert process.wait(60) == -signal.SIGKILL
    assert (place / "result.txt").read_text() == "old"
    assert len(names(place)) == 2  # what was being written
    with Results(place).made(resume=True):
        pass
    assert names(place) == ["result.txt"]


HOLDING = """
import sys, time
from pathlib import Path
from samsvae.storage.directory import Directory
with Directory(Path(sys.argv[1])).made():
    print("made", flush=True)
    time.sleep(60)
"""


def test_what_killed_processes_wrote_aside_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [f".c.{ended.pid}.safetensors", f".c.{os.getpid()}.safetensors", ".c.x.safetensors"]
    for name in (*left, f".d.{ended.pid}.safetensors", "c.safetensors"):
        (tmp_path / name).touch()
    remove_half_written(tmp_path / "c.safetensors")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {*left[1:], f".d.{ended.pid}.safetensors", "c.safetensors"}
    remove_half_written(tmp_path / "none" / "c.safetensors")


def test_one_writer_at_a_time_and_none_after_it_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "out"
    make(place, "old")
    with python(HOLDING, place) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        for resume in (False, True):
            with (
                pytest.raises(InputError, match=r"another process is writing '.*out'"),
                Results(place).made(resume=resume),
            ):
                pass
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    make(place, "new")
    assert (place / "result.txt").read_text() == "new"
    assert names(tmp_path) == ["out"]  # nor is anything left of the killed one


def test_whether_another_process_writes(tmp_path: Path) -> None:
    directory = Results(tmp_path / "out")
    assert not directory.is_being_written
    with Results(tmp_path / "out").made():
        assert directory.is_being_written
    assert not directory.is_being_written
    (tmp_path / ".out.lock").touch()  # of a process that was killed
    assert not directory.is_being_written


def test_what_is_like_ours_is_left_alone(tmp_path: Path) -> None:
    """A sibling's half-made directory, hidden files of the user, a folder that is called old."""
    make(tmp_path / "out", "old")
    for name in (".out.v2.123.new", ".out.old", ".out.x.new"):
        (tmp_path / name).mkdir()
    write_text(tmp_path / "out" / ".notes.2024.txt", "mine")
    write_text(tmp_path / "out" / ".result.77.txt", "half")
    with Results(tmp_path / "out").made(resume=True):
        pass
    make(tmp_path / "out", "new")
    assert names(tmp_path) == [".out.old", ".out.v2.123.new", ".out.x.new", "out"]
    assert names(tmp_path / "out") == [".notes.2024.txt", "result.txt"]


class Several(Directory):
    """Results in directories of their own."""

    files = ("table.csv", "part-*/result.txt")


def test_files_of_others_are_kept_at_any_depth(tmp_path: Path) -> None:
    for text in ("old", "new"):
        directory = Several(tmp_path / "out")
        with directory.made():
            write_text(directory / "part-0" / "result.txt", text)
        write_text(tmp_path / "out" / "part-0" / f"{text}.txt", "mine")
        write_text(tmp_path / "out" / "part-notes.txt", "mine")
    assert names(tmp_path / "out" / "part-0") == ["new.txt", "old.txt", "result.txt"]
    assert (tmp_path / "out" / "part-0" / "result.txt").read_text() == "new"


def test_several_files_take_their_names_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        write_text(path, "old")
    synced: list[int] = []

    def until_full(number: int) -> None:
        synced.append(number)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", until_full)
    failing = pytest.raises(InputError, match=r"cannot write .*b: No space left")
    with failing, written_together(*paths) as (one, other):
        one.write_text("new")
        other.write_text("new")
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert names(tmp_path) == ["a", "b"]


# What cannot be replaced.


def test_the_working_directory_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", tmp_path, "/"):
        with pytest.raises(InputError, match="working directory"):
            Results(Path(place)).check_new(overwrite=True, resume=False)


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "a file")
    with pytest.raises(InputError, match="is a file"):
        Results(tmp_path / "out").check_new(overwrite=True, resume=False)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "result.txt").read_text() == "new"


# Places where nothing can be made, and file systems without locks


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file/run", r"cannot make '.*file/run.*': '.*/file' is a file: give another --out"),
        ("x" * 300, r"cannot make 'x*.*': File name too long: give another --out"),
        ("x" * 246, r"cannot make 'x*.*': File name too long: give another --out"),
    ],
)
def test_a_place_that_cannot_be_made(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        Results(Path(place)).check_new(overwrite=False, resume=False)
    with pytest.raises(InputError, match=message):
        check_new_file(Path(place).with_suffix(".csv"), [".csv"], overwrite=False)


def test_the_longest_name_that_is_accepted_can_be_made(tmp_path: Path) -> None:
    place = tmp_path / ("x" * (255 - len("..replaced-by-samsvae")))
    for text in ("old", "new"):
        make(place, text)
    assert names(tmp_path) == [place.name]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system that makes no file")
def test_no_other_process_is_blamed_where_no_lock_can_be_made() -> None:
    with pytest.raises(InputError, match="cannot make '/proc/run': No such file or directory"):
        make(Path("/proc/run"), "text")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    make(tmp_path / "out", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    directory = Results(tmp_path / "out")
    with directory.made(), pytest.raises(InputError, match="another process is writing"):
        make(tmp_path / "out", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    make(tmp_path / "out", "three")
    assert (tmp_path / "out" / "result.txt").read_text() == "three"


def test_a_lock_that_fails_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"cannot make '.*out': Input/output error"):
        make(tmp_path / "out", "one")
    assert list(tmp_path.iterdir()) == []
