"""Counts of sgRNAs in every kind of file, read end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from helpers.sgrna_files import (
    SGRNAS,
    Sequenced,
    all_features,
    reference,
    sequenced,
    write_10x,
    write_h5mu,
)
from samsvae import InputError, Screen, assign_sgrnas

SAID = r"8 sgRNAs \(.*\): 3 targets and 2 sgRNAs of control; by the rule dominant .* 216 of 240 "
SAID += r"cells have one, the others no sgRNA above 80% \(24\); 24 cells are left out"


@pytest.fixture
def cells() -> Sequenced:
    return sequenced()


def same(screen: Screen, cells: Sequenced, prefix: str = "") -> None:
    """Check that a screen holds the cells with one sgRNA, with their genes, targets and sgRNAs."""
    one = ~cells.is_doublet
    assert list(screen.cells) == list(cells.genes.obs_names[one])
    assert screen.genes == tuple(cells.genes.var_names)
    np.testing.assert_array_equal(screen.to_memory().counts.toarray(), cells.genes.X[one])
    names = np.array(screen.condition_names)[screen.condition]
    target = np.array([t if t == "control" else prefix + t for t in cells.target])
    np.testing.assert_array_equal(names, target[one])


def test_10x_h5_and_folder(cells: Sequenced, tmp_path: Path) -> None:
    for path in (tmp_path / "filtered.h5", tmp_path / "filtered_feature_bc_matrix"):
        write_10x(path, cells)
        with pytest.warns(match=SAID) as said:
            screen = Screen.open(path)
        assert "targets: names, read as 'IRF1g2' is" in str(said[0].message)
        assert len(said) == 1  # nothing is said of features that are left out
        same(screen, cells)
        assert list(screen.sgrna) == list(cells.sgrna[~cells.is_doublet])


def test_a_feature_reference_tells_custom_features_and_targets(
    cells: Sequenced, tmp_path: Path
) -> None:
    write_10x(tmp_path / "custom.h5", cells, "Custom")
    with (
        pytest.warns(match=r"left out: 8 of Custom; if they are sgRNAs, give feature_reference"),
        pytest.raises(InputError, match="no column for the perturbation"),
    ):
        Screen.open(tmp_path / "custom.h5")
    reference().to_csv(tmp_path / "features.csv", index=False)
    with pytest.warns(match="targets: column 'target_gene_name'"):
        screen = Screen.open(
            tmp_path / "custom.h5", feature_reference=str(tmp_path / "features.csv")
        )
    same(screen, cells, "gene")
    reference().assign(id="x", name="y").iloc[:1].to_csv(tmp_path / "other.csv", index=False)
    write_10x(tmp_path / "guides.h5", cells)
    with pytest.raises(InputError, match="names none of the 8 sgRNAs: it has 'x', they are called"):
        Screen.open(tmp_path / "guides.h5", feature_reference=str(tmp_path / "other.csv"))
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(InputError, match="has the columns 'a': expected 'id', 'name'"):
        Screen.open(tmp_path / "guides.h5", feature_reference=str(tmp_path / "wrong.csv"))


@pytest.mark.parametrize("name", ["guide", "gdo", "grna", "sgRNA_counts"])
def test_h5mu(cells: Sequenced, tmp_path: Path, name: str) -> None:
    write_h5mu(tmp_path / "x.h5mu", cells, name)
    with pytest.warns(match=SAID) as said:
        screen = Screen.open(tmp_path / "x.h5mu", split_key="split")
    assert (
        f"(modality {name!r}; targets: column 'intended_target_name', control by 'targeting')"
        in (str(said[0].message))
    )
    same(screen, cells)
    with pytest.raises(InputError, match="0 genes; all features are sgRNAs: give the modality of"):
        Screen.from_anndata(all_features(cells)[:, list(SGRNAS)])
    with pytest.warns(match="by the rule calls"):
        on_disk = Screen.open(tmp_path / "x.h5mu", sgrna_assignment="calls", in_memory=False)
    same(on_disk, cells)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_h5ad_with_sgrnas_among_the_features(
    cells: Sequenced, tmp_path: Path, in_memory: bool
) -> None:
    all_features(cells).write_h5ad(tmp_path / "x.h5ad")
    all_features(cells).write_zarr(tmp_path / "x.zarr")
    for name in ("x.h5ad", "x.zarr"):
        with pytest.warns(match=SAID):
            same(Screen.open(tmp_path / name, in_memory=in_memory), cells)
    with pytest.warns(match=SAID):
        same(Screen.from_anndata(all_features(cells)), cells)


@pytest.mark.parametrize("named", ["frame", "uns", "reference"])
def test_obsm(cells: Sequenced, tmp_path: Path, named: str) -> None:
    adata, given, prefix = cells.genes.copy(), {}, ""
    frame = pd.DataFrame(cells.counts, adata.obs_names, list(SGRNAS))
    adata.obsm["guide_counts"] = frame if named == "frame" else cells.counts
    if named == "uns":
        adata.uns["guide_counts_names"] = list(SGRNAS)
    adata.write_h5ad(tmp_path / "x.h5ad")
    if named == "reference":
        with pytest.raises(InputError, match="has no names of its 8 sgRNAs: give a data frame"):
            Screen.open(tmp_path / "x.h5ad")
        reference().to_csv(tmp_path / "features.csv", index=False)
        given, prefix = {"feature_reference": str(tmp_path / "features.csv")}, "gene"
    with pytest.warns(match=SAID):
        same(Screen.open(tmp_path / "x.h5ad", **given), cells, prefix)


def test_cells_of_a_modality_are_matched_by_name(cells: Sequenced, tmp_path: Path) -> None:
    fewer = cells._replace(genes=cells.genes[5:].copy(), counts=cells.counts[5:])
    write_h5mu(tmp_path / "x.h5mu", fewer)
    with pytest.warns(match=r"of 235 cells have one"):
        screen = Screen.open(tmp_path / "x.h5mu")
    assert list(screen.cells) == list(cells.genes.obs_names[5:][~cells.is_doublet[5:]])


def test_labels_come_first_unless_sgrnas_are_asked_for(cells: Sequenced) -> None:
    adata = all_features(cells)
    adata.obs["perturbation"] = "control"
    with pytest.warns(match="sgRNA counts are not used, obs.'perturbation'. has the labels"):
        screen = Screen.from_anndata(adata)
    assert len(screen) == 240
    assert screen.genes == tuple(cells.genes.var_names)
    with pytest.raises(InputError, match="keeps no sgRNA counts: give its file"):
        assign_sgrnas(screen)
    with pytest.warns(match=SAID):
        same(Screen.from_anndata(adata, sgrna_assignment="dominant"), cells)


def test_a_file_without_sgrnas_cannot_be_assigned(adata: AnnData) -> None:
    with pytest.raises(InputError, match="no sgRNA counts: expected features of the type 'CRISPR"):
        Screen.from_anndata(adata, sgrna_assignment="mixture")


def test_called_by_cell_ranger(cells: Sequenced, tmp_path: Path) -> None:
    write_10x(tmp_path / "x.h5", cells)
    calls = ["|".join(np.array(SGRNAS)[row >= 10]) for row in cells.counts]
    table = pd.DataFrame({"cell_barcode": cells.genes.obs_names, "feature_call": calls})
    table[5:].to_csv(tmp_path / "protospacer_calls_per_cell.csv", index=False)
    given = {"labels": str(tmp_path / "protospacer_calls_per_cell.csv")}
    with pytest.warns(match=r"others no sgRNA \(5\), several sgRNAs \(23\)"):
        screen = Screen.open(tmp_path / "x.h5", **given, sgrna_assignment="calls")
    assert list(screen.cells) == list(cells.genes.obs_names[5:][~cells.is_doublet[5:]])
    with pytest.raises(InputError, match="says of no cell which sgRNAs it holds"):
        Screen.open(tmp_path / "x.h5", sgrna_assignment="calls")
