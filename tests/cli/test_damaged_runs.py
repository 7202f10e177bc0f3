"""Damaged run directories: a clear line, or the answer of the whole one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from helpers.command_line import Call
from helpers.screens import make_adata

TRAIN = "train data.h5ad --n-latent 3 --n-hidden 6 --max-steps 4 --no-progress"
EFFECTS = "effects bad A --no-progress --n-particles 4 --out effects.csv --overwrite"
EVALUATE = (
    "evaluate bad data.h5ad --no-baselines --no-progress --n-particles 4 --effect-particles 8"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged_runs")
    make_adata().write_h5ad(folder / "data.h5ad")
    return folder


@pytest.fixture
def good(folder: Path, call: Call) -> Path:
    """Return a finished run with scores, made once."""
    if not (folder / "good").exists():
        assert call(f"{TRAIN} --out good").code == 0
        assert call(EVALUATE.replace("bad", "good")).code == 0
    return folder / "good"


def mutate(path: Path, rng: random.Random) -> str:
    """Change something in a file; return what."""
    content, kind = (
        bytearray(path.read_bytes()),
        rng.choice(["byte", "cut", "empty", "more", "key"]),
    )
    place = rng.randrange(len(content))
    if kind == "key" and path.suffix == ".json":
        record = json.loads(content)
        key = rng.choice(list(record))
        record[key] = rng.choice([None, 5, "x", [], {}, float("nan"), 10**30])
        content = bytearray(json.dumps(record).encode())
    elif kind == "cut":
        content = content[:place]
    elif kind == "empty":
        content = bytearray()
    elif kind == "more":
        content[place:place] = rng.randbytes(6)
    else:
        content[place] = rng.randrange(256)
    path.write_bytes(content)
    return f"{kind} of {path.name}"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutated_runs_end_in_a_line_or_the_right_answer(
    good: Path, folder: Path, call: Call
) -> None:
    rng = random.Random(0)
    shutil.copytree(good, folder / "bad", dirs_exist_ok=True)
    assert call(EFFECTS).code == 0
    right = pd.read_csv(folder / "effects.csv")
    names = sorted(
        str(path.relative_to(good))
        for path in good.rglob("*")
        if path.is_file() and path.suffix not in (".h5ad", ".html")
    )
    codes = []
    for _ in range(120):
        shutil.rmtree(folder / "bad")
        shutil.copytree(good, folder / "bad")
        what = mutate(folder / "bad" / rng.choice(names), rng)
        line = rng.choice([EFFECTS, EVALUATE, f"{TRAIN} --out bad --resume"])
        done = call(line)
        codes.append(done.code)
        assert done.code in (0, 2), (what, line, done)
        assert len(done.errors) == (done.code == 2), (what, line, done)
        if done.code == 0 and line == EFFECTS:
            pd.testing.assert_frame_equal(pd.read_csv(folder / "effects.csv"), right)
    assert 20 < codes.count(2) < 100


@pytest.mark.parametrize("name", ["config.toml", "model.json", "model.safetensors", "scores.csv"])
def test_no_link_in_a_run_is_followed(name: str, good: Path, folder: Path, call: Call) -> None:
    shutil.rmtree(folder / "bad", ignore_errors=True)
    shutil.copytree(good, folder / "bad")
    (folder / "bad" / name).rename(folder / "elsewhere")
    (folder / "bad" / name).symlink_to(folder / "elsewhere")
    for line in (EFFECTS, EVALUATE):
        done = call(line)
        assert (done.code, len(done.errors)) == (2, 1)
        assert f"{name}' is a link, which is not followed" in done.errors[0]


def test_no_path_of_a_run_is_followed(good: Path, folder: Path, call: Call) -> None:
    shutil.rmtree(folder / "bad", ignore_errors=True)
    shutil.copytree(good, folder / "bad")
    secret = folder / "secret.csv"
    secret.write_text("cell,secret\ncell0,password\n")
    with (folder / "bad" / "config.toml").open("a") as file:
        file.write(f'labels = "{secret}"\n')
    done = call(EVALUATE)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "give --labels again" in done.errors[0]
    assert "password" not in done.errors[0]


HOLDING = """
import sys
from pathlib import Path
from samsvae.runs.run import Run
with Run(Path("good")).made(resume=True):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_run_is_written_by_one_process_at_a_time(good: Path, folder: Path, call: Call) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        for more in ("--resume", "--overwrite"):
            done = call(f"{TRAIN} --out good {more}")
            assert (done.code, len(done.errors)) == (2, 1)
            assert "another process is writing 'good'" in done.errors[0]
        process.stdin.write("\n")
    assert call(f"{TRAIN} --out good --resume").code == 0
