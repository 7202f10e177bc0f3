"""Work that threads share item by item, where torch itself uses one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `work(item)` of each item, in their order, as many at a time as torch has threads.

    Within, torch has one thread each.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # what the threads set is everyone's, in some builds
