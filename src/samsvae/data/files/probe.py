"""Whether an HDF5 file can be opened at all, found out by a process that may come to harm."""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from samsvae.data.files import walker
from samsvae.errors import InputError

SECONDS = 60.0
"""That a file may take, beside what its size takes."""
_BYTES_PER_SECOND = 10**7
"""Of a slow disk."""
_ONE_AT_A_TIME = threading.Lock()
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The process that walks through files, by the one that started it: a forked one has its own."""


def check_walkable(path: Path) -> None:
    """Raise if the HDF5 library hangs, or dies, over a file; what else is wrong is told later.

    Where no other process can be started, nothing is found out.

    Raises
    ------
    InputError
        If it does.
    """
    seconds = SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    name = os.fsencode(path.absolute())
    if os.name != "posix" or b"\n" in name:
        return
    with _ONE_AT_A_TIME:
        child = _child()
        if child is None:
            return
        answer = _answer(child, name, seconds)
        if answer:
            return
        code = None if answer is None else child.wait()
        _end()
    if code is None:
        raise InputError(
            f"{str(path)!r} is damaged: reading it did not come to an end in {seconds:.0f} s"
        )
    if code < 0:
        raise InputError(f"{str(path)!r} is damaged: the HDF5 library crashes over it")


def _answer(child: subprocess.Popen[bytes], name: bytes, seconds: float) -> bytes | None:
    """Return what is said of a file, nothing if the process ends over it; None: it hangs."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # it ended before: so does its output
        child.stdin.write(name + b"\n")
        child.stdin.flush()
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    return child.stdout.readline() if ready else None


def _child() -> subprocess.Popen[bytes] | None:
    """Return the process that walks through files; None if none can be started."""
    here = os.getpid()
    if here in _CHILDREN and _CHILDREN[here].poll() is not None:
        _end()
    if here not in _CHILDREN:
        with suppress(OSError):
            _CHILDREN[here] = subprocess.Popen(
                [sys.executable, "-I", str(walker.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not for it
            )
    return _CHILDREN.get(here)


@atexit.register
def _end() -> None:
    """End the process, if there is one."""
    child = _CHILDREN.pop(os.getpid(), None)
    if child is None:
        return
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
