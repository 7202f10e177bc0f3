"""A comparison on a cluster of two workers, one of them killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from helpers.screens import make_adata

LINE = (
    "compare screen.h5ad --split-key split --models sams-vae,cpa-vae --seeds 2 --max-steps 600 "
    "--checkpoint-every 50 --n-latent 3 --n-hidden 6 --baselines none --no-progress"
)
PATH = os.pathsep.join([one for one in sys.path if one])  # workers see what this process sees
SEEN = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
Environment = dict[str, str]


def python(*words: str, **how: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **how)  # type: ignore


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def ray_cluster() -> Iterator[Environment]:
    port = free_port()
    # Workers are not to be nice to others, or a busy machine would not let them end.
    environment = SEEN | {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_worker_niceness": "0"}
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


@contextmanager
def dask_cluster() -> Iterator[Environment]:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    environment = SEEN | {"DASK_SCHEDULER_ADDRESS": address}
    with tempfile.TemporaryDirectory() as place:
        how = {"cwd": place, "env": environment}
        scheduler = f"distributed.cli.dask_scheduler --host 127.0.0.1 --port {port} --no-dashboard"
        worker = f"distributed.cli.dask_worker {address} --nthreads 1 --no-dashboard"
        begun = [python(*line.split(), **how) for line in (scheduler, worker, worker)]
        try:
            yield environment
        finally:
            for process in reversed(begun):
                process.terminate()
                process.communicate(timeout=60)


CLUSTERS = {"ray": ray_cluster, "dask": dask_cluster}


def workers_of(place: Path) -> list[int]:
    """Return the processes that hold a file of a place open for writing."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(str(place)) for file in files):
            found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_worker_is_killed_and_nothing_is_lost(tmp_path: Path, engine: str) -> None:
    module = {"ray": "ray", "dask": "distributed"}[engine]
    pytest.importorskip(module, reason=f"{module} is not installed: make test-cluster does it")
    make_adata(n_cells=600).write_h5ad(tmp_path / "screen.h5ad")
    with CLUSTERS[engine]() as environment:
        how = {"cwd": tmp_path, "env": environment}
        given = python("samsvae", *LINE.split(), "--out", "out", "--engine", engine, **how)
        unfinished = tmp_path / "out" / "unfinished"
        until = time.monotonic() + 120
        while not (killed := workers_of(unfinished)) or not list(unfinished.glob("*/checkpoint*")):
            assert time.monotonic() < until, given.communicate()
            assert given.poll() is None, given.communicate()
            time.sleep(0.02)
        os.kill(killed[0], signal.SIGKILL)
        out, error = given.communicate(timeout=300)
    assert given.returncode == 0, out + error
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 4
    assert not unfinished.exists()
    if engine == "ray":  # Dask begins a lost job again by itself, from its checkpoint
        assert "a worker was lost" in out
    # The numbers are those of one process that nothing interrupts.
    alone = python(
        "samsvae", *LINE.split(), "--out", "alone", "--jobs", "1", cwd=tmp_path, env=SEEN
    )
    out, error = alone.communicate(timeout=300)
    assert alone.returncode == 0, out + error
    ours, theirs = (
        pd.read_csv(tmp_path / name / "results.csv").drop(columns="mc_se")
        for name in ("out", "alone")
    )
    pd.testing.assert_frame_equal(ours, theirs)
