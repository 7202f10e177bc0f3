"""The contrast of two conditions."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import samsvae
from helpers.command_line import Call
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError
from samsvae.analysis.contrasts import _pairs
from samsvae.settings.questions import EffectSettings

QUICK = {"n_particles": 50, "progress": False}
TRAINING = {"max_steps": 60, "batch_size": 64, "learning_rate": 0.01, "progress": False}


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    return read(make_adata(n_cells=600))


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(alignment="none", **TRAINING)


@pytest.fixture(scope="module")
def table(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> pd.DataFrame:
    return samsvae.contrast(model, screen, "B", "A", **QUICK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_one_row_per_gene(table: pd.DataFrame, screen: samsvae.Screen) -> None:
    assert list(table.columns) == [
        *("condition", "against", "gene", "estimate", "sd", "lower", "upper", "lfsr", "q_value"),
        *("lower_if_changed", "upper_if_changed", "informative"),
        *("model", "observed", "n_cells", "n_cells_against", "scale"),
    ]
    assert sorted(table["gene"]) == sorted(screen.genes)
    assert set(table["condition"]) == {"B"}
    assert set(table["against"]) == {"A"}
    assert set(table["n_cells"]) == {len(screen.of("B"))}
    assert set(table["n_cells_against"]) == {len(screen.of("A"))}
    assert table["lfsr"].round(12).is_monotonic_increasing
    np.testing.assert_allclose(table["q_value"], table["lfsr"].expanding().mean(), atol=1e-9)


def test_observed_and_model_are_differences_of_effects(
    table: pd.DataFrame, model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    of_each = samsvae.discoveries(model, screen, **QUICK)
    for name in ("observed", "model"):
        wide = of_each.pivot(index="condition", columns="gene", values=name)
        expected = (wide.loc["B"] - wide.loc["A"])[list(table["gene"])]
        np.testing.assert_allclose(table[name], expected, atol=1e-6, err_msg=name)


def test_the_other_way_round_only_the_sign_changes(
    table: pd.DataFrame, model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    other = samsvae.contrast(model, screen, "A", "B", **QUICK)
    assert list(other["gene"]) == list(table["gene"])
    for name in ("estimate", "model", "observed"):
        np.testing.assert_array_equal(other[name], -table[name], err_msg=name)
    np.testing.assert_array_equal(other["lower"], -table["upper"])
    for name in ("sd", "lfsr", "q_value"):
        np.testing.assert_array_equal(other[name], table[name], err_msg=name)
    assert set(other["n_cells_against"]) == set(table["n_cells"])


def test_of_control_the_effect_is_zero(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    table = samsvae.contrast(model, screen, "A", "control", **QUICK).set_index("gene")
    own = samsvae.discoveries(model, screen, ["A"], **QUICK).set_index("gene")
    np.testing.assert_allclose(table["observed"][own.index], own["observed"], atol=1e-9)


def test_a_combination_without_cells_is_the_sum_of_its_parts(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    """Against control it is the effect, and against another condition less than that is sure."""
    of_effects = samsvae.discoveries(model, screen, ["A+C", "A"], **QUICK)
    effect, of_a = (
        of_effects[of_effects["condition"] == name].set_index("gene") for name in ("A+C", "A")
    )
    table = samsvae.contrast(model, screen, "A+C", "control", **QUICK).set_index("gene")
    for name in ("estimate", "sd", "lfsr"):
        np.testing.assert_allclose(table[name], effect[name][table.index], atol=0.01, err_msg=name)
    table = samsvae.contrast(model, screen, "A+C", "A", **QUICK).set_index("gene")
    assert table["observed"].isna().all()
    assert set(table["n_cells"]) == {0}
    difference = (effect["estimate"] - of_a["estimate"])[table.index]
    np.testing.assert_allclose(table["estimate"], difference, atol=1e-6)
    variance = (effect["sd"] ** 2 + of_a["sd"] ** 2)[table.index]
    np.testing.assert_allclose(table["sd"] ** 2, variance, rtol=1e-6)


def test_a_condition_against_itself_is_an_error(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    with pytest.raises(InputError, match="both conditions are 'A\\+B': expected two different"):
        samsvae.contrast(model, screen, "A+B", ("B", "A"), **QUICK)
    with pytest.raises(InputError, match="'Z'"):
        samsvae.contrast(model, screen, "A", "Z", **QUICK)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_no_condition_is_in_more_than_two_contrasts(n: int) -> None:
    pairs = _pairs(n, 0, 1, seed=3).toarray()
    assert pairs[0].tolist() == [1, -1, *[0] * (n - 2)]
    assert (np.abs(pairs).sum(1) == 2).all()
    assert (pairs.sum(1) == 0).all()
    assert (np.abs(pairs).sum(0) <= 2).all()


def test_the_standard_error_has_no_part_of_control(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    """Over 60 screens with few control cells: their spread, within what chance leaves."""
    settings = EffectSettings(n_particles=2, progress=False, relative_to="library")
    inputs = None
    differences, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        adata = make_adata(n_cells=600)
        adata.X = rng.poisson(np.linspace(3, 30, 12), adata.shape).astype(np.float32)
        drawn = read(adata)
        keep = ~drawn.is_control | (np.cumsum(drawn.is_control) <= 20)
        predictor = samsvae.EffectPosterior(model, drawn)
        inputs = inputs or predictor.inputs(["A", "B"], settings)
        rows = [inputs.place[name] for name in ("A", "B")]
        weights = sp.csr_matrix(([1.0, -1.0], ([0, 0], rows)), (1, len(inputs.place)))
        observed = predictor.sums_observed(inputs, keep, weights)
        differences.append(observed.difference[0])
        errors.append(np.sqrt(observed.variance[0]))
    ratio = np.mean(errors, 0) / np.std(differences, 0)
    assert np.median(ratio) == pytest.approx(1, abs=0.15)


def of_another_simulator(seed: int, n_genes: int = 100) -> tuple[samsvae.Screen, pd.DataFrame]:
    """Return a screen, and true log2 fold changes: P1 and P2 act alike, N1 and N2 do nothing."""
    rng = np.random.default_rng(seed)
    names = ["P1", "P2", "P3", "P4", "P5", "P6", "N1", "N2"]
    change = np.zeros((len(names), n_genes))
    for row in change[1:6]:
        genes = rng.choice(n_genes, 20, replace=False)
        row[genes] = rng.choice([-1, 1], 20) * rng.uniform(0.4, 1.2, 20)
    change[0] = change[1]
    condition = np.repeat(np.arange(len(names) + 1), [300, *[90] * len(names)])
    share = np.exp(rng.normal(0, 1, n_genes))
    mean = share / share.sum() * np.exp(np.vstack([np.zeros(n_genes), change]))[condition]
    size = 900 * np.exp(rng.normal(0, 0.3, (len(condition), 1)))
    shape = np.exp(rng.uniform(np.log(2), np.log(20), n_genes))
    counts = rng.poisson(size * mean * rng.gamma(shape, 1 / shape, (len(condition), n_genes)))
    obs = pd.DataFrame({"perturbation": np.array(["control", *names])[condition]})
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs.rename(index=str))
    screen = samsvae.Screen.from_anndata(adata)
    truth = pd.DataFrame(change / np.log(2), names, list(screen.genes))
    return screen.with_split(samsvae.splits.stratified(screen, seed=0)), truth


@pytest.mark.long
@pytest.mark.slow
def test_error_rates_hold_and_conditions_that_act_alike_have_no_contrast() -> None:
    screen, truth = of_another_simulator(0)
    model = samsvae.SAMSVAE(screen, n_latent=10, n_hidden=32)
    model.train(max_steps=600, learning_rate=0.005, progress=False)
    n_calls = n_wrong = n_large = n_right = 0
    for one, other in [("P1", "P3"), ("P2", "P4"), ("P5", "P6"), ("P3", "N1"), ("N2", "P6")]:
        table = samsvae.contrast(model, screen, one, other, n_particles=200, progress=False)
        true = (truth.loc[one] - truth.loc[other])[table["gene"].astype(str)].to_numpy()
        is_call = (table["q_value"] < 0.05).to_numpy()
        is_wrong = np.sign(table["estimate"].to_numpy()) != np.sign(true)
        n_calls, n_wrong = n_calls + is_call.sum(), n_wrong + (is_call & is_wrong).sum()
        is_large = np.abs(true) > 0.5
        n_large, n_right = (
            n_large + is_large.sum(),
            n_right + (is_large & is_call & ~is_wrong).sum(),
        )
    assert n_wrong <= 0.05 * n_calls
    assert n_right >= 0.85 * n_large
    for one, other in [("P1", "P2"), ("N1", "N2")]:
        table = samsvae.contrast(model, screen, one, other, n_particles=200, progress=False)
        assert not (table["q_value"] < 0.05).any()


def test_at_the_command_line(call: Call) -> None:
    make_adata(n_cells=600).write_h5ad("data.h5ad")
    small = "--n-latent 3 --n-hidden 8 --max-steps 60 --learning-rate 0.01 --no-progress"
    assert call(f"train data.h5ad --out run --split-key split {small}").errors == []
    done = call("contrast run data.h5ad A B --out c.csv --n-particles 20 --no-progress")
    assert done.errors == []
    assert "effect of A (120 cells) minus effect of B (120 cells)" in done.out.replace("\n", " ")
    assert "of 12 rows at q_value < 0.05" in done.out
    assert "12 of 12 rows written to c.csv" in done.out
    table = pd.read_csv("c.csv")
    assert set(table["condition"] + table["against"]) == {"AB"}
    done = call("contrast run data.h5ad A A --no-progress")
    assert done.errors == ["samsvae: both conditions are 'A': expected two different ones"]


def test_as_anndata(table: pd.DataFrame) -> None:
    wide = samsvae.export.as_anndata(table)
    assert wide.obs_names.tolist() == ["B"]
    assert wide.obs["against"].tolist() == ["A"]
    assert wide.uns["rank_genes_groups"]["params"]["reference"] == "A"
