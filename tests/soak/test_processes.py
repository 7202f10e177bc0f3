"""Several processes train one model: the steps of one, the same files, and no hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import samsvae
from helpers import together
from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.estimators import ESTIMATORS
from samsvae.storage import tensors as files

SMALL = (
    "--split-key split --n-latent 3 --n-hidden 8 --learning-rate 0.02 --batch-size 50 "
    "--validate-every 10 --checkpoint-every 10 --no-report --no-progress"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    adata = make_adata(n_cells=600)
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(folder / "data.h5ad")
    return folder


def train(folder: Path, out: str, more: str) -> subprocess.CompletedProcess[str]:
    arguments = f"{folder}/data.h5ad --out {folder / out} {SMALL} {more}".split()
    return together.run("-m", "samsvae", "train", *arguments)


def history(folder: Path, out: str) -> pd.DataFrame:
    return pd.read_csv(folder / out / "history.csv").drop(columns="cells_per_second")


def assert_alike(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """In single precision sums in another order drift apart, but not far in so few steps.

    After so few steps the last digits decide in which axes masks are inferred: what depends on axes
    is compared until then.
    """
    aligned = theirs.get("is_aligned", pd.Series(False, theirs.index))
    of_all = ["step", "objective", "elbo", "likelihood", "valid_elbo", "is_best"]
    for one, other in ((ours[~aligned], theirs[~aligned]), (ours[of_all], theirs[of_all])):
        pd.testing.assert_frame_equal(one, other, rtol=1e-2, atol=1e-2)
    assert list(ours.get("is_aligned", aligned)) == list(aligned)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Gradients of two halves of a batch are those of the batch, for every model."""
    kinds = [kind.name for kind in ESTIMATORS]
    done = together.run(together.__file__, tmp_path / "state", *kinds)
    assert done.returncode == 0, done.stderr
    ours, others = (torch.load(tmp_path / f"state.{rank}") for rank in (0, 1))
    for kind in kinds:
        for name, value in together.alone(kind).items():
            found = ours[f"{kind}.{name}"]
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-11, msg=name)
            assert torch.equal(found, others[f"{kind}.{name}"])  # not even in the last digit


@pytest.mark.parametrize("more", ["", "--on-disk"])
def test_a_run_of_two_processes(more: str, folder: Path, call: Call) -> None:
    """History, validation, alignment and files are those of one; only the first process writes."""
    done = train(folder, f"two{more}", f"--max-steps 60 {more}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the model is in") == 1
    single = call(f"train data.h5ad --out one{more} --max-steps 60 {SMALL} {more}")
    assert (single.code, single.errors) == (0, [])
    assert_alike(history(folder, f"two{more}"), history(folder, f"one{more}"))
    names = [{path.name for path in (folder / f"{n}{more}").iterdir()} for n in ("one", "two")]
    assert names[0] == names[1]
    assert samsvae.load(folder / f"two{more}").is_trained


def test_two_processes_compile_their_steps(folder: Path) -> None:
    """Each compiles its own, at the same time; they are the steps that are not compiled."""
    for out, step in (("plain", "plain"), ("compiled", "compiled")):
        done = train(folder, out, f"--max-steps 20 --alignment none --step {step}")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "cannot be compiled" not in done.stderr
    assert_alike(history(folder, "compiled"), history(folder, "plain"))


def test_one_goes_on_where_two_stopped_and_the_other_way(folder: Path, call: Call) -> None:
    whole = call(f"train data.h5ad --out whole --max-steps 60 --device cpu {SMALL}")
    assert whole.code == 0
    assert train(folder, "first", "--max-steps 30 --alignment none").returncode == 0
    more = "--max-steps 60 --alignment none --resume"
    shutil.copytree(folder / "first", folder / "second")
    done = call(f"train data.h5ad --out first {SMALL} {more}")
    assert (done.code, done.errors) == (0, [])
    done = train(folder, "second", more)
    assert done.returncode == 0, done.stderr
    assert_alike(history(folder, "second"), history(folder, "first"))
    assert list(history(folder, "second")["step"]) == list(range(10, 70, 10))
    # One process began, two go on.
    begun = call(f"train data.h5ad --out third --max-steps 30 --alignment none {SMALL}")
    assert begun.code == 0
    done = train(folder, "third", more)
    assert done.returncode == 0, done.stderr
    assert_alike(history(folder, "third"), history(folder, "first"))


