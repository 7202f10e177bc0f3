"""cell-eval's own scores of exported files against ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.exported import LN2
from helpers.observed import per_condition
from helpers.real_data import real_data
from helpers.screens import make_adata
from samsvae import Screen, export
from samsvae.benchmark.baselines import (
    Additive,
    Baseline,
    ConditionMean,
    MatchingMean,
    NoChange,
    PerturbationMean,
)
from samsvae.benchmark.metrics.observed import Observed
from samsvae.benchmark.metrics.registry import METRICS
from samsvae.data.expression import expression, within_batches

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
    group, one_batch = position[screen.test.condition], np.zeros(len(screen.test), int)
    compared = within_batches(values, group, screen.test.is_control, one_batch, len(names))
    observed = Observed.of(
        names,
        *compared,
        genes=screen.genes,
        perturbation_mean=np.zeros(len(screen.genes)),
        targets=[
            [screen.genes.index(part) for part in name.split("+") if part in screen.genes]
            for name in names
        ],
    )
    effects = predictor.effects(names, scale="log", **settings).X
    if floor:
        effects = np.maximum(effects, -compared[1].mean)
    metrics = {metric.name: metric for metric in METRICS}
    blind = replace(observed, targets=((),) * len(names))
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


@pytest.mark.filterwarnings("ignore:.* occur nowhere else")  # two of the combinations of Norman
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
