"""What `samsvae inspect` says of columns, and the command that it prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from helpers.command_line import Call
from helpers.layouts import layout
from helpers.screens import make_adata

QUIET = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def stimulated(n_cells: int = 2400) -> AnnData:
    """Return cells of two stimulations in wells of 20, with other columns of every kind."""
    rng = np.random.default_rng(0)
    adata = make_adata(n_cells=n_cells)
    del adata.obs["batch"], adata.obs["split"]
    stimulation = rng.integers(0, 2, n_cells)
    adata.X[:, 4:7] += rng.poisson(8 * stimulation[:, None], (n_cells, 3))
    control = (adata.obs["perturbation"] == "control").to_numpy()
    codes = adata.obs["perturbation"].astype("category").cat.codes.to_numpy()
    adata.obs["stimulation"] = np.array(["none", "IFN"])[stimulation]
    adata.obs["sample"] = [f"w{i}" for i in rng.permutation(n_cells) // 20]  # usual for a batch
    adata.obs["plate"] = [f"p{code}_{i % 2}" for code, i in zip(codes, range(n_cells), strict=True)]
    adata.obs["site"] = np.where(control, "Paris", np.array(["Paris", "Rome"])[stimulation])
    adata.obs["treated"] = np.where(stimulation == 1, "yes", "no")  # the same in other words
    adata.obs["leiden"] = np.array(["0", "1"])[stimulation]
    adata.obs["coin"] = rng.integers(0, 2, n_cells)
    adata.obs["ph"] = rng.normal(size=n_cells)
    adata.obs["nCount"] = adata.X.sum(1)
    return adata


def line_of(told: str, name: str) -> str:
    (line,) = (one.strip() for one in told.splitlines() if one.startswith(f"    {name}:"))
    return line


@QUIET
def test_every_column_is_looked_at_and_the_batch_is_a_statisticians(
    folder: Path, call: Call
) -> None:
    del folder
    stimulated().write_h5ad("x.h5ad")
    done = call("inspect x.h5ad")
    assert (done.code, done.errors) == (0, [])
    said = {
        "stimulation": r"2 levels of about 1,200 cells (control: IFN 2",
        "sample": "120 levels of about 20 cells (control: ",
        "plate": "nested in the condition: each level holds one",
        "site": "constant in control (Paris)",
        "treated": "says nothing beyond stimulation",
        "leiden": "computed from expression",
        "coin": "2 levels of about 1,2",
        "ph": "numbers; explains 0.0% of expression",
        "nCount": "counts the cell's molecules",
    }
    for name, text in said.items():
        assert text in line_of(done.out, name), name
    assert "many tiny levels" in line_of(done.out, "sample")
    contexts = [name for name in said if "--context-key" in line_of(done.out, name)]
    assert contexts == ["stimulation"]
    assert "--context-key stimulation" in line_of(done.out, "stimulation")
    share = float(line_of(done.out, "stimulation").split("explains ")[1].split("%")[0])
    assert share > 5
    assert float(line_of(done.out, "coin").split("explains ")[1].split("%")[0]) < 0.2
    command = shlex.split(done.out.splitlines()[-1])
    assert command[command.index("--batch-key") + 1] == "stimulation"
    assert command.count("--batch-key") == 1
    assert "this trains, for at most" in done.out.splitlines()[-2]


def only_control(adata: AnnData) -> AnnData:
    return adata[adata.obs["perturbation"] == "control"].copy()


def no_control(adata: AnnData) -> AnnData:
    return adata[adata.obs["perturbation"] != "control"].copy()


def repeated(adata: AnnData) -> AnnData:
    del adata.obs["split"]
    adata.obs_names = [f"c{i % 120}" for i in range(len(adata))]
    return adata


def unsplit(adata: AnnData) -> AnnData:
    adata.obs["split"] = "test"
    return adata


REASONS = [
    (only_control, "no perturbed cells in training: all of them are controls"),
    (no_control, "no control cells in training: expected 'control'; there are 'A', 'A+B'"),
    (repeated, "120 cell names occur more than once"),
    (unsplit, "the split leaves no training cells"),
]


@QUIET
@pytest.mark.parametrize(("spoil", "reason"), REASONS)
def test_where_nothing_can_be_trained_it_ends_in_the_reason(
    spoil: Callable[[AnnData], AnnData], reason: str, folder: Path, call: Call
) -> None:
    del folder
    spoil(make_adata()).write_h5ad("x.h5ad")
    done = call("inspect x.h5ad")
    assert (done.code, done.errors) == (0, [])
    assert done.out.splitlines()[-1].startswith(f"it cannot be trained on: {reason}")
    assert "nan" not in done.out
    n_control = int((make_adata().obs["perturbation"] == "control").sum())
    assert f"conditions: {0 if spoil is no_control else n_control} cells of 'control'" in done.out
    assert "samsvae train" not in done.out
    assert (
        reason
        in call(
            "train x.h5ad --out new --split-key split"
            if "split" in reason
            else "train x.h5ad --out new"
        ).errors[0]
    )


@QUIET
def test_the_command_trains(folder: Path, call: Call) -> None:
    stimulated(600).write_h5ad("x.h5ad")
    command = shlex.split(call("inspect x.h5ad").out.splitlines()[-1])
    small = "--n-latent 2 --n-hidden 4 --max-steps 2 --no-progress --no-report"
    assert call(f"{shlex.join(command[1:])} {small}").errors == []
    assert (folder / "runs" / "x" / "model.json").exists()


@QUIET
def test_a_convention_without_batches_gets_some(folder: Path, call: Call) -> None:
    del folder
    given = layout("gears").adata
    given.obs["batch"] = np.array(["one", "two"])[np.arange(len(given)) % 2]
    given.write_h5ad("x.h5ad")
    told = call("inspect x.h5ad").out
    assert "laid out like gears" in told
    assert "--batch-key" in told.splitlines()[-1]
