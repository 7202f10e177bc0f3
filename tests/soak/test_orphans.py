"""No process goes on when the one that started it is stopped or killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from helpers.processes import ONE_THREAD
from helpers.screens import make_adata

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
LINE = (
    "compare data.h5ad --split-key split --models sams-vae,cpa-vae --seeds 1 --jobs 2 "
    "--baselines none --n-latent 2 --n-hidden 4 --checkpoint-every 10 --max-steps 200 "
    "--no-report --no-progress"
)


REPRODUCE = (
    "reproduce norman-ood --data norman.h5ad --experiment small.toml --jobs 2 --no-progress "
    "--n-genes 40"
)
SMALL = """
split = "norman-ood"
fractions = [0.75]
seeds = 2
baselines = ["additive"]
choice_particles = 5
[scoring]
n_particles = 5
effect_particles = 20
n_draws = 5
n_halvings = 0
n_cells = 0
[[models]]
label = "SAMS-VAE"
model = "sams-vae"
alignment = "none"
n_latent = 4
n_hidden = 8
max_steps = 60
checkpoint_every = 5
"""
RESULTS = {LINE: "results.csv", REPRODUCE: "pooled.csv"}


def command(folder: Path, out: str, *more: str, line: str = LINE) -> subprocess.Popen[str]:
    """Start an experiment, in a session of its own."""
    words = [sys.executable, "-m", "samsvae", *line.split(), "--out", out, *more]
    return subprocess.Popen(
        words,
        cwd=folder,
        env=ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(numbers[2]) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def ended(session: int, *, within: float = 30) -> bool:
    """Wait until no process of a session is left; return whether that was in time."""
    deadline = time.monotonic() + within
    while processes_of(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def wait_for_checkpoints(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("unfinished/*/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orphans")
    make_adata().write_h5ad(folder / "data.h5ad")
    (folder / "small.toml").write_text(SMALL)
    words = "datasets stand-in norman --out norman.h5ad --scale 0.01"
    subprocess.run([sys.executable, "-m", "samsvae", *words.split()], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_workers_end_and_the_comparison_goes_on(number: str, folder: Path) -> None:
    process = command(folder, number)
    wait_for_checkpoints(folder / number, process)
    os.kill(process.pid, getattr(signal, number))
    said, _ = process.communicate(timeout=60)
    if number == "SIGKILL":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        last = said.splitlines()[-1]
        assert last == f"samsvae: stopped: the same command with --resume goes on with '{number}'"
    again = command(folder, number, "--resume")  # at once
    said_again, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said_again
    assert len(list(folder.glob(f"{number}/scores/*/scores.csv"))) == 3
    assert not (folder / number / "failures").exists()
    assert ended(process.pid)
    assert ended(again.pid)


@pytest.mark.slow
@pytest.mark.parametrize("line", RESULTS, ids=["compare", "reproduce"])
def test_killed_in_an_experiment(
    line: str, folder: Path, times: Callable[[int, int], int], seed: int
) -> None:
    """Killed again and again until it ends: the scores are those of one that nobody killed."""
    name = line.split()[0]
    whole = command(folder, f"{name}-whole", line=line)
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    rng, n_killed, n_ended, n = random.Random(seed), 0, 0, times(25, 1)
    while n_killed < n or not n_ended:
        out = f"{name}-{n_ended}"
        more = ("--resume",) if (folder / out).exists() else ()
        process = command(folder, out, *more, line=line)
        try:
            seconds = rng.uniform(3, 25) if n_killed < n else 300
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            n_killed += 1
        else:
            assert process.returncode == 0, said
            ours, theirs = (
                pd.read_csv(folder / one / RESULTS[line]) for one in (out, f"{name}-whole")
            )
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
            n_ended += 1
        assert ended(process.pid)
    print({f"killed in {name}": n_killed, "ended": n_ended})
