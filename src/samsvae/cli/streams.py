"""Standard output and error that may be closed, full, or no longer read: work goes on without."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from samsvae.errors import InputError


class Stream:
    """A text stream that never fails: after the first error what is written is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """Why nothing more is written."""

    def write(self, text: str) -> int:
        """Write a text, if that is possible."""
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is still held back, if that is possible."""
        self._tried(self._stream.flush)

    def _tried(self, work: Any) -> None:
        if self.error is not None:
            return
        try:
            work()
        except OSError as error:
            self.error = error
            with suppress(OSError, ValueError):  # what is held back is dropped, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    @property
    def lost(self) -> str | None:
        """Why something was not written; None if it was, or nobody wanted to read it."""
        if self.error is None or self.error.errno == errno.EPIPE:
            return None
        return self.error.strerror or str(self.error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def never_failing() -> Iterator[Stream]:
    """Give this process streams that never fail, and return that of its output."""
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Stream(one or open(os.devnull, "w")) for one in before)  # noqa: SIM115
    try:
        yield sys.stdout
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Open what is closed of input, output and error: a file would take its number otherwise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def check_surroundings() -> None:
    """Raise if nothing can be done where and as this process runs."""
    if sys.flags.optimize > 1:
        raise InputError(
            "Python leaves docstrings out (-OO, or PYTHONOPTIMIZE=2), which anndata cannot do "
            "without: take at most -O"
        )
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"there is no working directory ({error.strerror}): change to one that exists"
        ) from error
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700 and getattr(os, "geteuid", lambda: 0)() != 0:
        raise InputError(
            f"the umask is {mask:04o}, so you could not read what is written: set another, such as "
            "umask 022"
        )
