"""Names that would do harm, through everything that is printed and written."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

import samsvae
from helpers.command_line import Call
from helpers.screens import make_adata
from samsvae.storage.tables import read_csv

HOSTILE = ["NA", "=A1", "x\x1b[31my", "a\u202eb", "carriage\rreturn", "L" * 10_000, "<b>&'\"/"]
LABELS = HOSTILE[1:]
"""NA is a name of a gene; as a label it says that there is none."""
QUICK = "--no-progress --n-particles 5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    adata = make_adata(n_cells=320, labels=("control", *LABELS))
    adata.var_names = [*HOSTILE, *adata.var_names[len(HOSTILE) :]]
    adata.obs_names = [f"{HOSTILE[i % 5]}{i}" for i in range(adata.n_obs)]
    adata.obs["split"] = "train"
    adata.obs.iloc[::3, adata.obs.columns.get_loc("split")] = "test"
    adata.write_h5ad(folder / "data.h5ad")
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once; its split is saved by cell name."""
    if not (folder / "run").exists():
        done = call(
            "train data.h5ad --out run --separator ; --n-latent 3 --n-hidden 6 --max-steps 4 "
            "--no-progress"
        )
        assert (done.code, done.errors) == (0, [])
    return folder / "run"


def harmless(text: str) -> None:
    """Check that nothing in a text steers a terminal."""
    assert all(c.isprintable() or c == "\n" for c in text), text


def test_evaluate_reads_its_run_and_writes_names_as_they_are(run: Path, call: Call) -> None:
    done = call(f"evaluate {run} data.h5ad --effect-particles 10 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    harmless(done.out)
    assert set(read_csv(run / "scores.csv")["condition"]) >= set(LABELS)
    assert list(ad.read_h5ad(run / "effects.h5ad").var_names)[:7] == HOSTILE


def test_effects_come_back_from_the_csv_file(run: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "effects.csv"
    done = call(f"effects {run} --out {out} {QUICK}")
    assert (done.code, done.errors) == (0, [])
    table = read_csv(out)
    model = samsvae.load(run)
    wanted = model.effects(n_particles=5, progress=False)
    assert list(table["gene"].unique()) == list(wanted.var_names)
    assert list(table["condition"].unique()) == list(wanted.obs_names)
    assert len(table) == wanted.n_obs * wanted.n_vars
    cells = pd.read_csv(out, dtype=str, keep_default_na=False)["gene"]
    assert not cells.str.startswith("=").any()


def test_what_is_printed_is_short_and_harmless(run: Path, call: Call) -> None:
    done = call(f"effects {run} {QUICK}")
    assert (done.code, done.errors) == (0, [])
    harmless(done.out)
    assert len(done.out.splitlines()) < 30 * len(HOSTILE)


@pytest.mark.parametrize("name", ["x\x1b[31mz", "L" * 9_999, "a\u202ec"])
def test_errors_are_one_short_harmless_line(run: Path, call: Call, name: str) -> None:
    done = call(f"effects {run} '{name}'")
    assert (done.code, len(done.errors)) == (2, 1)
    harmless(done.errors[0])
    assert len(done.errors[0]) < 1100


def test_spaces_around_names_are_told() -> None:
    adata = make_adata()
    labels = adata.obs["perturbation"].astype(object)
    labels.iloc[1] = " A"
    adata.obs["perturbation"] = labels
    with pytest.warns(UserWarning, match="spaces around the perturbation of 1 cells"):
        screen = samsvae.Screen.from_anndata(adata)
    assert screen.perturbations == ("A", "B", "C")
