"""Files that are whole or not there: written aside, then renamed.

Records as JSON files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samsvae.errors import InputError, listed


class CannotWriteError(InputError):
    """A file that could not be written; what was there before is unchanged."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; what was there before is unchanged")
        self.path, self.reason = path, reason


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; on success it becomes `path`, on failure nothing has changed."""
    with written_together(path) as (aside,):
        yield aside


@contextmanager
def written_together(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Give temporary paths to write to; at the end they are renamed, if all were written.

    Otherwise the old files are unchanged.
    """
    places = [Path(path) for path in paths]
    asides = [path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}") for path in places]
    at = places[0]
    try:
        for at in places:
            at.parent.mkdir(parents=True, exist_ok=True)
        yield asides
        for at, aside in zip(places, asides, strict=True):  # noqa: B007  told, if it fails
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
        for at, aside in zip(places, asides, strict=True):
            os.replace(aside, at)
    except OSError as error:
        wrong = next((p for p, a in zip(places, asides, strict=True) if _is(error, a)), at)
        raise CannotWriteError(wrong, error.strerror or str(error)) from error
    finally:
        for aside in asides:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def _is(error: OSError, path: Path) -> bool:
    """Whether an error is of a file."""
    return error.filename is not None and os.fspath(error.filename) == str(path)


def half_written(path: Path, names: Iterable[str]) -> bool:
    """Whether a file is what a killed process left of writing one of these names."""
    for name in map(Path, names):
        if re.fullmatch(rf"\.{re.escape(name.stem)}\.\d+{re.escape(name.suffix)}", path.name):
            return True
    return False


def remove_half_written(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote a file left beside it."""
    place = Path(path)
    for beside in place.parent.glob(".*"):
        if half_written(beside, [place.name]) and not _runs(int(beside.stem.rpartition(".")[2])):
            beside.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is such a process, as far as can be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


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


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record that a JSON file holds."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)!r} is damaged ({error}): remove it") from error
    if not isinstance(record, dict):
        raise InputError(f"{os.fspath(path)!r} is damaged (no record): remove it")
    return record


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a record; aside, then renamed."""
    write_text(path, json.dumps(record, indent=2) + "\n")
