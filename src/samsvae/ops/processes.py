"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_STOP = 20.0
"""After which a process that was asked to stop is ended; by then training has a checkpoint."""


def has_lost(parent: int) -> bool:
    """Whether the process that started this one is gone: a system gives orphans another parent."""
    return os.name == "posix" and os.getppid() != parent


@cache
def stop_without(parent: int) -> None:
    """Stop this process, as SIGTERM does, as soon as its parent is gone.

    A thread looks for the parent. PR_SET_PDEATHSIG, which Linux has, would do so when the thread
    ends that started this process, though its process goes on.
    """
    if os.name == "posix":
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while not has_lost(parent):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_STOP)
    os._exit(1)
