"""Signals, and processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def printed_by(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=ONE_THREAD)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
