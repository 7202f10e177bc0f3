"""Which of several processes, started together, this one is: what torchrun tells them."""

from __future__ import annotations

import os


def started_together() -> bool:
    """Whether several processes were started to work together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def rank() -> int:
    """Return which of them this one is; 0, too, where it is alone."""
    return int(os.environ.get("RANK", "0")) if started_together() else 0


def local_rank() -> int:
    """Return which of those on this machine it is."""
    return int(os.environ.get("LOCAL_RANK", "0")) if started_together() else 0
