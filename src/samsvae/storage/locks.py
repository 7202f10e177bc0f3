"""Locks: a file or a directory is written by one process at a time.

A lock is a file beside what is written. The system takes it from a process that is killed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from samsvae.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems without locks answer; where they answer ENOSYS, filelock does as we do."""


def lock_of(path: Path) -> Path:
    """Return the lock of a file or directory, which may be a link to it."""
    place = Path(os.path.realpath(path))
    return place.with_name(f".{place.name}.lock")


def check_no_link(path: Path, *, of_any_kind: bool = False) -> None:
    """Raise if there is a symbolic link, or of any kind, or neither a file nor a directory."""
    try:
        status = path.lstat()
    except OSError:  # nothing is there
        return
    is_file = stat.S_ISREG(status.st_mode)
    is_hard = is_file and status.st_nlink > 1
    if stat.S_ISLNK(status.st_mode) or (of_any_kind and is_hard):
        raise InputError(
            f"{str(path)!r} is a link, which is not followed: put a copy of what it leads to in "
            "its place, or remove it"
        )
    if not (is_file or stat.S_ISDIR(status.st_mode)):
        raise InputError(f"{str(path)!r} is neither a file nor a directory: remove it")


@contextmanager
def only_writer(path: Path, advice: str = "give another --out") -> Iterator[None]:
    """Hold the lock of a file or directory, if no other process does."""
    lock_path, shown = lock_of(path), repr(str(path))
    check_no_link(lock_path, of_any_kind=True)  # it is opened for writing
    missing = [parent for parent in lock_path.parents if not parent.exists()]
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(lock_path)
    except Timeout:
        raise InputError(f"another process is writing {shown}: wait for it, or {advice}") from None
    except OSError as error:
        raise InputError(f"cannot make {shown}: {error.strerror}: {advice}") from error
    try:
        yield
    finally:
        lock_path.unlink(missing_ok=True)  # before it is released: no process waits for it
        lock.release()
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()  # if it is empty


def is_being_written(path: Path) -> bool:
    """Whether a process holds the lock of a file or directory."""
    lock = lock_of(path)
    if not lock.is_file():
        return False
    try:
        _acquired(lock).release()
    except Timeout:
        return True
    except OSError:  # who takes the lock is told
        return False
    return False


def _acquired(path: Path) -> BaseFileLock:
    """Return a lock that is held; raise `Timeout` if another process holds it."""
    existed = path.exists()
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not path.exists():  # nobody holds it: on some file systems no file can be made
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            path.unlink()
        raise
    except OSError as error:
        if not existed:  # its file was made, and could not be locked
            path.unlink(missing_ok=True)
        if error.errno not in _NO_LOCKS:
            raise
        lock = SoftFileLock(path)  # a file that says which process holds it
        lock.acquire(timeout=0)
    return lock
