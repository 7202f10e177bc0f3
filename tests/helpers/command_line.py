"""Lines of the command line, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from helpers.screens import SMALL


class Done(NamedTuple):
    code: int
    out: str
    errors: list[str]
    """Lines on stderr but notes."""
    notes: list[str]


Call = Callable[[str], Done]

TINY = {
    **SMALL,
    "alignment": "none",
    "max_steps": 4,
    "batch_size": 64,
    "n_particles": 2,
    "progress": False,
}
TRAIN = "train data.h5ad --out new --config tiny.toml --split-key split"
BARE = "train data.h5ad --out new --max-steps 1 --no-progress"
QUICK = "--no-progress --n-particles 10"
