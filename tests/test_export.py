"""Exported files: their layout, and cell-eval's own scores of them against ours."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from conftest import make_adata, real_data
from samsvae import InputError, Screen, export
from samsvae.data.expression import expression
from samsvae.evaluation.baselines import (
    Additive,
    Baseline,
    ConditionMean,
    MatchingMean,
    NoChange,
    PerturbationMean,
)
from samsvae.metrics.metric import per_condition
from samsvae.metrics.observed import Observed, group_moments
from samsvae.metrics.registry import METRICS

LN2 = np.log(2)


def ln_values(screen: Screen) -> np.ndarray:
    counts = screen.counts.toarray().astype(float)
    values: np.ndarray = np.log(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    return values


def files(folder: Path) -> tuple[AnnData, AnnData]:
    """Return what was written: predicted and real."""
    assert sorted(path.name for path in folder.iterdir()) == ["pred.h5ad", "real.h5ad"]
    return anndata.read_h5ad(folder / "pred.h5ad"), anndata.read_h5ad(folder / "real.h5ad")


class Lowering(Baseline):
    """Predicts that the first gene falls by 100, and nothing else."""

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
    effects = trained.effects(["A", "A+B", "B", "C"], n_draws=0, **given, **asked, **common).X
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
    with pytest.warns(UserWarning, match="9 genes that the predictor lacks are left out"):
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
    (same, {"conditions": []}, "no conditions are asked for"),
    (same, {"conditions": ["A", "Z"]}, "no perturbation 'Z'"),
    (same, {"conditions": ["A", "A+C"]}, "no test cells to compare with for 'A[+]C'"),
    (no_test_cells_of_b, {"conditions": ["B", "A"]}, "no test cells to compare with for 'B'"),
    (no_control, {}, "the screen has no control cells"),
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
    write, written = AnnData.write_h5ad, []

    def until_full(self: AnnData, path: Path) -> None:
        write(self, path)
        written.append(path)
        if len(written) > good_writes:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(AnnData, "write_h5ad", until_full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        export.cell_eval(NoChange(screen), screen, tmp_path, split="valid")
    assert len(written) == good_writes + 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# What cell-eval finds in the files

PEARSON, MAE, DISCRIMINATION = "pearson_delta", "mae", "discrimination_score_l1"

Scores = Callable[[Path], pd.DataFrame]


@pytest.fixture
def by_cell_eval() -> Scores:
    """Return what scores exported files by cell-eval, conditions x scores.

    Without its DE, which is slow.
    """

    def scored(folder: Path) -> pd.DataFrame:
        with warnings.catch_warnings(action="ignore"):
            evaluator = cell_eval.MetricsEvaluator(
                adata_pred=str(folder / "pred.h5ad"),
                adata_real=str(folder / "real.h5ad"),
                control_pert="control",
                pert_col="perturbation",
                num_threads=1,
                outdir=str(folder / "cell-eval"),
                skip_de=True,
            )
            results, _ = evaluator.compute(profile="minimal", write_csv=False, break_on_error=True)
        return pd.DataFrame(results.to_dict(as_series=False)).set_index("perturbation")

    with warnings.catch_warnings(action="ignore"):  # those of scanpy, polars, numba are theirs
        cell_eval = pytest.importorskip(
            "cell_eval", reason="cell-eval is not installed: make test-cell-eval does it"
        )
    return scored


def scored_by_us(predictor: Any, screen: Screen, *, floor: bool, **settings: Any) -> pd.DataFrame:
    """Return our scores on scale "log" against the test cells, as cell-eval names them.

    With `floor`, effects lead to an expression of 0 at the lowest. "all_genes" is the
    discrimination with no target gene left out.
    """
    names = [name for name in screen.test.conditions if name != "control"]
    values = expression(screen.test, "log")
    codes = [screen.condition_names.index(name) for name in names]
    position = np.full(len(screen.condition_names), -1)
    position[codes] = range(len(names))
    control = group_moments(values, np.where(screen.test.is_control, 0, -1), 1)
    observed = Observed.of(
        names,
        group_moments(values, position[screen.test.condition], len(names)),
        control,
        genes=screen.genes,
        perturbation_mean=np.zeros(len(screen.genes)),
        targets=[
            [screen.genes.index(part) for part in name.split("+") if part in screen.genes]
            for name in names
        ],
    )
    effects = predictor.effects(names, scale="log", **settings).X
    if floor:
        effects = np.maximum(effects, -control.mean)
    metrics = {metric.name: metric for metric in METRICS}
    blind = observed._replace(targets=((),) * len(names))
    discrimination = metrics["perturbation_discrimination"]
    return pd.DataFrame(
        {
            PEARSON: per_condition(metrics["pearson_from_control"], effects, observed),
            MAE: per_condition(metrics["mae"], effects, observed),
            DISCRIMINATION: per_condition(discrimination, effects, observed),
            "all_genes": per_condition(discrimination, effects, blind),
        },
        index=names,
    )


def check(theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Check what holds between cell-eval's scores and ours."""
    n = len(ours)
    theirs = theirs.loc[ours.index]
    np.testing.assert_allclose(theirs[PEARSON], ours[PEARSON], atol=1e-9)
    np.testing.assert_allclose(theirs[MAE], LN2 * ours[MAE], atol=1e-12)  # ln, not log2
    # cell-eval leaves out a gene that is named as the condition is: no gene of a combination.
    single = ~ours.index.str.contains("+", regex=False)
    discrimination = ours[DISCRIMINATION].where(single, ours["all_genes"])
    # It divides the rank by n, not n - 1.
    np.testing.assert_allclose(
        1 - theirs[DISCRIMINATION], (1 - discrimination) * (n - 1) / n, atol=1e-12
    )