def children(parent: int) -> list[int]:
    """Return the processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_dies_ends_the_job(which: int, folder: Path, call: Call) -> None:
    out = folder / f"dies{which}"
    arguments = f"{folder}/data.h5ad --out {out} {SMALL} --max-steps 100000 --alignment none"
    command = together.torchrun("-m", "samsvae", "train", *arguments.split())
    job = subprocess.Popen(
        command, env=together.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.safetensors").exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(children(job.pid)[which], signal.SIGKILL)
        _, errors = job.communicate(timeout=60)  # no hang
    finally:
        job.kill()
    assert job.returncode != 0
    if which == 1:  # the first process tells what happened, and where to go on
        assert b"another of the processes that train together is gone" in errors
    _, header = files.read(out / "checkpoint.safetensors")
    steps = header["step"] + 20
    done = call(
        f"train data.h5ad --out {out} {SMALL} --max-steps {steps} --alignment none --resume"
    )
    assert (done.code, done.errors) == (0, [])
    assert history(folder, out.name)["step"].iloc[-1] == steps


def test_an_error_of_one_is_the_jobs(folder: Path) -> None:
    done = train(folder, "no", "--max-steps 60 --batch-key nothing")
    assert done.returncode != 0
    assert "no column for the batch" in done.stderr
    assert not (folder / "no").exists()


def test_processes_that_would_have_no_cells_are_told(folder: Path) -> None:
    few = SMALL.replace("--batch-size 50", "--batch-size 1")
    arguments = f"{folder}/data.h5ad --out {folder / 'few'} {few} --max-steps 60"
    done = together.run("-m", "samsvae", "train", *arguments.split())
    assert done.returncode != 0
    assert "2 processes cannot share batches of 1 cells" in done.stderr
    assert not (folder / "few").exists()


def test_all_stop_at_the_same_step(folder: Path, call: Call) -> None:
    out = folder / "stopped"
    arguments = f"{folder}/data.h5ad --out {out} {SMALL} --max-steps 100000 --alignment none"
    command = together.torchrun("-m", "samsvae", "train", *arguments.split())
    job = subprocess.Popen(
        command, env=together.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        while not (out / "checkpoint.safetensors").exists():
            assert job.poll() is None
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)  # torchrun hands it on
        _, errors = job.communicate(timeout=60)
    finally:
        job.kill()
    assert b"training stopped after step" in errors
    _, header = files.read(out / "checkpoint.safetensors")
    assert header["step"] % 10 == 0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Return the names of two network namespaces with a cable between them."""
    names, ends = ["samsvae0", "samsvae1"], ["samsvae-a", "samsvae-b"]
    made = False
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("link", "set", end, "netns", name)
            inside = ["netns", "exec", name, "ip"]
            ip(*inside, "addr", "add", f"10.99.0.{i + 1}/24", "dev", end)
            ip(*inside, "link", "set", end, "up")
            ip(*inside, "link", "set", "lo", "up")
        made = True
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        if made:
            raise
        pytest.skip(f"network namespaces need ip, and the right to make them: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_machines(machines: list[str], folder: Path, call: Call) -> None:
    """Namespaces see each other by the cable alone: two machines, but for the disk."""
    out, jobs = folder / "machines", []
    for i, (name, end) in enumerate(zip(machines, ("samsvae-a", "samsvae-b"), strict=True)):
        program = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={i}"]
        program += ["--nproc-per-node=1", "--master-addr=10.99.0.1", "--master-port=29400"]
        arguments = f"{folder}/data.h5ad --out {out} {SMALL} --max-steps 30 --alignment none"
        command = ["ip", "netns", "exec", name, *program, "-m", "samsvae", "train"]
        environment = together.environment() | {"GLOO_SOCKET_IFNAME": end}
        jobs.append(
            subprocess.Popen(
                [*command, *arguments.split()],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
    try:
        told = [job.communicate(timeout=200)[1].decode() for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], told
    single = call(f"train data.h5ad --out single --max-steps 30 --alignment none {SMALL}")
    assert (single.code, single.errors) == (0, [])
    assert_alike(history(folder, "machines"), history(folder, "single"))
