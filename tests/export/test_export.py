"""Exported files: their layout, and what cannot be written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samsvae
from helpers.exported import LN2, files, ln_values
from helpers.screens import make_adata
from samsvae import InputError, Screen, export
from samsvae.benchmark.baselines import (
    Additive,
    Baseline,
    ConditionMean,
    NoChange,
    PerturbationMean,
)


class Lowering(Baseline):
    """Predicts that the first gene falls by 100, and nothing else."""

    name = "lowering"

    def _predict(self, condition: str, means: Any) -> np.ndarray:
        return -100 * np.eye(1, len(self.screen.genes))[0]


# The layout


def test_real_cells_are_the_scored_and_control_cells_of_the_split(
    screen: Screen, tmp_path: Path
) -> None:
    export.cell_eval(Additive(screen), screen, tmp_path / "new" / "folder")
    _, real = files(tmp_path / "new" / "folder")
    assert list(real.obs) == ["perturbation"]
    assert real.obs_names.equals(screen.test.cells)
    labels = np.array(screen.condition_names)[screen.test.condition]
    assert real.obs["perturbation"].tolist() == labels.tolist()
    assert set(labels) == {"control", "A", "B", "C", "A+B"}
    assert real.var_names.tolist() == list(screen.genes)
    np.testing.assert_allclose(real.X.toarray(), ln_values(screen.test), atol=1e-12)


def test_predicted_rows_are_control_and_control_plus_effect(screen: Screen, tmp_path: Path) -> None:
    export.cell_eval(Additive(screen), screen, tmp_path)
    pred, real = files(tmp_path)
    assert list(pred.obs) == ["perturbation"]
    assert pred.obs["perturbation"].tolist() == ["control", "A", "A+B", "B", "C"]
    assert pred.obs_names.tolist() == pred.obs["perturbation"].tolist()
    assert pred.var_names.equals(real.var_names)
    control = ln_values(screen.test.control).mean(0)
    effects = Additive(screen).effects(["A", "A+B", "B", "C"], scale="log").X
    np.testing.assert_allclose(pred.X[0], control, atol=1e-12)
    np.testing.assert_allclose(pred.X[1:], control + LN2 * effects, atol=1e-12)
    assert np.abs(effects).mean() > 0.1


@pytest.mark.parametrize(
    ("given", "asked"),
    [({}, {"library_size": "observed"}), ({"library_size": 1e4, "seed": 3}, {})],
    ids=["default", "given"],
)
def test_a_model_is_asked_at_observed_library_sizes_or_as_told(
    trained: samsvae.SAMSVAE,
    screen: Screen,
    tmp_path: Path,
    given: dict[str, Any],
    asked: dict[str, Any],
) -> None:
    common: dict[str, Any] = {"n_particles": 60, "progress": False}
    export.cell_eval(trained, screen, tmp_path, split="valid", **given, **common)
    pred, _ = files(tmp_path)
    effects = trained.effects(
        ["A", "A+B", "B", "C"], scale="log", n_draws=0, **given, **asked, **common
    ).X
    control = ln_values(screen.valid.control).mean(0)
    np.testing.assert_allclose(pred.X[1:], control + LN2 * effects, atol=1e-6)


def test_names_are_the_screens_own(tmp_path: Path) -> None:
    adata = make_adata(labels=("non-targeting", "A", "B", "B|A"))
    screen = Screen.from_anndata(adata, control="non-targeting", separator="|", split_key="split")
    export.cell_eval(
        PerturbationMean(screen),
        screen,
        tmp_path,
        conditions=["B|A", "A|B", "non-targeting"],
        perturbation_key="target",
    )
    pred, real = files(tmp_path)
    assert pred.obs["target"].tolist() == ["non-targeting", "A|B"]
    assert set(real.obs["target"]) == {"non-targeting", "A|B"}
    assert len(real) == len(screen.test.of("A|B")) + len(screen.test.control)


def test_without_control_cells_in_the_split_all_of_them_are_compared_with(tmp_path: Path) -> None:
    adata = make_adata()
    held_out = adata.obs["perturbation"] == "B+A"
    adata.obs["split"] = np.where(held_out, "test", "train")
    screen = Screen.from_anndata(adata, split_key="split")
    export.cell_eval(Additive(screen), screen, tmp_path)
    pred, real = files(tmp_path)
    assert pred.obs_names.tolist() == ["control", "A+B"]
    assert (real.obs["perturbation"] == "control").sum() == screen.is_control.sum()
    np.testing.assert_allclose(pred.X[0], ln_values(screen.control).mean(0), atol=1e-12)


def test_the_predictors_genes_are_scored_in_its_order(tmp_path: Path) -> None:
    adata = make_adata()
    own = Screen.from_anndata(adata[:, ["g3", "g1", "g11"]].copy(), split_key="split")
    wide = Screen.from_anndata(adata, split_key="split")
    with pytest.warns(UserWarning, match="9 genes of the data are ignored"):
        export.cell_eval(ConditionMean(own), wide, tmp_path / "wide")
    export.cell_eval(ConditionMean(own), own, tmp_path / "own")
    for one, other in zip(files(tmp_path / "wide"), files(tmp_path / "own"), strict=True):
        assert one.var_names.tolist() == ["g3", "g1", "g11"]
        np.testing.assert_array_equal(one.to_df(), other.to_df())


def test_what_would_be_below_0_is_written_as_0_and_counted(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X[:, 5] = 0  # which is not below 0
    screen = Screen.from_anndata(adata, split_key="split")
    control = ln_values(screen.test.control).mean(0)
    depth = 100 * LN2 - control[0]
    message = f"4 of 48 predicted means are below 0, by up to {depth:.2g}: written as 0"
    with pytest.warns(UserWarning, match=re.escape(message)):
        export.cell_eval(Lowering(screen), screen, tmp_path)
    pred, _ = files(tmp_path)
    np.testing.assert_array_equal(pred.X[1:, 0], 0)
    np.testing.assert_allclose(pred.X[1:, 1:], np.tile(control[1:], (4, 1)), atol=1e-12)


# What cannot be written


def real_valued(screen: Screen) -> Screen:
    adata = screen.to_anndata()
    adata.X = adata.X.toarray() + 0.5
    return Screen.from_anndata(adata, split_key="split", counts=False)


def without_split(screen: Screen) -> Screen:
    return Screen.from_anndata(make_adata())


def nothing_to_score(screen: Screen) -> Screen:
    return screen.with_split(np.where(screen.is_control, "test", "train"))


def no_test_cells_of_b(screen: Screen) -> Screen:
    split = np.array(screen.split)
    split[(screen.condition == screen.condition_names.index("B")) & (split == "test")] = "valid"
    return screen.with_split(split)


def no_control(screen: Screen) -> Screen:
    return screen[~screen.is_control]


def same(screen: Screen) -> Screen:
    return screen


REFUSED: list[tuple[Callable[[Screen], Screen], dict[str, Any], str]] = [
    (same, {"split": "tset"}, "no split 'tset': the nearest is 'test'"),
    (without_split, {}, "the screen has no split"),
    (nothing_to_score, {}, "no condition to score: expected perturbed test cells"),
    (same, {"conditions": "control"}, "no condition to score: expected perturbed test cells"),
    (same, {"conditions": []}, "no conditions are given"),
    (same, {"conditions": ["A", "Z"]}, "no perturbation 'Z'"),
    (same, {"conditions": ["A", "A+C"]}, "no test cells to compare with for 'A[+]C'"),
    (no_test_cells_of_b, {"conditions": ["B", "A"]}, "no test cells to compare with for 'B'"),
    (no_control, {}, "no control cells to compare with"),
]


@pytest.mark.parametrize(("change", "settings", "message"), REFUSED)
def test_what_cannot_be_scored_is_an_error(
    change: Callable[[Screen], Screen],
    settings: dict[str, Any],
    message: str,
    screen: Screen,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=message):
        export.cell_eval(Additive(screen), change(screen), tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_real_values_are_an_error(screen: Screen, tmp_path: Path) -> None:
    screen = real_valued(screen)
    with pytest.raises(InputError, match="real values: cell-eval scores log-normalised counts"):
        export.cell_eval(Additive(screen), screen, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_condition_that_the_predictor_cannot_answer_is_its_error(tmp_path: Path) -> None:
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "B+A", "split"] = "test"
    screen = Screen.from_anndata(adata, split_key="split")
    with pytest.raises(InputError, match=r"'A\+B' has no training cells: ConditionMean predicts"):
        export.cell_eval(ConditionMean(screen), screen, tmp_path)
    assert list(tmp_path.iterdir()) == []
    export.cell_eval(ConditionMean(screen), screen, tmp_path, conditions=["A", "B"])
    assert files(tmp_path)[0].obs_names.tolist() == ["control", "A", "B"]


def test_a_folder_that_cannot_be_is_an_error(screen: Screen, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="file' is a file: expected a directory"):
        export.cell_eval(Additive(screen), screen, file)
    with pytest.raises(InputError, match=r"cannot write .*h5ad: Not a directory"):
        export.cell_eval(Additive(screen), screen, file / "under")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("good_writes", [0, 1])
def test_a_failed_export_leaves_what_was_there(
    good_writes: int, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.cell_eval(Additive(screen), screen, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, written = Path.write_bytes, []

    def until_full(path: Path, content: bytes) -> None:
        write(path, content)
        written.append(path)
        if len(written) > good_writes:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        export.cell_eval(NoChange(screen), screen, tmp_path, split="valid")
    assert len(written) == good_writes + 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
