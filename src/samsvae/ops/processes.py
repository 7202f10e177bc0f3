"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_STOP = 20.0
"""After which a process that was asked to stop is ended; by then training has a checkpoint."""

_SUPERVISED = """
import os, select, signal, subprocess, sys, time
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
deadline = time.monotonic() + float(sys.argv[1])
while child.poll() is None and time.monotonic() < deadline:
    if select.select([0], [], [], 0.02)[0]:  # closed: who has started this is gone
        break
else:
    if child.returncode is not None:
        sys.exit(child.returncode if child.returncode >= 0 else 128 - child.returncode)
os.killpg(child.pid, signal.SIGKILL)
sys.exit(124)
"""
_TIMED_OUT = 124


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


def run_limited(command: Sequence[str], *, seconds: float, folder: Path | None = None) -> str:
    """Run a command, and return what it prints; it and all that it starts end in time.

    They end with this process, too, however that ends.

    Raises
    ------
    subprocess.TimeoutExpired, subprocess.CalledProcessError
        If the command takes too long, or fails; the latter with what it printed on stderr.
    OSError
        If it cannot be started.
    """
    supervisor = [sys.executable, "-I", "-S", "-c", _SUPERVISED, str(seconds), *command]
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            supervisor if os.name == "posix" else command,
            stdin=reading,
            capture_output=True,
            cwd=folder,
            check=False,
            timeout=2 * seconds,
        )
    finally:
        os.close(reading)
        os.close(writing)
    said, printed = (text.decode("utf-8", "replace") for text in (done.stderr, done.stdout))
    if done.returncode == _TIMED_OUT:
        raise subprocess.TimeoutExpired(list(command), seconds)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, list(command), printed, said)
    return printed
