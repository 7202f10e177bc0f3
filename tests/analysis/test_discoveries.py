"""The table of discoveries, and the predictor behind it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, half_dead, make_adata, read
from samsvae import InputError
from samsvae.analysis.ordering import surest_first
from samsvae.data.expression import expression
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
    return samsvae.discoveries(model, screen, **QUICK)


def test_one_row_per_condition_and_gene(table: pd.DataFrame, screen: samsvae.Screen) -> None:
    assert list(table.columns) == [
        *("condition", "gene", "estimate", "sd", "lower", "upper", "lfsr", "q_value"),
        *("lower_if_changed", "upper_if_changed", "informative"),
        *("model", "observed", "composition", "n_cells", "on_target", "caution", "scale"),
    ]
    assert len(table) == 4 * len(screen.genes)
    assert table["lfsr"].between(0, 1).all()
    assert (table["lower"] <= table["upper"]).all()
    sure = table[table["lfsr"] < 0.5]  # a mean may lie outside an interval that is a point
    assert sure["estimate"].between(sure["lower"] - 1e-9, sure["upper"] + 1e-9).all()
    assert len(sure) > 3
    assert table["n_cells"].dtype.kind == "i"
    n_cells = table.groupby("condition", observed=True)["n_cells"].first()
    assert {name: len(screen.of(name)) for name in n_cells.index} == n_cells.to_dict()


def test_observed_is_the_differential_expression(
    table: pd.DataFrame, screen: samsvae.Screen
) -> None:
    own = table.pivot(index="condition", columns="gene", values="observed")
    expected = samsvae.differential_expression(screen, list(own.index), scale="lfc")
    np.testing.assert_allclose(own[list(screen.genes)], expected, atol=1e-12)


def test_the_q_value_is_the_mean_lfsr_of_all_that_are_as_sure(table: pd.DataFrame) -> None:
    ordered = table.sort_values("lfsr", kind="stable")
    expected = ordered["lfsr"].expanding().mean()
    np.testing.assert_allclose(ordered["q_value"], expected, atol=1e-12)


def test_rows_are_sorted_by_condition_and_the_surest_gene_first(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = samsvae.discoveries(model, screen, ["B", "A"], **QUICK)
    assert list(table["condition"].unique()) == ["B", "A"]
    for _, own in table.groupby("condition", observed=True):
        lfsr, size = own["lfsr"].round(12), (own["estimate"].abs() / own["sd"]).fillna(0)
        assert lfsr.is_monotonic_increasing
        assert size[lfsr == 0].is_monotonic_decreasing
    assert table.attrs["scale"] == "lfc"
    tied = pd.DataFrame({"gene": ["a", "b", "c"], "estimate": [2.0, -1.0, 1.5], "lfsr": 0.0})
    tied = tied.assign(sd=[0.5, 0.1, np.nan], condition="B")
    assert list(surest_first(tied)["gene"]) == ["b", "a", "c"]
    assert list(
        samsvae.regulators(tied.assign(condition=["x", "y", "z"], gene="g"), "g")["condition"]
    ) == ["y", "x", "z"]


def test_an_unseen_combination_is_the_sum_of_its_parts(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = samsvae.discoveries(model, screen, ["A+C", "A", "C"], **QUICK)
    assert table.attrs["n_combinations"] == 1  # A+B was measured, and A and B were
    own = {
        name: rows.set_index("gene").loc[list(screen.genes)]
        for name, rows in table.groupby("condition", observed=True)
    }
    unseen, a, c = own["A+C"], own["A"], own["C"]
    assert unseen["observed"].isna().all()
    assert (unseen["n_cells"] == 0).all()
    np.testing.assert_allclose(unseen["estimate"], a["estimate"] + c["estimate"], atol=1e-9)
    assert (unseen["sd"] ** 2 >= a["sd"] ** 2 + c["sd"] ** 2 - 1e-9).all()
    assert (unseen["lfsr"] >= np.minimum(a["lfsr"], c["lfsr"]) - 1e-12).all()


def test_an_answer_does_not_depend_on_what_else_is_asked(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    alone, beside = (
        samsvae.discoveries(model, screen, n, **QUICK) for n in (["A+C"], ["A+C", "A+B"])
    )
    beside = beside[beside["condition"] == "A+C"]
    assert alone.attrs["n_combinations"] == beside.attrs["n_combinations"]
    for column in ("estimate", "sd", "lfsr"):
        np.testing.assert_allclose(alone[column], beside[column], atol=1e-6)


def test_rows_without_cells_have_q_values_of_their_own(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = samsvae.discoveries(model, screen, ["A+C", "A", "B"], **QUICK)
    for has_cells in (True, False):
        own = table[(table["n_cells"] > 0) == has_cells]
        expected = [own.loc[own["lfsr"] <= rate, "lfsr"].mean() for rate in own["lfsr"]]
        np.testing.assert_allclose(own["q_value"], expected, atol=1e-12)


def test_nothing_is_learned_of_control_by_asking_for_it(
    model: samsvae.SAMSVAE, screen: samsvae.Screen, table: pd.DataFrame
) -> None:
    beside = samsvae.discoveries(model, screen, ["A", "control"], **QUICK)
    assert beside.attrs["slope"] == pytest.approx(table.attrs["slope"], abs=0.02)
    assert beside.attrs["model_share"] == pytest.approx(table.attrs["model_share"], abs=0.02)
    of_control = beside[beside["condition"] == "control"]
    np.testing.assert_allclose(of_control["observed"], 0, atol=1e-9)
    assert (of_control["lfsr"] > 0.5).all()


def test_the_monte_carlo_error_of_the_model_is_part_of_its_variance(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    conditions = list(model.metadata.conditions[1:])
    asked = {"n_particles": 20, "seed": 3, "progress": False}
    settings = EffectSettings(scale="log", **asked)
    posterior = samsvae.EffectPosterior(model, screen)
    variance = posterior.answer(conditions, settings, screen.split == "train").predicted.variance
    of_model = model.effects(conditions, library_size="observed", n_draws=0, **asked)
    error = np.asarray(of_model.layers["mc_se"]) ** 2
    assert (variance >= error).all()
    assert (error > 0).all()


def test_silent_genes_change_nothing() -> None:
    adata = make_adata(n_cells=600)
    adata.X[:, 3] = 0
    screen = read(adata)
    with pytest.warns(match="1 of 12 genes are zero"):
        model = samsvae.SAMSVAE(screen, **SMALL).train(alignment="none", **TRAINING)
    table = samsvae.discoveries(model, screen, **QUICK)
    unexpressed = table[table["gene"] == screen.genes[3]]
    assert (unexpressed["estimate"] == 0).all()
    assert (unexpressed["lfsr"] == 1).all()
    assert unexpressed["sd"].isna().all()


def test_it_stands_in_the_table_of_evaluation(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    posterior = samsvae.EffectPosterior(model, screen)
    given = {"effect_particles": 50, "n_halvings": 2, "n_particles": 2, "progress": False}
    rows = samsvae.evaluate([model, posterior], screen, scale="log", **given)
    pooled = rows[rows["condition"] == "(all)"].set_index(["predictor", "metric"])["value"]
    for metric in ("ate_pearson", "rmse", "coverage_90", "coverage_50"):
        assert np.isfinite(pooled["sams-vae, with data", metric]), metric
    assert "iwelbo" not in pooled["sams-vae, with data"].dropna()
    held = screen.cells[screen.split == "test"]
    assert not posterior.fitted_on.isin(held).any()


def test_test_cells_do_not_enter_the_predictor(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    spoilt = read(make_adata(n_cells=600))
    rows = np.flatnonzero(spoilt.split == "test")
    counts = spoilt.counts.tolil()
    counts[rows[:20]] = 50
    spoilt = samsvae.Screen(**{**vars(spoilt), "counts": counts.tocsr()})
    first, second = (
        samsvae.EffectPosterior(model, one).effects(**QUICK).X for one in (screen, spoilt)
    )
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_what_is_needed(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    with pytest.raises(InputError, match="not trained"):
        samsvae.discoveries(samsvae.SAMSVAE(screen, **SMALL), screen)
    no_valid = screen.with_split(np.where(screen.split == "valid", "train", screen.split))
    with pytest.raises(InputError, match="few validation cells, of control and of perturbations"):
        samsvae.discoveries(model, no_valid)
    split = np.array(screen.split, object)  # one of each condition: its standard error is not known
    for code in np.unique(screen.condition[~screen.is_control]):
        split[np.flatnonzero((screen.condition == code) & (split == "valid"))[1:]] = "train"
    with pytest.raises(InputError, match="expected two training and two validation cells"):
        samsvae.discoveries(model, screen.with_split(split))
    posterior = samsvae.EffectPosterior(model, screen)
    with pytest.raises(InputError, match="has no likelihood"):
        posterior.iwelbo(screen, n_particles=1, seed=0, progress=False)


@pytest.mark.parametrize("scale", ["normalized"])
def test_other_scales(model: samsvae.SAMSVAE, screen: samsvae.Screen, scale: str) -> None:
    table = samsvae.discoveries(model, screen, scale=scale, **QUICK)
    expected = samsvae.differential_expression(screen, scale=scale)
    own = table.pivot(index="condition", columns="gene", values="observed")
    np.testing.assert_allclose(own.loc[expected.index, expected.columns], expected, atol=1e-9)
    assert table["estimate"].corr(table["observed"]) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["programs", "mixed"])
def test_calls_on_a_simulated_screen(decoder: str) -> None:
    """Of the calls at a false sign rate of 5 % so many have the right sign."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=16, n_combinations=0, n_genes=120, n_control=600, decoder=decoder, seed=1
    )
    model = samsvae.SAMSVAE(screen, n_latent=15, n_hidden=32)
    model.train(max_steps=600, learning_rate=0.006, progress=False)
    table = samsvae.discoveries(model, screen, n_particles=500, progress=False)
    truth = screen.truth.effects(list(model.metadata.conditions[1:])).stack()
    own = table.set_index(["condition", "gene"])
    own.index = own.index.set_levels([level.astype(str) for level in own.index.levels])
    sign = np.sign(truth.reindex(own.index).to_numpy())
    call = (own["q_value"] < 0.05).to_numpy()
    assert call.sum() > 100
    assert (np.sign(own["estimate"].to_numpy()) != sign)[call].mean() < 0.1


