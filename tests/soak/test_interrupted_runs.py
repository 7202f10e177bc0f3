"""Processes that are killed or stopped in training, and go on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from helpers.processes import ONE_THREAD, SIGNALS, printed_by
from helpers.saved_files import CHECKPOINT, MODEL, NAMES, TIMES
from helpers.screens import SMALL, make_adata
from samsvae.storage import tensors as files

STEPS = 2000
"""So many that the signal comes before the last one, on a busy machine too."""


def command(folder: Path, *more: str) -> list[str]:
    settings = {
        **SMALL,
        "checkpoint_every": 7,
        "validate_every": 10,
        "batch_size": 64,
        "n_particles": 2,
        "patience": 0,  # else training may be over before the signal
    }
    return [
        str(Path(sys.executable).parent / "samsvae"),
        *("train", str(folder.parent / "data.h5ad"), "--out", str(folder)),
        *("--split-key", "split", "--no-progress", "--max-steps", str(STEPS)),
        *(f"--set={name}={value}" for name, value in settings.items()),
        *more,
    ]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_adata().write_h5ad(folder / "data.h5ad")
    printed_by(*command(folder / "whole"))
    return folder / "whole"


def signalled(run: Path, number: signal.Signals) -> tuple[int, str]:
    process = subprocess.Popen(
        command(run),
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (run / CHECKPOINT).exists():
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert not (run / NAMES).exists(), "training was over before the signal: nothing is tested"
    return process.returncode, message


@pytest.mark.slow
def test_a_killed_process_goes_on(whole_run: Path) -> None:
    run = whole_run.with_name("killed")
    assert signalled(run, signal.SIGKILL) == (-signal.SIGKILL, "")
    assert files.read(run / CHECKPOINT)[1]["step"] in range(7, STEPS, 7)
    printed_by(*command(run, "--resume"))
    assert (run / MODEL).read_bytes() == (whole_run / MODEL).read_bytes()
    ours, theirs = (pd.read_csv(r / "history.csv") for r in (run, whole_run))
    pd.testing.assert_frame_equal(ours.drop(columns=TIMES), theirs.drop(columns=TIMES))


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_process_says_how_to_go_on(whole_run: Path, number: signal.Signals) -> None:
    run = whole_run.with_name(number.name)
    code, message = signalled(run, number)
    assert code == 130
    step = files.read(run / CHECKPOINT)[1]["step"]
    assert re.fullmatch(f"samsvae: .*after step {step} of {STEPS}; .*resume\n", message)
    assert str(run / CHECKPOINT) in message
