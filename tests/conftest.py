"""Fixtures of small screens, a trained model and the command line."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from anndata import AnnData

import samsvae
from helpers.command_line import Call, Done
from helpers.screens import SMALL, make_adata, read
from samsvae import __main__ as command_line
from samsvae.storage import probe

torch.set_num_threads(1)  # the shapes here are tiny: more threads only wait for each other


@pytest.fixture(scope="session", autouse=True)
def _no_note_in_the_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Note the files of tests in a folder of theirs, not in the user's cache."""
    folder = tmp_path_factory.mktemp("hdf5")
    probe._note_of = lambda identity: folder / identity


@pytest.fixture
def adata() -> AnnData:
    return make_adata()


@pytest.fixture
def screen(adata: AnnData) -> samsvae.Screen:
    return read(adata)


@pytest.fixture(scope="session")
def trained() -> samsvae.SAMSVAE:
    """Return a small trained model. Shared: do not train or change it."""
    screen = read(make_adata())
    return samsvae.SAMSVAE(screen, **SMALL, embedding_given_mask=True).train(
        alignment="none",
        max_steps=200,
        batch_size=64,
        n_particles=2,
        learning_rate=0.01,
        validate_every=20,
        progress=False,
    )


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return what runs a line of the command line, in the `folder` of the test's own file."""
    monkeypatch.chdir(folder)

    def run(line: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["samsvae", *shlex.split(line)])
        code: Any = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                command_line.main()
            except SystemExit as exit_:
                code = exit_.code
        out, error = capsys.readouterr()
        lines = error.splitlines()
        notes = [line for line in lines if line.startswith("samsvae: note: ")]
        return Done(code, out, [line for line in lines if line not in notes], notes)

    return run
