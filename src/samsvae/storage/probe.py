"""Find out in a child process whether the HDF5 library survives a file.

A damaged file may send the HDF5 library into an endless loop, or crash it. So a file that comes
from elsewhere is first read through by a child process (this module, run as a program). A file that
passed is noted in the user's cache, by its path, size and time of change: opening it again costs
nothing.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from samsvae.errors import InputError

SECONDS = 60.0
"""Time limit for a file, in addition to what its size takes."""
_GRACE = 10
"""Seconds after the time limit at which the child process ends by itself."""
_BYTES_PER_SECOND = 10**7
"""Speed of a slow disk."""
_OTHERS = ("mod", "uns")
"""Groups that are not looked into as the others are: modalities, and what is not ours."""
_DEEPEST = 100
_TEXTS_PER_READ = 100_000
_COMMAND = [sys.executable, "-P", "-m", "samsvae.storage.probe"]
_LOCK = threading.Lock()
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The child process by the process that started it: after a fork each has its own."""
_PASSED: set[str] = set()
"""Identities of files that passed in this process."""


def check_walkable(path: Path) -> None:
    """Raise if the HDF5 library hangs or crashes on a file; reading reports all other damage.

    Where no child process can be started, nothing is checked.
    """
    name = os.fsencode(path.absolute())
    if os.name != "posix" or b"\n" in name:
        return
    state = path.stat()
    changing = os.fspath(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns
    version = h5py.version.hdf5_version
    identity = hashlib.sha256(repr((*changing, version)).encode()).hexdigest()
    if identity in _PASSED or _note_of(identity).exists():
        return
    seconds = SECONDS + state.st_size / _BYTES_PER_SECOND
    with _LOCK:
        child = _child()
        if child is None:
            return
        answer = _answer(child, name, seconds)
        code = child.wait() if answer == b"" else None
        if not answer:
            _end()
    if answer is None:
        raise InputError(f"{str(path)!r} is damaged: reading it did not finish in {seconds:.0f} s")
    if code is not None and code < 0:
        raise InputError(f"{str(path)!r} is damaged: the HDF5 library crashes on it")
    if answer == b"ok\n":
        _PASSED.add(identity)
        with suppress(OSError):  # a cache that cannot be written
            _note_of(identity).parent.mkdir(parents=True, exist_ok=True)
            _note_of(identity).touch()


def _note_of(identity: str) -> Path:
    """Return the empty file that notes, for other processes, that a file passed."""
    from platformdirs import user_cache_path

    return user_cache_path("samsvae") / "hdf5" / identity


def _answer(child: subprocess.Popen[bytes], name: bytes, seconds: float) -> bytes | None:
    """Return the child's line on a file, empty if the child died over it; None if it hangs."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # the child died before, and its output has ended, too
        child.stdin.write(b"%d %s\n" % (seconds + _GRACE, name))
        child.stdin.flush()
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    return child.stdout.readline() if ready else None


def _child() -> subprocess.Popen[bytes] | None:
    """Return the child process, started if need be; None if none can be started."""
    process = os.getpid()
    if process in _CHILDREN and _CHILDREN[process].poll() is not None:
        _end()
    if process not in _CHILDREN:
        with suppress(OSError):
            _CHILDREN[process] = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not reach it
            )
    return _CHILDREN.get(process)


@atexit.register
def _end() -> None:
    """End the child process, if there is one."""
    child = _CHILDREN.pop(os.getpid(), None)
    if child is not None:
        child.kill()
        with suppress(BrokenPipeError), child:  # closes its pipes, and waits for it
            pass


def walk(path: str) -> None:
    """Read the structure of a file, and its texts: everything that is reached by pointers.

    Not what is in `uns`, which nobody reads here.
    """
    with h5py.File(path, "r") as file:
        _look_into(file)
        modalities = file.get("mod")
        for name in modalities if isinstance(modalities, h5py.Group) else ():
            if isinstance(modality := modalities.get(name), h5py.Group):
                _look_into(modality)


def _look_into(group: h5py.Group) -> None:
    """Look at a group of anndata, or any other, and at all that is in it."""
    _look_at("/", group)
    for name in group:
        if name in _OTHERS or group.get(name, getlink=True).__class__ is not h5py.HardLink:
            continue
        _look_at(name, group[name])
        if isinstance(group[name], h5py.Group):
            group[name].visititems(_look_at)


def _look_at(name: str, node: Any) -> None:
    if name.count("/") > _DEEPEST:  # each level takes longer than the one before
        raise ValueError(f"its groups are nested more than {_DEEPEST} deep")
    list(node.attrs.items())
    if not isinstance(node, h5py.Dataset):
        return
    if node.chunks is not None:
        node.id.get_num_chunks()
    if h5py.check_vlen_dtype(node.dtype) or h5py.check_string_dtype(node.dtype):
        if node.ndim == 0:
            node[()]
        elif node.id.get_storage_size():
            for start in range(0, node.shape[0], _TEXTS_PER_READ):
                node[start : start + _TEXTS_PER_READ]


def main() -> None:
    """Answer each path on the input with a line: "ok", or what is wrong.

    A path comes with a number of seconds, after which the system ends this process: a parent that
    was killed cannot.
    """
    for line in sys.stdin.buffer:
        seconds, _, name = line.rstrip(b"\n").partition(b" ")
        signal.alarm(int(seconds))
        try:
            walk(name.decode("utf-8", "surrogateescape"))
            answer = "ok"
        except Exception as error:  # noqa: BLE001  the parent reports it
            answer = " ".join(str(error).split()) or type(error).__name__
        signal.alarm(0)
        sys.stdout.buffer.write(answer.encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
