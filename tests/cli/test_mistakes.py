"""One line for every mistake, and nothing changed on disk."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import samsvae
from helpers.command_line import BARE, TRAIN, Call
from samsvae.cli.console import say
from samsvae.runs import run as run_module


def files(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def restore(folder: Path, before: dict[str, bytes | None]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in before:
            path.rmdir() if path.is_dir() else path.unlink()
    for name, content in before.items():
        if content is not None:
            (folder / name).write_bytes(content)


OUT_OF_RANGE = [
    *("n_latent 0", "n_layers 0", "n_hidden 0", "batch_size 0", "n_particles 0", "seed -1"),
    *("learning_rate 0", "learning_rate -1", "learning_rate nan", "clip_norm 0"),
    *("mask_prob 2", "embedding_scale inf"),
]
BAD = [
    ("trian data.h5ad", "trian.*train"),
    (f"{BARE} --n-latnt 3", "--n-latnt.*--n-latent"),
    (f"{BARE} --set n_latnt=3", "'n_latnt'.*'n_latent'"),
    (f"{BARE} --config unknown.toml", "unknown.toml.*'n_latnt'.*'n_latent'"),
    (f"{BARE} --set n_latent", "'n_latent'.*name=value"),
    (f"{BARE} --n-latent four", "--n-latent.*four.*int"),
    (f"{BARE} --set n_latent=four", "n_latent.*'four'.*--set.*whole number"),
    (f"{BARE} --config type.toml", "n_latent.*'four'.*type.toml.*whole number"),
    (f"{BARE} --n-latent 4.5", "n.latent.*4.5"),
    (f"{BARE} --set n_latent=4.5", "n_latent.*4.5.*whole number"),
    (f"{BARE} --set counts=maybe", "counts.*'maybe'.*True or False"),
    (f"{BARE} --set mask_prob=1%", "mask_prob.*'1%'.*a number"),
    (f"{BARE} --config nothing.toml", "'nothing.toml'"),
    (f"{BARE} --config broken.toml", "'broken.toml' is not TOML"),
    ("train data.h5ad", "--out"),
    ("train --out new", "DATA"),
    ("train nothing.h5ad --out new", "no file 'nothing.h5ad'"),
    ("train empty --out new", "'empty'"),
    ("train text.h5ad --out new", "'text.h5ad' cannot be read as h5ad"),
    ("train plain.h5ad --out new", "'plain.h5ad' cannot be read as h5ad"),
    ("train cut.h5ad --out new", "'cut.h5ad' cannot be read as h5ad"),
    ("train log.h5ad --out new", "not whole.*layer='counts'"),
    ("train empty_cells.h5ad --out new", "3 of 240 cells have no counts.*--drop-empty-cells"),
    ("train data.h5ad --out run", "'run' exists.*--overwrite.*--resume"),
    ("train data.h5ad --out taken.csv --overwrite", "'taken.csv' is a file"),
    (f"{BARE.replace('new', 'taken.csv/new')}", "taken.csv"),
    *((f"{BARE} --{o.replace('_', '-')}", o.replace(" ", " is ")) for o in OUT_OF_RANGE),
    ("train data.h5ad --out new --max-steps 0", "max_steps is 0"),
    (f"{BARE} --max-epochs 2", "max_steps and max_epochs"),
    (f"{BARE} --device nonsense", "device 'nonsense'.*'cpu'"),
    ("train data.h5ad --out run --overwrite --device nonsense", "device 'nonsense'.*'cpu'"),
    (f"{BARE} --perturbation-key pertubation", "'pertubation'.*'perturbation'"),
    (f"{BARE} --control ctrl", "'ctrl'.*'control'"),
    (f"{BARE} --layer counts", "'counts'"),
    (f"{BARE} --split-key spilt", "'spilt'.*'split'"),
    (f"{BARE} --batch-key bach", "'bach'.*'batch'"),
    (
        f"{TRAIN.replace('new', 'run')} --resume --learning-rate 0.1",
        "learning_rate = 0.003, not 0.1",
    ),
    (f"{TRAIN.replace('new', 'run')} --resume --seed 1", "seed = 0, not 1"),
    (f"{TRAIN.replace('new', 'run')} --resume --n-latent 5", "n_latent = 4, not 5"),
    ("evaluate nothing data.h5ad", "no directory 'nothing'"),
    ("evaluate empty data.h5ad", "no saved model in 'empty'"),
    ("evaluate run fewer_genes.h5ad --no-progress", "lack 1 of the model's 12 genes: 'g0'"),
    ("evaluate run cut.h5ad", "'cut.h5ad' cannot be read as h5ad"),
    ("evaluate run data.h5ad --split tets", "'tets'.*'test'"),
    ("evaluate run data.h5ad --n-particles 0 --no-progress", "n_particles is 0"),
    ("evaluate run data.h5ad --split-key spilt", "'spilt'.*'split'"),
    ("effects nothing A", "no directory 'nothing'"),
    ("effects empty A", "no saved model in 'empty'"),
    ("effects run D", "no perturbation 'D'.*'A', 'B', 'C'"),
    ("effects run A+D --out new.csv", "no perturbation 'D'"),
    ("effects run A+", r"'A\+' has an empty part"),
    ("effects run A --out taken.csv", "'taken.csv' exists.*--overwrite"),
    ("effects run A --out new.tsv", "'new.tsv'.*'.csv', '.h5ad'"),
    (
        "effects run A --out taken.csv/new.csv --no-progress",
        "cannot make 'taken.csv/new.csv': .*taken.csv' is a file",
    ),
    ("effects run A --n-particles 0", "n_particles is 0"),
    ("effects run A --scale lgo", "lgo.*log"),
    ("effects run A --library-size 0", "library_size is 0"),
    ("simulate run --out new.h5ad", "no conditions"),
    ("simulate run A", "--out"),
    ("simulate run D --out new.h5ad", "no perturbation 'D'"),
    ("simulate run A --out taken.csv --overwrite", "'taken.csv'.*'.h5ad'"),
    ("simulate run A --out new.h5ad --n-cells 0", "n_cells is 0"),
    ("simulate run A --out new.h5ad --cells fewer_genes.h5ad", "lack 1 of"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_mistake(run: Path, call: Call, line: str, message: str) -> None:
    before = files(run.parent)
    done = call(line)
    left = files(run.parent)
    restore(run.parent, before)
    assert (done.code, len(done.errors)) == (2, 1), done
    assert re.match(f"samsvae: .*{message}", done.errors[0]), done.errors
    assert left == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("two\nlines"), 1, "internal error, RuntimeError: two lines .*--debug"),
        (MemoryError("no 5 GiB"), 1, r"out of memory \(no 5 GiB\): .*--on-disk"),
        (samsvae.NonFiniteError("step 3"), 1, "step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (samsvae.TrainingInterrupted("go on with resume"), 130, "go on with resume"),
    ],
)
def test_other_errors(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run_module, "read_screen", fail)
    done = call(BARE)
    assert (done.code, len(done.errors)) == (code, 1), done
    assert re.fullmatch(f"samsvae: {message}.*", done.errors[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_as_ctrl_c_does(
    number: signal.Signals, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "read_screen", lambda *_: signal.raise_signal(number))
    done = call(BARE)
    assert (done.code, done.errors) == (130, ["samsvae: interrupted"])
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_that_is_ignored_is_ignored(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nohup has it."""
    monkeypatch.setattr(run_module, "read_screen", lambda *_: signal.raise_signal(signal.SIGHUP))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert "screen is None" in call(BARE).errors[0]  # it goes on, without a screen
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("line", ["--debug train no.h5ad --out new", "effects no A --debug"])
def test_debug_shows_the_traceback(call: Call, line: str) -> None:
    done = call(line)
    assert done.code == 2
    assert done.errors[0] == "Traceback (most recent call last):"
    assert done.errors[-1].startswith("samsvae: no ")


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say("runs/[red]x")
    assert capsys.readouterr().out == "runs/[red]x\n"


@pytest.mark.parametrize(
    "line", ["compare data.h5ad --out new", "inspect data.h5ad", "datasets list"]
)
def test_what_one_process_does_is_not_done_by_several(
    line: str, folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun would start them: two would write one directory."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    before = files(folder)
    done = call(line)
    assert done.code == 2
    assert re.search(f"would run all of samsvae {line.split()[0]}: start it once", done.errors[0])
    assert files(folder) == before
    assert call("compare --help").code == 2
    assert call("--help").code == 0
