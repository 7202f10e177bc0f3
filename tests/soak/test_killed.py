"""kill -9 at any moment of training and saving; memory that does not grow; threads."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError
from samsvae.estimators import saving
from samsvae.estimators.base import Estimator
from samsvae.storage import tensors as files

TRAINING: dict[str, Any] = {
    "max_steps": 120,
    "batch_size": 64,
    "validate_every": 10,
    "checkpoint_every": 3,
    "progress": False,
}
Times = Callable[[int, int], int]


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    return read(make_adata())


def trained(screen: samsvae.Screen, **more: Any) -> Estimator:
    return samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING | more)


def forked(work: Callable[[], object]) -> int:
    """Start a process that does some work and ends; return its number."""
    pid = os.fork()
    if pid:
        return pid
    end_of_child(work)


def end_of_child(work: Callable[[], object]) -> NoReturn:
    try:
        work()
    finally:
        os._exit(0)


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Kill a process that does some work; return whether it was still at it."""
    pid = forked(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_in_training(
    screen: samsvae.Screen, tmp_path: Path, times: Times, seed: int
) -> None:
    """The newest checkpoint is whole, and leads to the numbers of a run that nobody killed."""
    start = time.perf_counter()
    whole = trained(screen, checkpoint=tmp_path / "whole.safetensors")
    seconds = time.perf_counter() - start
    rng, n_hit, n_resumed = random.Random(seed), 0, 0
    for i in count():
        path = tmp_path / f"{i}.safetensors"
        train = partial(trained, screen, checkpoint=path, resume=True)
        while True:  # killed again and again, until it gets to its end
            hit = killed_after(rng.uniform(0, 0.7 * seconds), train)
            n_hit += hit
            if path.exists():
                assert files.read(path)[1]["step"] % 3 == 0
                n_resumed += 1
            if not hit or rng.random() < 0.5:
                break
        ours = train()
        for name, value in whole.module.state_dict().items():
            assert torch.equal(ours.module.state_dict()[name], value), (i, name)
        columns = ours.history.columns.drop("cells_per_second")
        pd.testing.assert_frame_equal(
            ours.history[columns], whole.history[columns], check_exact=True
        )
        assert not [one.name for one in tmp_path.iterdir() if one.name.startswith(f".{i}.")]
        if n_hit >= times(50, 6):
            break
    print({"killed in training": n_hit, "with a checkpoint": n_resumed, "runs": i + 1})
    assert n_resumed > times(15, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_in_saving(screen: samsvae.Screen, tmp_path: Path, times: Times, seed: int) -> None:
    """What is saved is the old model or the new one, each whole; or the load says what is wrong."""
    models = [trained(screen, max_steps=n, alignment="none") for n in (10, 20)]
    known = [model.embeddings() for model in models]

    def save_by_turns() -> None:
        while True:
            for model in models:
                model.save(tmp_path)

    models[0].save(tmp_path)
    rng, outcomes = random.Random(seed), {"old": 0, "new": 0, "told": 0}
    n = times(50, 8)
    for _ in range(n):
        assert killed_after(rng.uniform(0.001, 0.2), save_by_turns)
        try:
            found = samsvae.load(tmp_path).embeddings()
        except InputError as error:  # killed between the two renames
            outcomes["told"] += "do not belong together" in str(error)
            models[0].save(tmp_path)
            continue
        which = [bool((found == one).all(axis=None)) for one in known]
        assert sum(which) == 1
        outcomes["old" if which[0] else "new"] += 1
    print(outcomes)
    assert outcomes["old"] > 0
    assert outcomes["new"] > 0
    assert sum(outcomes.values()) == n
    assert (tmp_path / saving.NAMES).exists()


def test_a_full_disk_leaves_the_last_checkpoint(screen: samsvae.Screen, tmp_path: Path) -> None:
    """Files may not grow beyond a size: as on a full disk, writing fails in the middle."""
    path = tmp_path / "checkpoint.safetensors"
    one_phase = {"alignment": "none", "checkpoint": path}  # else it depends on the number of steps
    trained(screen, **one_phase, max_steps=30)
    before = path.read_bytes()

    def with_no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
        try:
            trained(screen, **one_phase, resume=True)
        except InputError as error:
            (tmp_path / "told").write_text(str(error))

    os.waitpid(forked(with_no_room), 0)
    assert "what was there before is unchanged" in (tmp_path / "told").read_text()
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, "told"]


def resident() -> int:
    """Return the memory that this process holds, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read in /proc")
def test_memory_does_not_grow(screen: samsvae.Screen, tmp_path: Path, times: Times) -> None:
    n_steps = times(20_000, 3_000)
    held = []

    def saved() -> None:
        held.append(resident())

    settings = samsvae.TrainSettings(
        **TRAINING | {"max_steps": n_steps, "checkpoint_every": n_steps // 20, "patience": 0},
        checkpoint=tmp_path / "checkpoint.safetensors",
    )
    samsvae.SAMSVAE(screen, **SMALL).train_with(settings, saved=saved)
    assert len(held) == 20
    print({"steps": n_steps, "growth in MB": (max(held) - held[0]) / 2**20})
    # The first twentieth warms up: what is made once is made there.
    assert max(held) - held[0] < 50 * 2**20


def test_threads_change_the_last_digits_only(screen: samsvae.Screen) -> None:
    found = {}
    n_threads = torch.get_num_threads()
    try:
        for n in (1, 2, 1, 2):
            torch.set_num_threads(n)
            state = trained(screen, max_steps=20, alignment="none").module.state_dict()
            same = found.setdefault(n, state)
            for name, value in state.items():  # bit for bit with the same threads
                assert torch.equal(same[name], value), (n, name)
    finally:
        torch.set_num_threads(n_threads)
    for name, value in found[1].items():
        torch.testing.assert_close(found[2][name], value, rtol=1e-3, atol=1e-5, msg=name)
