"""Chunks of arrays that a store lacks.

zarr leaves out a chunk that holds nothing but the fill value, mostly 0, and reads a chunk that is
not there as one. So a chunk that was lost, say in copying, reads as if all its cells had the first
category, or no counts. Where only a loss explains it, it is an error; elsewhere it is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py

from samsvae.errors import InputError, note, quoted

_ADVICE = "copy or write the store again"


def missing_chunks(array: Any) -> tuple[int, int]:
    """Return how many chunks of an array in a file are not there, and of how many."""
    if not isinstance(array, h5py.Dataset):
        return array.nchunks - array.nchunks_initialized, array.nchunks
    if array.chunks is None:
        return 0, 0
    n_chunks = math.prod(-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True))
    return n_chunks - array.id.get_num_chunks(), n_chunks


def check_chunks(node: Any, where: str, exception: str = "") -> None:
    """Raise if chunks are missing from an array in which no chunk is of the fill value alone.

    `exception` says what else may be the reason, and what to do then.
    """
    for array in _arrays(node):
        n_missing, n_chunks = missing_chunks(array)
        if n_missing and array.size > 1:  # a single value may be the fill value
            raise InputError(
                f"{n_missing:,} of {n_chunks:,} chunks of {where} are missing: {_ADVICE}{exception}"
            )


def report_chunks(node: Any, where: str, categories: Any = None) -> None:
    """Report chunks that are missing from an array; `categories` are those that it has codes of."""
    for array in _arrays(node):
        n_missing, n_chunks = missing_chunks(array)
        if n_missing:
            fill = array.fillvalue if isinstance(array, h5py.Dataset) else array.fill_value
            value = fill if categories is None else quoted(categories[max(fill or 0, 0)])
            note(
                f"{n_missing:,} of {n_chunks:,} chunks of {where} are not in the store, and are "
                f"read as {value}: stores leave out chunks that hold nothing else, so it "
                "cannot be told whether these were lost; compare with the source, and if they "
                f"were, {_ADVICE}"
            )


def _arrays(node: Any) -> Iterator[Any]:
    """Yield an array, or the values of one with a mask, which has no chunk if nothing is masked."""
    if hasattr(node, "shape"):
        yield node
    elif "values" in node:
        yield node["values"]
