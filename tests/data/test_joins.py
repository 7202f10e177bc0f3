"""Columns and splits that are matched with cells by name: repeated names, names like numbers."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from helpers.file_kinds import write_h5mu
from helpers.screens import make_adata
from samsvae import InputError, Screen, splits
from samsvae.reproduce.tables import read_groups
from samsvae.runs.run import read_screen


def stored(folder: Path, names: list[str]) -> np.ndarray:
    """Write cells of these names without labels, and return what their labels are."""
    adata = make_adata(n_cells=len(names))
    adata.obs_names = names
    labels = adata.obs["perturbation"].to_numpy()
    adata.obs = adata.obs[[]]
    adata.write_h5ad(folder / "x.h5ad")
    return labels


def lanes() -> AnnData:
    """Return two lanes, whose barcodes are the same."""
    one, other = make_adata(n_cells=120), make_adata(n_cells=120, seed=1)
    with pytest.warns(match="not unique"):
        return anndata.concat([one, other])


REPEATED = "120 cell names occur more than once, .* and 117 more .240 of 240.: .*{}.*"
ADVICE = r"obs_names_make_unique\(\), or lane by lane"


# Names that repeat


@pytest.mark.filterwarnings("ignore:.*not unique")
def test_labels_by_barcode_of_two_lanes(tmp_path: Path) -> None:
    adata = lanes()
    adata.obs[["perturbation"]].iloc[:120].to_csv(tmp_path / "labels.csv")
    adata.obs = adata.obs[[]]
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, match=REPEATED.format("labels in .*labels.csv") + ADVICE):
        Screen.open(tmp_path / "x.h5ad", labels=str(tmp_path / "labels.csv"))


@pytest.mark.filterwarnings("ignore:.*not unique")
def test_columns_of_the_whole_file(tmp_path: Path) -> None:
    write_h5mu(tmp_path / "x.h5mu", lanes())
    with pytest.raises(InputError, match=REPEATED.format("obs of the whole file") + ADVICE):
        Screen.open(tmp_path / "x.h5mu", modality="rna", split_key="split")


@pytest.mark.filterwarnings("ignore:.*not unique")
def test_a_split_by_name() -> None:
    screen = Screen.from_anndata(lanes())
    split = splits.random(screen, seed=0)
    assert len(screen.with_split(split)) == 240  # in the order of the cells: nothing is matched
    with pytest.raises(InputError, match=REPEATED.format("the split") + ADVICE):
        screen.with_split(split[::-1])


@pytest.mark.filterwarnings("ignore:.*not unique")
def test_a_split_that_a_run_would_save(tmp_path: Path) -> None:
    lanes().write_h5ad(tmp_path / "lanes.h5ad")
    with pytest.raises(InputError, match=REPEATED.format("without --split-key the split")):
        read_screen(tmp_path / "lanes.h5ad", {"seed": 0})


def test_cells_without_labels_stay_without(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(40)]
    labels = stored(tmp_path, names)
    order = np.random.default_rng(0).permutation(40)[5:]
    table = pd.DataFrame({"perturbation": labels}, index=names).iloc[order]
    table.to_csv(tmp_path / "labels.csv")
    with pytest.warns(match="5 without a label"):
        screen = Screen.open(
            tmp_path / "x.h5ad", labels=str(tmp_path / "labels.csv"), drop_unlabelled=True
        )
    own = np.array(screen.condition_names)[screen.condition]
    expected = table["perturbation"].replace("B+A", "A+B").loc[screen.cells]
    assert own.tolist() == expected.tolist()


# Names and labels that look like numbers


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:06d}" for i in range(40)],
        [f"{i // 20 + 1}.{i % 20 + 1}" for i in range(40)],  # 1.1 and 1.10
        ["1E2", "100", "1e2", "NA", "nan", "TRUE", "1_000", "-0", "0x1A", "٣", "inf"],
    ],
)
@pytest.mark.parametrize("layout", [",", "\t", ";", "R"])
def test_names_of_a_labels_file_are_texts(names: list[str], layout: str, tmp_path: Path) -> None:
    labels = stored(tmp_path, names)
    table = pd.DataFrame({"perturbation": labels, "plate": "007"}, index=names)
    path = tmp_path / "labels.csv"
    table.to_csv(path, sep="\t" if layout == "R" else layout)
    if layout == "R":  # write.table has no header above the names of rows
        path.write_text(path.read_text().removeprefix("\t"))
    screen = Screen.open(tmp_path / "x.h5ad", labels=str(path), batch_key="plate")
    own = np.array(screen.condition_names)[screen.condition]
    assert own.tolist() == [label.replace("B+A", "A+B") for label in labels]
    assert screen.registry.batches == (("007",),)


def test_a_name_takes_no_label_of_another_that_equals_it_as_a_number(tmp_path: Path) -> None:
    names = ["1.1", *(f"c{i}" for i in range(39))]
    labels = stored(tmp_path, names)
    pd.DataFrame({"perturbation": labels}, index=["1.10", *names[1:]]).to_csv(tmp_path / "l.csv")
    with pytest.raises(InputError, match="lacks the perturbation of 1 of 40 cells"):
        Screen.open(tmp_path / "x.h5ad", labels=str(tmp_path / "l.csv"))


def test_names_of_groups_are_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("perturbation_name,pathway\n007,01\n1E2,1\n")
    assert read_groups(tmp_path / "a.csv") == {"01": ["007"], "1": ["1E2"]}
