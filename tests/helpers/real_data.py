"""Where real data are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(name: str) -> Path:
    """Return the path of a real data file, or skip the test."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SAMSVAE_TEST_DATA", beside))
    if not (folder / name).is_file():
        pytest.skip(f"no {name}: neither SAMSVAE_TEST_DATA nor ../shared/data has it")
    return folder / name
