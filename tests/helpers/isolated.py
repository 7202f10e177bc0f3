"""Work in a process of its own, with a limit of time and memory: whatever it does, it is told."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from samsvae import InputError

MEMORY = 2 * 2**30
"""Bytes that it may take beside what it has."""
SECONDS = 30.0


class Outcome(NamedTuple):
    """How it ended."""

    kind: str
    """"answer", "refused" (an `InputError`), "error" (another), "crash" or "hang"."""
    said: Any
    """The answer, or the message."""


def outcome(work: Callable[[], Any]) -> Outcome:
    """Do some work whose answer JSON can hold, in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _child(work, writing)
    os.close(writing)
    content, deadline = b"", time.monotonic() + SECONDS
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(reading, 2**16)
        if not part:
            break
        content += part
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if not ready:
        return Outcome("hang", f"{SECONDS:.0f} s")
    if os.WIFSIGNALED(status):
        return Outcome("crash", signal.Signals(os.WTERMSIG(status)).name)
    try:
        return Outcome(*json.loads(content))
    except ValueError:
        return Outcome("crash", f"exit code {os.WEXITSTATUS(status)}")


def _child(work: Callable[[], Any], writing: int) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  this process ends soon
    try:
        told = ("answer", work())
    except InputError as error:
        told = ("refused", str(error))
    except BaseException as error:  # noqa: BLE001  told to the parent
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        told = ("error", f"{type(error).__name__} at {place}: {error}"[:500])
    os.write(writing, json.dumps(told).encode())
    os._exit(0)