def test_cells_that_do_not_respond_do_not_dilute_the_effect() -> None:
    """Of A, whose second sgRNA is dead, the effect is that of its first sgRNA alone."""
    screen = half_dead()
    model = samsvae.CPAVAE(screen, n_latent=4, n_hidden=16, learn_responders=True)
    model.train(max_steps=300, batch_size=128, learning_rate=0.01, progress=False)
    diluted, own = (
        samsvae.discoveries(model, screen, ["A", "B"], cells=cells, scale="log", **QUICK).set_index(
            ["condition", "gene"]
        )
        for cells in ("all", "responders")
    )
    live = screen[np.asarray((screen.sgrna == "Ag1") | screen.is_control)]
    right = samsvae.differential_expression(live, ["A"]).loc["A", "g2"]
    assert diluted["observed"]["A", "g2"] < 0.6 * right
    assert own["observed"]["A", "g2"] == pytest.approx(right, rel=0.1)
    assert own["estimate"]["A", "g2"] == pytest.approx(right, rel=0.15)
    # By hand: every cell counts as much as it is probable that it responds.
    found = model.responders(screen, progress=False).cells
    weight = found.set_index("cell")["probability"][screen.cells[screen.condition == 1]]
    values = expression(screen, "log")[:].toarray()
    assert screen.condition_names[1] == "A"
    mean = np.average(values[screen.condition == 1], axis=0, weights=weight)
    expected = mean - values[screen.is_control].mean(0)
    np.testing.assert_allclose(own["observed"]["A"][list(screen.genes)], expected, atol=1e-9)
    np.testing.assert_allclose(own["n_cells"]["A"], weight.sum())
    plain = samsvae.CPAVAE(screen, n_latent=3, n_hidden=8).train(**TRAINING)
    with pytest.raises(InputError, match="learn_responders=True"):
        samsvae.discoveries(plain, screen, cells="responders")
    with pytest.raises(InputError, match="no cells 'some'"):
        samsvae.discoveries(model, screen, cells="some")


