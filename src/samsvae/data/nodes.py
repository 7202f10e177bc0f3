"""Parts of a file: groups and arrays of HDF5 or zarr, read with care, found again when needed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import h5py

from samsvae.errors import InputError

_RATIO = 10_000
"""Data that take so many times more memory than room in the file were not written by a program."""
_FREE = 2**28
"""Bytes below which nobody asks."""
_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup"})
_SELDOM = 50
"""After a look at a file it is not looked at for so many times as long as that took."""


def is_array(node: Any) -> bool:
    """Whether a node is an array, not a group of them."""
    return hasattr(node, "shape")


def member(group: Any, name: str) -> Any:
    """Return a member of a group of a file, None without it; what leads out of the file is none."""
    if isinstance(group, h5py.Group) and isinstance(
        group.get(name, getlink=True), h5py.ExternalLink
    ):
        raise InputError(f"{name} leads to another file: put what it holds into this one")
    return group.get(name)


def check_stored(array: Any, where: str) -> None:
    """Raise if an array declares far more values than the file can hold."""
    if array.shape is None:
        raise InputError(f"{where} is empty: the file is damaged")
    n_bytes = array.size * array.dtype.itemsize
    if n_bytes <= _FREE:
        return
    if isinstance(array, h5py.Dataset):
        stored = array.id.get_storage_size()
    else:
        stored = array.nbytes_stored()
    if n_bytes > _RATIO * max(stored, 1):
        raise InputError(
            f"{where} declares {array.size:,} values and holds {stored:,} bytes of them: the "
            "file is damaged"
        )


class Node:
    """A group or an array of a file, found again where the file was closed, or in another process.

    Parameters
    ----------
    node
        Of an open file.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._process = node, os.getpid()
        self.name = str(node.name)
        of_hdf5 = isinstance(node, h5py.HLObject)
        self.kind = "HDF5" if of_hdf5 else "zarr"
        self.path = Path(node.file.filename if of_hdf5 else node.store.root).absolute()
        self._watched, self._quiet_until = self._to_watch(), 0.0
        self._written = self._state()

    def __call__(self) -> Any:
        """Return it, of the open file.

        Raises
        ------
        InputError
            If the file is gone, or was written anew.
        """
        start = time.perf_counter()
        if start >= self._quiet_until:
            if self._state() != self._written:
                raise InputError(
                    f"{str(self.path)!r} was changed while its cells were being read: open it again"
                )
            now = time.perf_counter()
            self._quiet_until = now + _SELDOM * (now - start)
        closed = isinstance(self._node, h5py.HLObject) and not self._node
        if self._node is None or closed or self._process != os.getpid():
            self._node, self._process = self._opened(), os.getpid()
        return self._node

    def _opened(self) -> Any:
        if self.kind == "HDF5":
            return h5py.File(self.path, "r")[self.name]
        import zarr  # slow to import, and needed for its own files alone

        return zarr.open_group(self.path, mode="r")[self.name.lstrip("/")]

    def _to_watch(self) -> list[str]:
        """Return what changes when the file is written.

        Of a zarr store the folders, and what describes their arrays: a chunk is written aside, then
        renamed, which changes its folder. Of chunks there may be too many to look at each.
        """
        found = [str(self.path)]
        if self.kind == "zarr":
            for folder, _, names in os.walk(self.path / self.name.strip("/")):
                found += [folder, *(os.path.join(folder, n) for n in _METADATA.intersection(names))]
        return found

    def _state(self) -> list[tuple[int, int]]:
        try:
            every = [os.stat(path) for path in self._watched]
        except OSError as error:
            raise InputError(f"{str(self.path)!r} is gone: {error.strerror}") from error
        return [(found.st_mtime_ns, found.st_size) for found in every]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_node": None, "_quiet_until": 0.0}
