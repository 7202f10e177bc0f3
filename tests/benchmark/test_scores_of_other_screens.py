"""Screens with batches, doses or real values, and what scoring leaves as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from helpers.scores import (
    BARE,
    EFFECTS,
    INTERACTIONS,
    INTERVALS,
    POPULATIONS,
    SCORED,
    TRAINING,
    Cells,
    by_hand,
    in_split,
    same,
    scored,
    task_of,
    values,
)
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError, Screen
from samsvae.benchmark.baselines import BASELINES, Additive, ConditionMean
from samsvae.estimators.base import Estimator

# Memory.


@pytest.fixture
def sparse_only(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Refuse to make a sparse matrix of more than a few rows dense; return rows of those made."""
    made: list[int] = []

    def guarded(plain: Any) -> Any:
        def dense(matrix: Any, *args: Any, **settings: Any) -> Any:
            assert matrix.shape[0] < 20, f"{matrix.shape} made dense"
            made.append(matrix.shape[0])
            return plain(matrix, *args, **settings)

        return dense

    for kind in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))
    return made


def test_the_matrix_stays_sparse(sparse_only: list[int], whole: Screen) -> None:
    with pytest.raises(AssertionError, match="made dense"):
        whole.counts.toarray()
    rows = scored([kind(whole) for kind in BASELINES], whole, splits=["test", "train"])
    assert rows["value"].notna().any()
    assert sparse_only


# Other screens.


def test_a_screen_with_batches() -> None:
    screen = read(make_adata(), batch_key="batch")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored([model, ConditionMean(screen)], screen, basal="control")
    by_batch = [
        Cells(screen, in_split(screen, "test") & (screen.batch == batch)) for batch in (0, 1)
    ]
    effects = ConditionMean(screen).effects(SCORED, scale="log").to_df()
    observed = {}
    for name in SCORED:
        n_cells = [(cells.which & (cells.label == name)).sum() for cells in by_batch]
        within = [cells.effect(name) for cells in by_batch]
        observed[name] = np.average(within, axis=0, weights=n_cells)
    predicted = {name: effects.loc[name].to_numpy() for name in SCORED}
    expected = by_hand("mae", predicted, observed)
    assert values(rows, "condition-mean", "mae") == pytest.approx(expected)
    own = model.iwelbo(screen.test, n_particles=20, progress=False)["iwelbo"]
    assert values(rows, "sams-vae", "iwelbo")["(all)"] == pytest.approx(own.mean())


def dosed(labels: tuple[str, ...], *doses: str) -> Screen:
    """Return cells that received each of some doses beside control."""
    adata = make_adata(labels=("control", *labels))
    adata.obs["dose"] = np.array(["1", *doses])[np.arange(adata.n_obs) % (len(doses) + 1)]
    return read(adata, dosage_key="dose")


def test_a_screen_with_doses() -> None:
    screen = dosed(("drug", "A", "drug", "B", "B+A"), "0.5", "1", "2", "1", "3+0.5")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    rows = scored([model, ConditionMean(screen)], screen)
    conditions = {"A", "A@0.5+B@3", "B", "drug@0.5", "drug@2"}
    assert set(rows["condition"]) == {*conditions, "control", "(all)"}
    assert not set(rows["metric"]) & set(INTERACTIONS)  # parts at other doses
    assert rows.loc[rows["metric"] == "mae", "value"].notna().all()
    cells, effects = (
        Cells(screen, in_split(screen, "test")),
        ConditionMean(screen).effects(scale="log"),
    )
    expected = np.abs(effects.to_df().loc["drug@0.5"] - cells.effect("drug@0.5")).mean()
    assert values(rows, "condition-mean", "mae")["drug@0.5"] == pytest.approx(expected)


def test_parts_are_at_the_doses_of_their_combination() -> None:
    screen = dosed(("A", "A", "B", "B+A"), "1", "0.5", "3", "3+0.5")
    task = task_of(screen)
    assert task.combinations == {"A@0.5+B@3": ["A@0.5", "B@3"]}
    rows = scored(Additive(screen), screen, **BARE)
    assert values(rows, "additive", "interaction_pearson")["(all)"] == 0


def test_a_screen_of_real_values() -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X) - 1
    screen = read(adata, counts=False)
    model = samsvae.SAMSVAE(screen, **SMALL, likelihood="gaussian").train(**TRAINING)
    rows = scored([model, Additive(screen)], screen, scale="mean")
    assert {*EFFECTS, *INTERACTIONS, *POPULATIONS, *INTERVALS, "iwelbo"} == set(rows["metric"])
    dense, test = np.asarray(adata.X, float), in_split(screen, "test")
    cells = Cells(screen, test, dense)
    effects = Additive(screen).effects(SCORED, scale="mean").to_df()
    expected = by_hand(
        "mae",
        {name: effects.loc[name].to_numpy() for name in SCORED},
        {name: cells.effect(name) for name in SCORED},
    )
    assert values(rows, "additive", "mae") == pytest.approx(expected, rel=1e-5)
    fixed, observed = (values(rows, "sams-vae", f"ate_pearson{x}") for x in ("", "_observed_size"))
    assert fixed == pytest.approx(observed)


@pytest.mark.parametrize("n_cells", [0, 20])
@pytest.mark.parametrize("scale", ["log", "normalized"])
def test_real_values_have_one_scale(n_cells: int, scale: str) -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X) - 1
    screen = read(adata, counts=False)
    with pytest.raises(InputError, match=f"no scale '{scale}': there are 'mean'"):
        scored(Additive(screen), screen, scale=scale, n_cells=n_cells)


def test_a_likelihood_without_a_library_size(whole: Screen) -> None:
    model = samsvae.SAMSVAE(whole, **SMALL, likelihood="poisson").train(**TRAINING)
    rows = scored([model, Additive(whole)], whole, scale="mean")
    assert rows.loc[rows["metric"].isin(["mae", *POPULATIONS[:1]]), "value"].notna().sum() > 10
    with pytest.raises(InputError, match="no scale for a poisson likelihood"):
        scored(model, whole)


def test_a_loaded_model_scores_alike(
    trained: Estimator, whole: Screen, table: pd.DataFrame, tmp_path: Any
) -> None:
    trained.save(tmp_path)
    rows = scored(samsvae.load(tmp_path), whole)
    own = table[table["predictor"].isin(["sams-vae", "technical replicate"])]
    same(rows, own)


def test_the_screen_is_left_as_it_was(trained: Estimator) -> None:
    screen = read(make_adata())
    scored([trained, Additive(screen)], screen)
    fresh = read(make_adata())
    for ours, theirs in ((screen.counts, fresh.counts), (screen.dosage, fresh.dosage)):
        assert (ours != theirs).nnz == 0
    np.testing.assert_array_equal(screen.split, fresh.split)
