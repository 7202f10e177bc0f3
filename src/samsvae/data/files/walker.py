"""A program that walks through HDF5 files, told by name on its input: "ok", or why not.

It needs h5py alone. A damaged file may send the HDF5 library round in circles, or down: then it is
this process that hangs or dies, and not the one that asked (`samsvae.data.files.probe`).
"""

from __future__ import annotations

import sys
from typing import Any

import h5py

_AT_ONCE = 100_000
"""Texts that are read at once."""


def walk(path: str) -> None:
    """Read the structure of a file, and its texts: all that is found by following pointers."""
    with h5py.File(path, "r") as file:
        _look_at("/", file)
        file.visititems(_look_at)


def _look_at(name: str, node: Any) -> None:
    list(node.attrs.items())
    if not isinstance(node, h5py.Dataset):
        return
    if node.chunks is not None:
        node.id.get_num_chunks()
    if h5py.check_vlen_dtype(node.dtype) or h5py.check_string_dtype(node.dtype):
        if node.ndim == 0:
            node[()]
        elif node.id.get_storage_size():
            for start in range(0, node.shape[0], _AT_ONCE):
                node[start : start + _AT_ONCE]


def main() -> None:
    """Answer each line of the input with a line."""
    for line in sys.stdin.buffer:
        try:
            walk(line.rstrip(b"\n").decode("utf-8", "surrogateescape"))
            answer = "ok"
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            answer = " ".join(str(error).split()) or type(error).__name__
        sys.stdout.buffer.write(answer.encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
