"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from samsvae.errors import InputError, listed

_ASIDE = re.compile(r"\..+\.\d+\.\w+")
"""Names of files that are being written."""


class CannotWriteError(InputError):
    """A file that could not be written; what was there before is unchanged."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; what was there before is unchanged")
        self.path, self.reason = path, reason


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; on success it becomes `path`, on failure nothing has changed.

    Raises
    ------
    CannotWriteError
        If the file cannot be written, say because the disk is full. The old file survives.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # as _ASIDE has it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise CannotWriteError(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote a file of a folder."""
    for path in folder.glob(".*"):
        if _ASIDE.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file aside, then rename it."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def check_new_file(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Raise if a file that is to be written has another ending, or is there already."""
    if path.suffix not in suffixes:
        raise InputError(f"--out {str(path)!r}: expected a name that ends in {listed(suffixes)}")
    if path.exists() and not overwrite:
        raise InputError(f"the file {str(path)!r} exists: give another --out, or --overwrite")
