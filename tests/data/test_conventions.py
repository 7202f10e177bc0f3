"""Files of other projects are read rightly by the name of their convention."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import Call
from helpers.layouts import CELLS, layout
from samsvae import InputError, Screen
from samsvae.settings.conventions import CONVENTIONS

NAMES = sorted(CONVENTIONS)
QUIET = pytest.mark.filterwarnings("ignore:perturbations are genes of var")
"""Not all of them name genes by symbols; see docs/data.md."""


@QUIET
@pytest.mark.parametrize("name", NAMES)
def test_a_convention_reads_its_layout(name: str) -> None:
    given = layout(name)
    screen = Screen.from_anndata(given.adata, convention=name)
    assert screen.conditions == given.conditions
    assert screen.perturbations == given.perturbations
    assert screen.is_control.sum() == given.n_control
    assert len(screen) == given.adata.n_obs
    assert screen.registry.batches == given.batches
    counts = given.adata.layers.get("counts", given.adata.X)
    np.testing.assert_array_equal(screen.counts.toarray(), counts.toarray())


@QUIET
@pytest.mark.parametrize("name", NAMES)
def test_inspect_names_the_convention_and_its_command_runs(
    name: str, folder: Path, call: Call
) -> None:
    layout(name).adata.write_h5ad(f"{name}.h5ad")
    told = call(f"inspect {name}.h5ad")
    assert told.errors == []
    lines = told.out.splitlines()
    assert f"  laid out like {name}" in lines
    command = shlex.split(lines[-1])
    assert command[:3] == ["samsvae", "train", f"{name}.h5ad"]
    small = "--n-latent 2 --n-hidden 4 --max-steps 2 --no-progress"
    done = call(shlex.join(command[1:]) + " " + small)
    assert done.errors == []
    assert (folder / "runs" / name / "model.json").exists()
    # What was read by a convention is read so again.
    asked = call(
        f"evaluate runs/{name} {name}.h5ad --n-halvings 0 --effect-particles 4 "
        "--n-particles 2 --no-progress --no-baselines"
    )
    assert asked.errors == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("name", [name for name in NAMES if name != "scperturb"])
def test_without_it_an_error_names_the_convention(name: str) -> None:
    with pytest.raises(InputError, match=f"look like convention='{name}' \\(--convention\\)"):
        Screen.from_anndata(layout(name).adata)


def test_combinations_of_scperturb_are_told() -> None:
    with pytest.warns(match="'KLF1_MAP2K6' look like combinations joined by '_'.*separator='_'"):
        screen = Screen.from_anndata(layout("scperturb").adata)
    assert screen.perturbations == ("KLF1", "KLF1_MAP2K6", "MAP2K6")


def test_what_is_given_wins_over_the_convention() -> None:
    given = layout("gears").adata
    given.var_names = given.var["gene_name"].to_numpy()
    given.obs["other"] = given.obs["condition"].str.replace("ctrl", "none")
    screen = Screen.from_anndata(
        given, convention="gears", perturbation_key="other", control="none", gene_key=None
    )
    assert screen.conditions[0] == "none"
    assert screen.registry.symbols == ()


def test_splits_of_cpa_have_other_names() -> None:
    given = layout("cpa").adata
    screen = Screen.from_anndata(given, convention="cpa")
    expected = given.obs["split"].map({"train": "train", "test": "valid", "ood": "test"})
    assert list(screen.split) == list(expected)


def test_reagents_and_symbols_are_kept() -> None:
    given = layout("replogle").adata
    screen = Screen.from_anndata(given, convention="replogle")
    assert list(screen.sgrna) == list(given.obs["sgID_AB"])
    assert list(screen.train.sgrna if screen.split is not None else screen[:CELLS].sgrna) == list(
        given.obs["sgID_AB"][:CELLS]
    )
    assert screen.registry.position_of_target["KLF1"] == 0
    assert screen.registry.position_of_target["ENSG00000000001"] == 1


def test_an_unknown_convention_is_named() -> None:
    with pytest.raises(InputError, match="no convention 'gear': the nearest is 'gears'"):
        Screen.from_anndata(layout("gears").adata, convention="gear")


def test_every_convention_has_a_source() -> None:
    assert all(one.source and one.signs for one in CONVENTIONS.values())
