"""Bad input: one line that says what was got, what was expected and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae import InputError, Screen
from samsvae.data.alignment import align_screen

Spoil = Callable[[AnnData], dict[str, Any]]
"""Spoils the data, or returns arguments: `adata`, keys of the screen, hyperparameters."""


def given(**arguments: Any) -> Spoil:
    return lambda adata: arguments


def value(x: float) -> Spoil:
    def spoil(adata: AnnData) -> dict[str, Any]:
        adata.X[3, 2] = x
        return {}

    return spoil


def obs(column: str, x: object, **arguments: Any) -> Spoil:
    """Set one cell of a column; the cell is perturbed."""

    def spoil(adata: AnnData) -> dict[str, Any]:
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.loc["cell1", column] = x
        return arguments

    return spoil


def split_of(label: str | None, name: str) -> Spoil:
    """Give the cells of one label (or all cells) the same split."""

    def spoil(adata: AnnData) -> dict[str, Any]:
        adata.obs.loc[(adata.obs["perturbation"] == label) | (label is None), "split"] = name
        return {}

    return spoil


def log_values(adata: AnnData) -> dict[str, Any]:
    adata.X = np.sqrt(adata.X)
    adata.layers["scaled"] = adata.X - 1
    return {}


def log_values_beside_counts(adata: AnnData) -> dict[str, Any]:
    adata.layers["raw"] = sp.csr_matrix(adata.X)
    return log_values(adata)


def normalised_layer(adata: AnnData) -> dict[str, Any]:
    adata.layers["norm"] = adata.X / adata.X.sum(1, keepdims=True)
    return {"layer": "norm"}


def no_matrix(adata: AnnData) -> dict[str, Any]:
    adata.layers["scaled"] = np.sqrt(adata.X)
    adata.X = None
    return {}


def two_layers(adata: AnnData) -> dict[str, Any]:
    adata.layers["spliced"] = adata.layers["unspliced"] = adata.X
    return no_matrix(adata)


def duplicate_genes(adata: AnnData) -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):  # anndata's own
        adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    return {}


def empty_cells(adata: AnnData) -> dict[str, Any]:
    adata.X[[1, 7, 200]] = 0
    return {}


def real_values(adata: AnnData) -> dict[str, Any]:
    adata.X = np.log1p(adata.X)
    return {"counts": False}


def controls_alone(adata: AnnData) -> dict[str, Any]:
    adata.obs["split"] = np.where(adata.obs["perturbation"] == "control", "train", "test")
    return {}


def library_size(x: object) -> Spoil:
    def spoil(adata: AnnData) -> dict[str, Any]:
        adata.obs["total"] = adata.X.sum(1)
        return obs("total", x, library_size_key="total")(adata)

    return spoil


def dose(x: object) -> Spoil:
    def spoil(adata: AnnData) -> dict[str, Any]:
        adata.obs["dose"] = adata.obs["perturbation"].map(lambda s: "1+1" if "+" in s else "1")
        return obs("dose", x, dosage_key="dose")(adata)

    return spoil


NOT_WHOLE = r"holds values that are not whole numbers, .* for one: expected counts, not normalised"
COUNT = "expected a whole number of at least 1"
CASES: list[tuple[str, Spoil, str]] = [
    ("log values", log_values, rf"adata\.X {NOT_WHOLE} .*; no layer looks like counts \(counts=F"),
    ("log, layer", log_values_beside_counts, f"{NOT_WHOLE}.*; layer 'raw' looks .* layer='raw'"),
    ("norm. layer", normalised_layer, rf"'norm' {NOT_WHOLE} .*; adata\.X looks like counts: leave"),
    ("no matrix", no_matrix, r"adata\.X is empty: expected counts .* the layers 'scaled'"),
    ("two layers", two_layers, r"adata\.X is empty, and several .* one of 'spliced', 'unspliced'"),
    ("too large", value(2.0**32), r"adata\.X holds values above 2\^31, 4\.29497e\+09 for one"),
    ("negative", value(-2), r"adata\.X holds negative values, -2 for one"),
    ("nan", value(np.nan), r"adata\.X holds values that are not finite, nan for one"),
    ("infinite", value(np.inf), r"adata\.X holds values that are not finite, inf for one"),
    (
        "real values",
        real_values,
        "the negative_binomial likelihood needs counts, not real values: .* another likelihood",
    ),
    ("no cells", lambda a: {"adata": a[:0]}, "the data have 0 cells and 12 genes"),
    ("no genes", lambda a: {"adata": a[:, :0]}, "the data have 240 cells and 0 genes"),
    (
        "genes twice",
        duplicate_genes,
        "1 gene names occur more than once, .g0. .*names_make_unique",
    ),
    (
        "empty cells",
        empty_cells,
        r"3 of 240 cells have no counts: .* drop_empty_cells=True \(--drop-empty-cells\)",
    ),
    ("no label", given(perturbation_key="perturbatoin"), "'perturbatoin': the .* 'perturbation'"),
    ("no control", given(control="ctrl"), r"no control label .* 'ctrl': the nearest is 'control'"),
    ("no layer", given(layer="raw"), "no layer 'raw': there are none"),
    ("no split", given(split_key="splits"), r"for the split in adata\.obs: 'splits': .* 'split'"),
    ("no batch", given(batch_key="batchs"), r"for the batch in .* 'batchs': .* 'batch'"),
    ("no dosage", given(dosage_key="zzz"), "for the dosage in .* 'zzz': there are 'perturbation'"),
    ("no size", given(library_size_key="n"), "for the library size in .* 'n': there are 'pert"),
    ("separator", given(separator=" "), "the separator is ' ': expected what joins perturbations"),
    ("unknown split", obs("split", "training"), "no split 'training': the nearest is 'train'"),
    ("nan split", obs("split", np.nan), r"obs\['split'\] lacks the split of 1 of 240 cells"),
    ("nan label", obs("perturbation", None), "lacks the perturbation of 1 of 240 cells"),
    ("nan batch", obs("batch", None, batch_key="batch"), "lacks the batch of 1 of 240 cells"),
    (
        "empty part",
        obs("perturbation", "A+"),
        r"the separator '\+' stands inside names: 'A\+'; give another",
    ),
    ("empty label", obs("perturbation", ""), r"\['perturbation'\] lacks the perturbation of 1 of"),
    ("repeated part", obs("perturbation", "A+A"), r"the label 'A\+A' names a perturbation twice"),
    ("word as dose", dose("high"), "the dosage 'high' is not a number of at least 0"),
    ("negative dose", dose(-0.5), "the dosage '-0.5' is not a number of at least 0"),
    ("missing dose", dose(np.nan), "a cell with the label 'A' has no dosage"),
    ("infinite dose", dose("inf"), "the dosage 'inf' is not a number of at least 0"),
    ("two doses", dose("1+2"), "the label 'A' has 1 perturbations but 2 doses: expected one"),
    ("missing size", library_size(None), "lacks the library size of 1 of 240 cells"),
    ("size of 0", library_size(0), r"obs\['total'\] is not a positive number of .* 1 cells, '0"),
    ("small size", library_size(1.5), r"is below the cell's counts .* 1 cells, 1\.5 against"),
    ("unsplit", given(split_key=None), "the screen has no split: give split_key, or take"),
    ("no training", split_of(None, "valid"), "the split leaves no training cells"),
    ("no controls", split_of("control", "test"), "no control cells in training: .* 'control'"),
    ("controls alone", controls_alone, "no perturbed cells in training: all of them are controls"),
    ("n_latent 0", given(n_latent=0), f"n_latent is 0: {COUNT}"),
    ("n_latent 2.5", given(n_latent=2.5), f"n_latent is 2.5: {COUNT}"),
    ("n_hidden -1", given(n_hidden=-1), f"n_hidden is -1: {COUNT}"),
    ("n_layers 0", given(n_layers=0), f"n_layers is 0: {COUNT}"),
    ("n_layers True", given(n_layers=True), f"n_layers is True: {COUNT}"),
    ("embedding 0", given(n_layers_embedding=0), f"n_layers_embedding is 0: {COUNT}"),
    ("mask_prob 0", given(mask_prob=0), "mask_prob is 0: .* strictly between 0 and 1"),
    ("mask_prob 1", given(mask_prob=1.0), "mask_prob is 1.0: .* strictly between 0 and 1"),
    ("mask_prob nan", given(mask_prob=np.nan), "mask_prob is nan: .* strictly between 0 and 1"),
    ("scale 0", given(embedding_scale=0), "embedding_scale is 0: expected a number above 0"),
]


def build(arguments: dict[str, Any]) -> samsvae.SAMSVAE:
    settings = {**SMALL, "n_layers": 1, "n_layers_embedding": 1, "embedding_scale": 1.0}
    settings |= {name: arguments.pop(name) for name in settings if name in arguments}
    return samsvae.SAMSVAE(screen_of(arguments), **settings)


def screen_of(arguments: dict[str, Any]) -> Screen:
    return Screen.from_anndata(arguments.pop("adata"), **arguments)


@pytest.mark.parametrize(("spoil", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_named_in_one_line(adata: AnnData, spoil: Spoil, message: str) -> None:
    arguments = {"adata": adata, "split_key": "split"} | spoil(adata)
    with pytest.raises(InputError, match=message) as caught:
        build(arguments)
    assert "\n" not in str(caught.value)


def test_the_data_are_good_before_they_are_spoilt(adata: AnnData) -> None:
    build({"adata": adata, "split_key": "split"} | dose("2")(adata))


def test_counts_false_admits_real_values(adata: AnnData) -> None:
    adata.X = np.log1p(adata.X) - 1
    screen = Screen.from_anndata(adata, counts=False)
    assert not screen.registry.counts
    np.testing.assert_array_equal(screen.counts.toarray(), adata.X.astype(np.float32))
    adata.X[3, 2] = np.nan
    with pytest.raises(InputError, match="holds values that are not finite, nan for one"):
        Screen.from_anndata(adata, counts=False)


def test_empty_cells_can_be_dropped(adata: AnnData) -> None:
    empty_cells(adata)
    with pytest.warns(match="^3 without counts of 240 cells are left out, 237 are kept$"):
        screen = Screen.from_anndata(adata, split_key="split", drop_empty_cells=True)
    rest = [name for name in adata.obs_names if name not in ("cell1", "cell7", "cell200")]
    assert list(screen.cells) == rest
    np.testing.assert_array_equal(screen.counts.toarray(), adata[rest].X)
    assert list(screen.split) == list(adata.obs.loc[rest, "split"])
    samsvae.SAMSVAE(screen, **SMALL)


def test_empty_cells_can_be_dropped_with_their_library_sizes(adata: AnnData) -> None:
    empty_cells(adata)
    adata.obs["total"] = adata.X.sum(1)
    with pytest.warns(match="left out"):
        Screen.from_anndata(adata, library_size_key="total", drop_empty_cells=True)


def test_silent_gene_is_warned_of_once(adata: AnnData) -> None:
    adata.X[(adata.obs["split"] == "train").to_numpy(), 3] = 0
    screen = Screen.from_anndata(adata, split_key="split")
    with pytest.warns(match="^1 of 12 genes are zero in all training cells") as warned:
        model = samsvae.SAMSVAE(screen, **SMALL)
    (warning,) = warned
    assert warning.filename == __file__
    model.train(max_steps=2, batch_size=32, progress=False)
    assert np.isfinite(model.history["valid_elbo"]).all()


def new_label(adata: AnnData) -> dict[str, Any]:
    return obs("perturbation", "A+D", batch_key="batch")(adata)


def missing_genes(adata: AnnData) -> dict[str, Any]:
    return {"adata": adata[:, 2:].copy(), "batch_key": "batch"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_genes, "the data lack 2 of the model's 12 genes: 'g0', 'g1'"),
        (new_label, "perturbations never seen in training: 'D'"),
        (obs("batch", "three", batch_key="batch"), "never seen in training: 'three'; .* 'one', 't"),
        (
            given(),
            "the model was trained with batches: give batch_key for the new data",
        ),
        pytest.param(
            lambda adata: {"counts": False, "batch_key": "batch"},
            "counts",
        ),
    ],
    ids=["genes", "perturbation", "batch", "no batches", "real values"],
)
def test_data_that_do_not_fit_a_model(adata: AnnData, spoil: Spoil, message: str) -> None:
    model = Screen.from_anndata(adata, batch_key="batch").registry
    screen = screen_of({"adata": adata} | spoil(adata))
    with pytest.raises(InputError, match=message) as caught:
        align_screen(screen, model)
    assert "\n" not in str(caught.value)


def no_file(path: Path) -> None:
    assert not path.exists()


def other_file(path: Path) -> None:
    path.write_text("not hdf5\nat all\n")


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2]


def truncated_file(path: Path) -> None:
    make_adata(n_cells=30).write_h5ad(path)
    path.write_bytes(path.read_bytes()[:-500])


def file_without_the_label(path: Path) -> None:
    make_adata(n_cells=30, labels=("ctrl", "A")).write_h5ad(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_file, r"no file '.*screen.h5ad': expected one of \.h5ad"),
        (Path.mkdir, "screen.h5ad' is a directory, and holds no zarr store and no matrix.mtx"),
        (other_file, r"screen.h5ad' cannot be read as h5ad \(is it complete, .*file signature"),
        (other_hdf5, r"screen.h5ad' cannot be read as h5ad \(is it complete, "),
        (truncated_file, r"screen.h5ad' cannot be read as h5ad \(is it complete, .*truncated file"),
        (file_without_the_label, "^no control label .* 'control': the nearest is 'ctrl'"),
    ],
)
def test_bad_file(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "screen.h5ad"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        samsvae.read_h5ad(path)
    assert "\n" not in str(caught.value)


def test_unknown_argument_of_read_h5ad_is_no_fault_of_the_file(tmp_path: Path) -> None:
    make_adata(n_cells=30).write_h5ad(tmp_path / "screen.h5ad")
    with pytest.raises(InputError, match="'perturbation': the nearest is 'perturbation_key'"):
        samsvae.read_h5ad(tmp_path / "screen.h5ad", perturbation="gene")


def test_library_sizes_are_not_guessed(adata: AnnData) -> None:
    adata.obs["total"] = np.asarray(adata.X.sum(1)).ravel() * 3
    model = Screen.from_anndata(adata, library_size_key="total").registry
    with pytest.raises(InputError, match="give library_size_key for the new data"):
        align_screen(Screen.from_anndata(adata), model)


@pytest.mark.parametrize("kind", ["object", "complex64"])
def test_matrix_of_other_things(adata: AnnData, kind: str) -> None:
    adata.layers["odd"] = adata.X.astype(kind)
    with pytest.raises(InputError, match=f"layer 'odd' holds {kind} values"):
        Screen.from_anndata(adata, layer="odd")


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.4, 0.3, 0.2, 0.1), (0.5, 0.5, float("nan"))])
def test_fractions_of_a_split(screen: Screen, fractions: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected three numbers that sum to 1"):
        samsvae.splits.random(screen, fractions=fractions)  # type: ignore[arg-type]


def test_numbers_of_other_types(screen: Screen) -> None:
    assert type(samsvae.SAMSVAE(screen, n_latent=np.int64(3)).n_latent) is int
    with pytest.raises(InputError, match=r"mask_prob is '0\.1': expected a number"):
        samsvae.SAMSVAE(screen, mask_prob="0.1")  # type: ignore[arg-type]