@pytest.mark.parametrize(
    ("data", "kind", "floor"),
    [
        ("papalexi2021.h5ad", PerturbationMean, False),  # nothing of it is below 0
        ("papalexi2021.h5ad", ConditionMean, True),
        ("papalexi2021.h5ad", Additive, True),
        ("norman2019.h5ad", Additive, True),
        ("norman2019.h5ad", MatchingMean, True),
    ],
)
def test_cell_eval_agrees_on_real_data(
    data: str, kind: type[Baseline], floor: bool, by_cell_eval: Scores, tmp_path: Path
) -> None:
    screen = samsvae.read_h5ad(real_data(data), split_key="split")
    written_as_0 = pytest.warns(UserWarning, match="below 0") if floor else nullcontext()
    with written_as_0:
        export.cell_eval(kind(screen), screen, tmp_path)
    ours = scored_by_us(kind(screen), screen, floor=floor)
    check(by_cell_eval(tmp_path), ours)
    assert len(ours) == {"papalexi2021.h5ad": 25, "norman2019.h5ad": 33}[data]
    assert ours.drop(columns=MAE).std().min() > 0.01  # the scores tell conditions apart


def test_cell_eval_agrees_on_a_model(
    trained: samsvae.SAMSVAE, screen: Screen, by_cell_eval: Scores, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"n_particles": 100, "progress": False}
    export.cell_eval(trained, screen, tmp_path, **settings)
    settings |= {"library_size": "observed", "n_draws": 0}
    ours = scored_by_us(trained, screen, floor=False, **settings)
    check(by_cell_eval(tmp_path), ours)


def test_cell_eval_keeps_the_target_genes_of_combinations(
    by_cell_eval: Scores, tmp_path: Path
) -> None:
    adata = make_adata(n_cells=400, labels=("control", "A", "B", "C", "B+A", "A+C", "B+C"))
    adata.var_names = ["A", "B", "C", *adata.var_names[3:]]
    screen = Screen.from_anndata(adata, split_key="split")
    export.cell_eval(Additive(screen), screen, tmp_path)
    ours = scored_by_us(Additive(screen), screen, floor=False)
    check(by_cell_eval(tmp_path), ours)
    differs = ours.index[ours[DISCRIMINATION] != ours["all_genes"]]
    assert any("+" in name for name in differs)
    assert not all("+" in name for name in differs)


def test_cell_eval_orders_ties_where_ours_count_half(by_cell_eval: Scores, tmp_path: Path) -> None:
    adata = make_adata(labels=("control", "A", "B", "C"))
    twin = adata[adata.obs["perturbation"] == "C"].copy()
    twin.obs["perturbation"] = "D"
    adata = anndata.concat([adata, twin], index_unique="-")
    screen = Screen.from_anndata(adata, split_key="split")
    export.cell_eval(Additive(screen), screen, tmp_path)
    theirs = by_cell_eval(tmp_path)[DISCRIMINATION]
    ours = scored_by_us(Additive(screen), screen, floor=False)[DISCRIMINATION]
    assert sorted(theirs[["C", "D"]]) == [1 - 1 / 4, 1]
    np.testing.assert_allclose(ours[["C", "D"]], 1 - 0.5 / 3)


def test_cell_eval_has_no_correlation_for_a_predictor_of_no_change(
    screen: Screen, by_cell_eval: Scores, tmp_path: Path
) -> None:
    export.cell_eval(NoChange(screen), screen, tmp_path)
    theirs = by_cell_eval(tmp_path)
    ours = scored_by_us(NoChange(screen), screen, floor=False)
    assert theirs[PEARSON].isna().all()
    assert (ours[PEARSON] == 0).all()
    check(theirs.fillna({PEARSON: 0}), ours)
