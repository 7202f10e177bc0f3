"""A screen in which no perturbation does anything: no table has anything to tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from samsvae.analysis.similarity import most_similar
from samsvae.data.simulate import SimulatedScreen

pytestmark = pytest.mark.slow

GIVEN: dict[str, Any] = {"n_particles": 300, "progress": False}


@pytest.fixture(scope="module", params=["programs", "mixed"])
def screen(request: pytest.FixtureRequest) -> SimulatedScreen:
    """Return cells whose perturbations act in none of them, with sgRNAs and pairs."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=12,
        n_combinations=6,
        n_genes=100,
        cells_per_condition=120,
        n_control=600,
        decoder=request.param,
        response_prob=0.0,
        n_sgrnas=2,
        seed=3,
    )
    assert screen.responds.nnz == 0
    return screen


@pytest.fixture(scope="module")
def model(screen: SimulatedScreen) -> samsvae.SAMSVAE:
    model = samsvae.SAMSVAE(screen, n_latent=12, n_hidden=32, learn_responders=True)
    return model.train(max_steps=600, learning_rate=0.006, progress=False)


@pytest.fixture(scope="module")
def table(model: samsvae.SAMSVAE, screen: SimulatedScreen) -> pd.DataFrame:
    return samsvae.discoveries(model, screen, **GIVEN)


def test_no_effect_is_called(table: pd.DataFrame) -> None:
    assert len(table) == 12 * 100
    assert (table["lfsr"] >= 0.05).all()
    assert (table["q_value"] >= 0.05).all()
    assert table["estimate"].abs().mean() < 0.2 * table["observed"].abs().mean()


def test_hardly_an_effect_of_an_sgrna_is_called(
    model: samsvae.SAMSVAE, screen: SimulatedScreen
) -> None:
    """What is learned of conditions holds for halves of their cells: of 2,400 rows, one or two."""
    table = samsvae.discoveries(model, screen, by="sgrna", **GIVEN)
    assert len(table) == 24 * 100
    assert (table["lfsr"] < 0.05).sum() <= 2


def test_no_two_conditions_differ(model: samsvae.SAMSVAE, screen: SimulatedScreen) -> None:
    for one, other in (("G01", "G02"), ("G03+G04", "G05"), ("G06", "control")):
        table = samsvae.contrast(model, screen, one, other, **GIVEN)
        assert (table["lfsr"] >= 0.05).all(), (one, other)


def test_no_gene_has_a_regulator(table: pd.DataFrame, screen: SimulatedScreen) -> None:
    for gene in screen.genes:
        assert samsvae.regulators(table, gene, lfsr=0.05).empty, gene


def test_no_perturbations_share_genes(table: pd.DataFrame) -> None:
    similar = samsvae.similar(table, "G01")
    assert (similar["n_shared"] == 0).all()
    assert not similar["is_alike"].any()
    assert not any(most_similar(table).values())


def test_no_sgrna_stands_out(screen: SimulatedScreen) -> None:
    found = samsvae.sgrnas(screen, n_permutations=199, progress=False)
    assert set(found.sgrnas["flag"]) == {""}
    assert (found.conditions["q_heterogeneity"].dropna() >= 0.05).all()


def test_no_interaction_is_called(model: samsvae.SAMSVAE, screen: SimulatedScreen) -> None:
    pairs = [name for name in screen.conditions if "+" in name]
    table = pd.concat(samsvae.combinations(model, screen, pairs, n_particles=100, progress=False))
    assert table["lfsr"].notna().all()
    assert (table["lfsr"] >= 0.05).all()
    largest = table["observed_deviation"].abs().max()
    assert table["interaction"].abs().max() < 0.25 * largest


def test_no_cell_is_known_to_respond(model: samsvae.SAMSVAE, screen: SimulatedScreen) -> None:
    rates = model.responders(screen, progress=False).rates
    assert (rates["log_bayes_factor"] < 3).all()
    assert not rates["informative"].any()
    assert rates[["rate", "lower", "upper"]].isna().all(axis=None)


def test_there_is_no_program(model: samsvae.SAMSVAE) -> None:
    assert model.programs(progress=False).empty
    assert (model.inclusion()["probability"] < 0.5).all()


def test_no_gene_set_is_rich(table: pd.DataFrame, screen: SimulatedScreen) -> None:
    sets = {f"set{i}": list(screen.genes[i::5]) for i in range(5)}
    found = samsvae.enrichment(table, sets)
    assert (found["n_called"] == 0).all()
    assert (found["q_rank"] >= 0.01).mean() > 0.95
    assert np.isnan(found["p_hypergeometric"]).all()
