"""Work of threads: items in parallel, and items that are prepared before they are needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `work(item)` in order, as many at a time as torch has threads; each has one."""
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


def prefetch(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield items in order; a thread prepares the next one while the current one is in use.

    An error in preparing an item is raised when its turn comes. The thread ends with the last item,
    or when the generator is closed.

    >>> list(prefetch(i * i for i in range(3)))
    [0, 1, 4]
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        following = pool.submit(next, source, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # it is not the end
