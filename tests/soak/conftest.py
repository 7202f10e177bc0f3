"""How often what takes long is done: fully by `make soak`, a few times else.

SAMSVAE_SOAK is the share of the full form (1), SAMSVAE_SEED what random numbers begin with.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def times() -> Callable[[int, int], int]:
    """Return a function that gives the first number in the full form, the second in the short."""
    share = float(os.environ.get("SAMSVAE_SOAK", 0))
    return lambda full, short: max(short, round(share * full))


@pytest.fixture(scope="session")
def seed() -> int:
    """Return the seed of this run of the tests."""
    return int(os.environ.get("SAMSVAE_SEED", 0))
