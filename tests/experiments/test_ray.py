"""A comparison on a Ray cluster of two workers, one of them killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from helpers.screens import make_adata

pytest.importorskip("ray", reason="ray is not installed: pip install 'samsvae[ray]'")

LINE = (
    "compare screen.h5ad --split-key split --models sams-vae,cpa-vae --seeds 2 --max-steps 1500 "
    "--checkpoint-every 50 --n-latent 3 --n-hidden 6 --baselines none --no-progress"
)
COUNTS = {**os.environ, "OMP_NUM_THREADS": "1", "SAMSVAE_TEST": "ray"}


def python(*words: str, **how: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **how)  # type: ignore


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment in which a cluster of two workers answers."""
    port = "6397"
    path = os.pathsep.join([one for one in sys.path if one])  # workers see what this process sees
    environment = {**COUNTS, "PYTHONPATH": path, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    where = Path(tempfile.gettempdir()) / f"ray-{os.getpid()}"  # its sockets bear no long names
    start = f"ray.scripts.scripts start --head --num-cpus 2 --port {port} --temp-dir {where}"
    begun = python(*start.split(), "--include-dashboard", "false", env=environment)
    out, error = begun.communicate(timeout=120)
    assert begun.returncode == 0, out + error
    processes = [int(path.name) for path in Path("/proc").glob("[0-9]*") if of_cluster(path, where)]
    try:
        yield environment
    finally:
        for process in processes:
            if of_cluster(Path(f"/proc/{process}"), where):
                os.kill(process, signal.SIGKILL)  # its head outlives a SIGTERM


def of_cluster(process: Path, where: Path) -> bool:
    try:
        return str(where).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


def workers_of(place: Path) -> list[int]:
    """Return the workers that hold a file of a place open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::PoolActor.run"):
                files = [os.readlink(file) for file in (process / "fd").iterdir()]
                if any(file.startswith(str(place)) for file in files):
                    found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(tmp_path: Path, cluster: dict[str, str]) -> None:
    make_adata(n_cells=600).write_h5ad(tmp_path / "screen.h5ad")
    how = {"cwd": tmp_path, "env": cluster}
    given = python("samsvae", *LINE.split(), "--out", "out", "--engine", "ray", **how)
    unfinished = tmp_path / "out" / "unfinished"
    until = time.monotonic() + 120
    while not (killed := workers_of(unfinished)) or not list(unfinished.glob("*/checkpoint*")):
        assert time.monotonic() < until, given.communicate()
        assert given.poll() is None, given.communicate()
        time.sleep(0.05)
    os.kill(killed[0], signal.SIGKILL)
    out, error = given.communicate(timeout=300)
    assert given.returncode == 0, out + error
    assert "a worker was lost" in out
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 4
    assert not unfinished.exists()
    # The numbers are those of one process that nothing interrupts.
    alone = python("samsvae", *LINE.split(), "--out", "alone", "--jobs", "1", **how)
    out, error = alone.communicate(timeout=300)
    assert alone.returncode == 0, out + error
    ours, theirs = (
        pd.read_csv(tmp_path / name / "results.csv").drop(columns="mc_se")
        for name in ("out", "alone")
    )
    pd.testing.assert_frame_equal(ours, theirs)
