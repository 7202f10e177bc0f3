"""Reading ahead: the next item is made while the one before is in use."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield items in their order; a thread makes the next one meanwhile.

    What making one raises is raised when its turn comes. The thread ends with the last item, or
    when this is closed.

    >>> list(ahead(i * i for i in range(3)))
    [0, 1, 4]
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, source, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # it is not the end
