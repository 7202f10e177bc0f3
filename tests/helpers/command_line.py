"""Lines of the command line, and what they leave behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
_SMALL = (
    "data.h5ad --split-key split --n-latent 3 --n-hidden 6 --max-steps 6 --batch-size 64 "
    "--no-progress"
)
TRAIN_OUT = f"train {_SMALL} --out out"
COMPARE_OUT = f"compare {_SMALL} --out out --models cpa-vae --baselines none --seeds 1 --jobs 1"
DEMO_OUT = "demo --out out --no-progress"


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, hidden ones too."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def fails(folder: Path, line: str, before: Callable[[], None] | None = None) -> str:
    """Run a line of the command line that fails; return the one line that says why."""
    command = [sys.executable, "-m", "samsvae", *line.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, preexec_fn=before)
    errors = [one for one in done.stderr.splitlines() if not one.startswith("samsvae: note: ")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    return errors[0]
