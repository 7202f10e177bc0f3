"""Directories of results: written to a temporary directory and renamed when complete."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from samsvae.errors import InputError
from samsvae.storage.files import CannotWriteError, check_creatable, expanded, half_written
from samsvae.storage.locks import check_no_link, is_being_written, lock_of, only_writer


class Directory:
    """A directory of results, wherever its files are at the moment.

    A new one is written to a temporary directory and renamed by `move_into_place` once it holds
    results worth keeping; until then a failure leaves the old directory as it was.
    """

    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the files that a new directory replaces; others in its place are kept."""
    also_read: ClassVar[tuple[str, ...]] = ()
    """Other files that are read if they are there."""

    def __init__(self, place: Path) -> None:
        self.place = Path(os.path.normpath(expanded(place)))
        self.aside: Path | None = None
        self._is_held = False

    @property
    def folder(self) -> Path:
        """Where its files are now."""
        return self.aside or self.place

    @property
    def shown(self) -> str:
        """Its path in quotes, for messages."""
        return repr(str(self.place))

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def file(self, name: str) -> os.PathLike[str]:
        """Return the path of a file that stays right when the directory moves."""
        return _Inside(self, name)

    def check_links(self) -> None:
        """Raise if a name that is looked for, inside or beside the directory, is a link.

        The directory may come from somebody else: what a link leads to would be read, replaced or
        moved. A pipe would never be read to its end.
        """
        self._check_beside()
        for pattern in (*self.files, *self.also_read):
            names = pattern.split("/")
            for i in range(len(names)):  # a folder of such files before the files in it
                part = "/".join(names[: i + 1])
                for path in self.folder.glob(part) if "*" in part else [self.folder / part]:
                    check_no_link(path)

    def _check_beside(self) -> None:
        check_no_link(self._old)
        check_no_link(lock_of(self.place), of_any_kind=True)  # it is opened for writing

    def check_new(self, *, overwrite: bool, resume: bool) -> None:
        """Raise if the directory exists and may not be written to."""
        check_creatable(self.place)
        exists = self.place.exists()
        if exists and not self.place.is_dir():
            raise InputError(f"{self.shown} is a file: expected a directory for the run")
        if not (exists or self._old.exists()):
            return
        if not (overwrite or resume):
            raise InputError(
                f"the directory {self.shown} exists: give another --out, --overwrite to "
                "replace the run in it, or --resume to go on with it"
            )
        if Path.cwd().is_relative_to(self.place.resolve()):
            raise InputError(
                f"{self.shown} is the working directory, or holds it: give another --out"
            )
        self._check_beside()
        if exists and not os.access(self.place, os.W_OK | os.X_OK):
            raise InputError(f"{self.shown} is read-only: give another --out")

    @contextmanager
    def made(self, *, resume: bool = False) -> Iterator[None]:
        """Make the directory, or with `resume` go on with the one in its place.

        Its files are written inside the `with` block, at whose end it is moved into place. An error
        before that removes the new files, and leaves the old directory as it was.
        """
        with self.held():
            if resume:
                self.check_links()
            self._recover()
            for path in self._old.parent.glob(".*.new"):  # left by a process that was killed
                if re.fullmatch(rf"{re.escape(self._old.stem)}\.\d+\.new", path.name):
                    shutil.rmtree(path, ignore_errors=True)
            for path in self.place.glob(".*"):
                if half_written(path, self.files):
                    path.unlink(missing_ok=True)
            if not (resume and self.place.is_dir()):
                new = self._beside(f"{os.getpid()}.new")
                try:
                    new.mkdir()
                except OSError as error:
                    raise InputError(f"cannot make {self.shown}: {error.strerror}") from error
                self.aside = new
            try:
                yield
                self.move_into_place()
            except CannotWriteError as error:
                if self.aside is None:
                    raise
                name = self.place / error.path.relative_to(self.aside)
                kept = "is as it was" if self.place.is_dir() else "was not made"
                raise InputError(
                    f"cannot write {name}: {error.reason}; {self.shown} {kept}"
                ) from error
            finally:
                if self.aside is not None:
                    shutil.rmtree(self.aside, ignore_errors=True)
                    self.aside = None

    def move_into_place(self) -> None:
        """Move the new directory to its place: the old one is gone from now on."""
        if self.aside is None:
            return
        try:
            if self.place.exists():
                os.replace(os.path.realpath(self.place), self._old)
            os.replace(self.aside, os.path.realpath(self.place))
        except OSError as error:
            self._recover()
            raise InputError(f"cannot replace {self.shown}: {error.strerror}") from error
        self.aside = None
        self._recover()

    @property
    def _old(self) -> Path:
        """Where the old directory is while the new one takes its place."""
        return self._beside("replaced-by-samsvae")

    def _beside(self, kind: str) -> Path:
        place = Path(os.path.realpath(self.place))
        return place.with_name(f".{place.name}.{kind}")

    @property
    def is_being_written(self) -> bool:
        """Whether a process holds its lock."""
        return is_being_written(self.place)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody else write the directory; whoever holds it already goes on holding it."""
        if self._is_held:
            yield
            return
        self._check_beside()
        with only_writer(self.place):
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False

    def restore(self) -> None:
        """Put the old directory back if a process was killed while it replaced it."""
        if _is_folder(self._old) and not self.place.exists():
            with self.held():
                self._recover()

    def _recover(self) -> None:
        """Finish a replacement that was interrupted: the place holds the old or the new one."""
        old = self._old
        if not _is_folder(old):
            return
        with suppress(OSError):
            if not self.place.exists():
                os.replace(old, os.path.realpath(self.place))
                return
            for path in old.rglob("*"):
                name = path.relative_to(old)
                place = self.place / name
                ours = any(fnmatch(str(name), pattern) for pattern in self.files)
                if _is_folder(path) or ours or os.path.lexists(place):
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.parent.resolve() == self.place.resolve() / name.parent:  # no link
                    os.replace(path, place)
            shutil.rmtree(old)


def _is_folder(path: Path) -> bool:
    """Whether a path is a directory, and no link to one."""
    return path.is_dir() and not path.is_symlink()


class _Inside(os.PathLike[str]):
    """A file of a directory that may move."""

    def __init__(self, directory: Directory, name: str) -> None:
        self.directory, self.name = directory, name

    def __fspath__(self) -> str:
        return str(self.directory / self.name)

    def __str__(self) -> str:
        return os.path.join(self.directory.place, self.name)
