"""How often what takes long is done: fully by `make soak`, a few times else."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """Return a function that gives the first number in the full form, the second in the short."""
    return lambda full, short: full if os.environ.get("SAMSVAE_SOAK") else short
