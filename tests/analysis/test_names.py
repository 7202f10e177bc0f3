"""Genes, conditions and scales by name; tables of the wrong kind are one clear line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from samsvae import InputError, Screen
from samsvae.data.alignment import align_genes
from samsvae.datasets import simulated_screen

QUICK: dict[str, Any] = {"n_particles": 20, "progress": False}
IGNORED = pytest.mark.filterwarnings("ignore:.* genes of the data are ignored")


@pytest.fixture(scope="module")
def screen() -> Screen:
    return simulated_screen(
        n_perturbations=3, n_combinations=1, n_genes=20, library_size=2000, n_sgrnas=2, seed=0
    )


def trained(screen: Screen, seed: int = 0) -> samsvae.SAMSVAE:
    model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    return model.train(max_steps=5, seed=seed, progress=False)


@pytest.fixture(scope="module")
def model(screen: Screen) -> samsvae.SAMSVAE:
    """Return a model of half of the genes, in another order than the screen's."""
    with pytest.warns(UserWarning, match="^10 genes of the data are ignored"):
        return trained(align_genes(screen, screen.genes[::-2]))


@IGNORED
def test_a_screen_with_more_genes_gives_the_same_table(
    model: samsvae.SAMSVAE, screen: Screen
) -> None:
    same = align_genes(screen, model.registry.genes)
    for by in ("condition", "sgrna"):
        whole, fewer = (samsvae.discoveries(model, s, by=by, **QUICK) for s in (screen, same))
        assert list(whole["gene"].cat.categories) == list(model.registry.genes)
        pd.testing.assert_frame_equal(whole, fewer)
    whole, fewer = (next(samsvae.combinations(model, s, **QUICK)) for s in (screen, same))
    pd.testing.assert_frame_equal(whole, fewer)
    other = trained(same, seed=1)
    whole, fewer = (samsvae.stability([model, other], screen=s, **QUICK) for s in (screen, same))
    pd.testing.assert_frame_equal(whole, fewer)
    whole, fewer = (
        samsvae.predictive_check(model, s, n_draws=2, effect_particles=10, progress=False).observed
        for s in (screen, same)
    )
    pd.testing.assert_series_equal(whole, fewer)


@IGNORED
def test_recovery_compares_the_genes_of_the_model(model: samsvae.SAMSVAE, screen: Screen) -> None:
    assert np.isfinite(samsvae.recovery(model, screen).singles)


@IGNORED
def test_control_sgrnas_of_a_screen_with_more_genes(model: samsvae.SAMSVAE, screen: Screen) -> None:
    table = samsvae.control_calibration(model, screen, max_steps=2, **QUICK)
    assert set(table["gene"]) == set(model.registry.genes)


def test_tables_say_their_scale(screen: Screen, tmp_path: Any) -> None:
    model = trained(screen)
    tables = {
        "discoveries": samsvae.discoveries(model, screen, scale="normalized", **QUICK),
        "combinations": next(samsvae.combinations(model, scale="normalized", **QUICK)),
        "sgrnas": samsvae.sgrnas(screen, scale="normalized", n_permutations=19, progress=False)[0],
        "stability": samsvae.stability([model, model], scale="normalized", **QUICK),
    }
    tables["regulators"] = samsvae.regulators(tables["discoveries"], screen.genes[0])
    for name, table in tables.items():
        table.to_csv(tmp_path / "table.csv", index=False)
        assert set(pd.read_csv(tmp_path / "table.csv")["scale"]) == {"normalized"}, name


def test_tables_by_sgrna(screen: Screen) -> None:
    table = samsvae.discoveries(trained(screen), screen, by="sgrna", **QUICK)
    gene = screen.genes[1]
    own = samsvae.regulators(table, gene)
    assert len(own) == len(table[table["gene"] == gene])
    assert {"sgrna", "condition"} <= set(own.columns)
    with pytest.raises(InputError, match=r'the table has rows by sgRNA.*by="condition"'):
        samsvae.similar(table, "G01")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: samsvae.similar(t, "A"), "no column of the table: 'estimate'"),
        (lambda t: samsvae.regulators(t, "a"), "no column of the table: 'estimate'"),
        (
            lambda t: samsvae.enrichment(t.assign(estimate="x"), {"s": ["a"]}, min_size=1),
            "the column 'estimate' holds .*: expected numbers",
        ),
    ],
)
def test_a_table_that_lacks_what_is_needed(ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        ask(pd.DataFrame({"condition": ["A", "A"], "gene": ["a", "b"]}))
    assert "\n" not in str(error.value)


def test_former_names_of_arguments_still_work() -> None:
    table = pd.DataFrame({"gene": ["a", "b"], "estimate": [1.0, 2.0], "lfsr": [0.01, 0.5]})
    with pytest.warns(DeprecationWarning, match="the argument rate of regulators is now lfsr"):
        assert samsvae.regulators(table, "b", rate=0.1).empty
    with pytest.warns(DeprecationWarning, match="the argument rate of enrichment is now fdr"):
        samsvae.enrichment(table, {"s": ["a"]}, rate=0.1, min_size=1)


def test_former_attributes_still_work(screen: Screen) -> None:
    model = trained(screen)
    predictors = [model, samsvae.EffectPosterior(model, screen), samsvae.baselines.NoChange(screen)]
    for predictor in predictors:
        with pytest.warns(DeprecationWarning, match="seen is now .*training_conditions"):
            assert predictor.seen == predictor.training_conditions
        with pytest.warns(DeprecationWarning, match="remembered is now .*fitted_on"):
            assert predictor.remembered.equals(predictor.fitted_on)
    with (
        pytest.warns(DeprecationWarning, match="matched_to.* is now .*align_screen"),
        pytest.warns(UserWarning, match="^10 genes of the data are ignored"),
    ):
        aligned, n_ignored = screen.matched_to(
            replace(screen.registry, genes=screen.genes[:10], symbols=())
        )
    assert (aligned.genes, n_ignored) == (screen.genes[:10], 10)
