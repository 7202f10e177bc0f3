"""Opening HDF5 files, and why one cannot be opened that is not damaged."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from samsvae.errors import InputError

_PACKED = {
    **{b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gzip"},
    **{b"BZh": "bzip2", b"\xfd7zXZ": "xz"},
}
"""Kinds of packed files by their first bytes."""
_IN_USE = "is open for writing in another program: close it there, or give a copy"
_REASONS = {
    "errno = 11": _IN_USE,
    "already open for write": f"{_IN_USE}; if no program has it open, one was killed while it "
    "wrote: h5clear --status clears the mark",
    "unable to lock file": "is on a file system without locks: set HDF5_USE_FILE_LOCKING=FALSE, or "
    "give a copy elsewhere",
    "errno = 13": "may not be read by this user: change its permissions",
}
"""Reasons by what HDF5 says."""


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open a file for reading; where it is not the content that prevents it, say what does."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = next((reason for sign, reason in _REASONS.items() if sign in str(error)), None)
        kind = packed_as(Path(path))
        if reason is None and kind is not None:
            reason = f"is a {kind} file: unpack it first"
        if reason is None:
            raise
        raise InputError(f"{os.fspath(path)!r} {reason}") from error


def packed_as(path: Path) -> str | None:
    """Return how a file is packed, whatever its name; None if it is not."""
    try:
        with open(path, "rb") as file:
            start = file.read(max(map(len, _PACKED)))
    except OSError:
        return None
    return next((kind for sign, kind in _PACKED.items() if start.startswith(sign)), None)