def with_sgrnas() -> samsvae.Screen:
    adata = make_adata(n_cells=600)
    control = (adata.obs["perturbation"] == "control").to_numpy()
    names = np.array(["NTg1", "NTg2", "NTg3"])[np.arange(600) // 5 % 3]
    adata.obs["guide"] = np.where(control, names, adata.obs["perturbation"].astype(str) + "g1")
    return read(adata, sgrna_key="guide")


def test_control_sgrnas_in_the_place_of_perturbations() -> None:
    screen = with_sgrnas()
    model = samsvae.CPAVAE(screen, n_latent=3, n_hidden=8)  # hyperparameters are all that it gives
    table = samsvae.control_calibration(model, screen, n_particles=50, **TRAINING)
    assert list(table["condition"].unique()) == ["NTg1", "NTg2", "NTg3"]
    assert len(table) == 3 * len(screen.genes)
    own = screen.is_control & np.asarray(screen.sgrna == "NTg2")
    rows = table[table["condition"] == "NTg2"]
    assert (rows["n_cells"] == own.sum()).all()
    # Against the other controls, not against itself.
    counts = screen.counts.toarray()
    sums = [counts[some].sum(0) for some in (own, screen.is_control & ~own)]
    expected = sums[1] * sums[0].sum() / sums[1].sum()
    composition = rows["composition"].iloc[0]
    difference = np.log2((sums[0] + 0.5) / (expected + 0.5)) - composition
    observed = rows.set_index("gene")["observed"][list(screen.genes)]
    np.testing.assert_allclose(observed, difference, atol=1e-6)
    expected = [(table["lfsr"] <= one).mean() for one in table["lfsr"]]
    np.testing.assert_allclose(table["share"], expected)
    assert ((table["lfsr"] < 0.05).mean()) < 0.05


def test_control_calibration_needs_sgrnas(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    with pytest.raises(InputError, match=r"sgRNAs of the cells are not known: .* sgrna_key"):
        samsvae.control_calibration(model, screen)


def test_at_the_command_line(call, folder) -> None:
    make_adata(n_cells=600).write_h5ad("data.h5ad")
    small = "--n-latent 3 --n-hidden 8 --max-steps 10 --no-progress"
    assert call(f"train data.h5ad --out run --split-key split {small}").errors == []
    done = call("discoveries run data.h5ad A B --out d.csv --n-particles 20 --no-progress")
    assert done.errors == []
    assert "discoveries (q_value < 0.05)" in done.out
    assert "24 of 24 rows written to d.csv" in done.out
    table = pd.read_csv("d.csv")
    assert list(table["condition"].unique()) == ["A", "B"]
    done = call("discoveries run data.h5ad --out d.csv --no-progress")
    assert "exists" in done.errors[0]
    done = call("discoveries run data.h5ad --fdr 2 --no-progress")
    assert "fdr is 2.0: expected a number between 0 and 1" in done.errors[0]


@pytest.fixture
def folder(tmp_path):
    return tmp_path
