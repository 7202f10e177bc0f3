"""Files that are never half-written (written to a temporary file, then renamed), and JSON."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samsvae.errors import InputError, listed

_LONGER = len("..replaced-by-samsvae")
"""By how much names beside a file or directory may be longer than its own."""
_LARGEST_TEXT = 2**28
"""Bytes; no record or settings of ours have as many."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with "~" and environment variables expanded; every path of a user comes here.

    >>> expanded("~/run") == Path.home() / "run"
    True
    """
    return Path(os.path.expandvars(os.fspath(path))).expanduser()


class CannotWriteError(InputError):
    """A file that could not be written; what was there before is unchanged."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; what was there before is unchanged")
        self.path, self.reason = path, reason


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; at the end it is renamed, on failure nothing changes."""
    with written_together(path) as (temporary,):
        yield temporary


@contextmanager
def written_together(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Give temporary paths to write to; at the end, if all were written, they are renamed."""
    places = [expanded(path) for path in paths]
    temporary = {
        path: path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}") for path in places
    }
    place = places[0]
    try:
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            _make_anew(temporary[place])
        yield list(temporary.values())
        for place in places:
            with open(temporary[place], "rb+") as file:
                os.fsync(file.fileno())
        for place in places:
            os.replace(temporary[place], place)
    except OSError as error:
        of_file = (one for one in places if str(temporary[one]) == str(error.filename))
        raise CannotWriteError(next(of_file, place), error.strerror or str(error)) from error
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _make_anew(path: Path) -> None:
    """Make an empty file: a link that stands in its place is removed, not followed."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def half_written(path: Path, names: Iterable[str]) -> bool:
    """Whether a file is what a killed process left of writing one of these names."""
    patterns = (
        rf"\.{re.escape(name.stem)}\.\d+{re.escape(name.suffix)}" for name in map(Path, names)
    )
    return any(re.fullmatch(pattern, path.name) for pattern in patterns)


def remove_half_written(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of processes that were killed while they wrote a file."""
    place = expanded(path)
    for file in place.parent.glob(".*"):
        if os.name == "posix" and half_written(file, [place.name]):
            try:
                os.kill(int(file.stem.rpartition(".")[2]), 0)  # whether it runs
            except ProcessLookupError:
                file.unlink(missing_ok=True)
            except OSError:  # a process of another user
                pass


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_creatable(path: Path) -> None:
    """Raise if a file or directory cannot be made: before minutes of work, not after."""
    try:
        folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if len(os.fsencode(path.name)) > longest - _LONGER:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as error:
        raise InputError(
            f"cannot make {str(path)!r}: {error.strerror}: give another --out"
        ) from error
    if folder == path:
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "read-only" if folder.is_dir() else "a file"
        raise InputError(
            f"cannot make {str(path)!r}: {str(folder)!r} is {reason}: give another --out"
        )


def check_new_file(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Raise if a file to be written has another suffix, or exists."""
    if path.suffix not in suffixes:
        raise InputError(f"--out {str(path)!r}: expected a name that ends in {listed(suffixes)}")
    check_creatable(expanded(path))
    if expanded(path).exists() and not overwrite:
        raise InputError(f"the file {str(path)!r} exists: give another --out, or --overwrite")


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file of ours, in UTF-8, unless it is too large to be one."""
    size = expanded(path).stat().st_size
    if size > _LARGEST_TEXT:
        raise InputError(f"{os.fspath(path)!r} has {size:,} bytes: no file of ours is as large")
    return expanded(path).read_text(encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        record = json.loads(read_text(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)!r} is damaged ({error}): remove it") from error
    if not isinstance(record, dict):
        raise InputError(f"{os.fspath(path)!r} is damaged (no record): remove it")
    return record


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(record, indent=2) + "\n")
