"""Output that is closed, full, or that nobody reads any more; a place where nothing can be done."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.command_line import BARE, Call
from samsvae import InputError
from samsvae import __main__ as command_line
from samsvae.estimators import saving
from samsvae.storage.files import read_json

SMALL = f"{BARE} --split-key split --n-latent 3 --n-hidden 6 --no-report"


class Failing(io.StringIO):
    """A stream to which nothing can be written."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))


def ended(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a line of the command line on the streams that there are; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["samsvae", *line.split()])
    try:
        command_line.main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        (errno.EPIPE, 0, ""),
        (errno.ENOSPC, 1, "samsvae: cannot print: No space left on device; what is written"),
    ],
    ids=["nobody reads", "full"],
)
@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_without_output(
    code: int,
    exit_code: int,
    said: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdout", Failing(code))
    code = ended(SMALL.replace("--out new", f"--out {tmp_path}/new"), monkeypatch)
    errors = [one for one in capsys.readouterr().err.splitlines() if "samsvae: note" not in one]
    assert (code, len(errors)) == (exit_code, bool(said)), errors
    assert "".join(errors).startswith(said)
    assert (tmp_path / "new" / saving.NAMES).exists()


def test_an_error_that_cannot_be_printed_keeps_its_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC))
    assert ended("effects none A", monkeypatch) == 2


def test_closed_streams(tmp_path: Path) -> None:
    """No file that is opened later takes the number of one of them."""
    code = (
        "import os, sys; from samsvae.cli.streams import never_failing\n"
        "with never_failing():\n"
        "    print('lost'); print('lost', file=sys.stderr)\n"
        "    assert os.open(sys.argv[1], os.O_CREAT | os.O_RDWR) > 2\n"
    )
    shell = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-c", code]
    assert subprocess.run([*shell, str(tmp_path / "file")], check=False).returncode == 0


def test_a_working_directory_that_was_removed(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which libraries end the process, each in its way."""

    def gone() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    done = call("effects run A")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "there is no working directory" in done.errors[0]


def test_without_docstrings() -> None:
    command = [sys.executable, "-OO", "-m", "samsvae", "effects", "run", "A"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("samsvae: Python leaves docstrings out")
    assert done.stderr.count("\n") == 1


def test_a_umask_that_takes_what_is_written_away(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root may read all the same
    before = os.umask(0o777)
    try:
        done = call(BARE)
    finally:
        os.umask(before)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "the umask is 0777" in done.errors[0]


def test_a_record_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / saving.NAMES
    path.touch()
    os.truncate(path, 5 * 2**30)  # takes no room
    with pytest.raises(InputError, match="has 5,368,709,120 bytes: no file of ours is as large"):
        read_json(path)
    with pytest.raises(InputError, match="has 5,368,709,120 bytes: no file of ours is as large"):
        saving.read(tmp_path)
