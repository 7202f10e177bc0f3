"""What a trained model says against its own answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae.data.cautions import Caution
from samsvae.estimators import cautions as of_models
from samsvae.estimators.cautions import Cautions, titles_of


@pytest.fixture(scope="module")
def screen() -> samsvae.Screen:
    return read(make_adata(n_cells=300))


@pytest.fixture(scope="module")
def model(screen: samsvae.Screen) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(
        max_steps=20, batch_size=64, progress=False, alignment="none"
    )


def titles(model: samsvae.SAMSVAE, elbo: list[float], best: list[bool]) -> set[str]:
    step = np.arange(1, 1 + len(elbo)) * 100
    history = pd.DataFrame({"step": step, "valid_elbo": elbo, "is_best": best})
    original, model.history = model.history, history
    try:
        return set(model.cautions()["title"])
    finally:
        model.history = original


def test_training_is_judged_by_its_history(model: samsvae.SAMSVAE) -> None:
    assert titles(model, [-9.0, -8.0, -8.2], [True, True, False]) == set()
    assert titles(model, [-9.0, -8.0], [True, True]) == {"Still improving"}
    assert titles(model, [-9.0, -8.0, -10.0], [True, True, False]) == {"Overfitting"}
    assert titles(model, [np.nan, np.nan], [False, False]) == {"No validation cells"}


def test_intervals_that_were_not_widened_are_said(model: samsvae.SAMSVAE) -> None:
    known = model.metadata.spread_of_condition
    object.__setattr__(model.metadata, "spread_of_condition", None)
    try:
        assert "Intervals of effects() are narrow" in set(model.cautions()["title"])
    finally:
        object.__setattr__(model.metadata, "spread_of_condition", known)


def test_the_serious_ones_come_first_with_their_conditions(
    model: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    table = model.cautions(screen)
    assert table["is_serious"].is_monotonic_decreasing
    assert "Cells are taken as independent" in set(table["title"])
    assert all(isinstance(names, list) for names in table["conditions"])


def test_a_mechanism_of_conditions_that_change_the_composition(
    model: samsvae.SAMSVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame(
        {
            "perturbation": ["A", "B", "C", "C", "A"],
            "dimension": ["z0", "z0", "z0", "z1", "z1"],
            "probability": [1.0, 0.95, 0.7, 0.95, 0.2],  # C is a candidate of z0 alone
        }
    )
    monkeypatch.setattr(of_models.LatentSpace, "inclusion", lambda _: table)
    of_cells = [Caution("Composition", "", conditions=("A", "B"))]
    (found,) = Cautions(model)._of_mechanisms(of_cells)
    assert found.title == "A mechanism of composition"
    assert found.conditions == ("A", "B")
    assert "z0" in found.text


def test_discoveries_carry_them(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    is_b = screen.condition == screen.position_of_condition["B"]
    small = screen[~is_b | (np.cumsum(is_b) <= 20)]
    table = samsvae.discoveries(model, small, ["A", "B", "B+C"], n_particles=20, progress=False)
    said = table.groupby("condition", observed=True)["caution"].first()
    assert "Few cells" not in said["A"]
    assert "Few cells" in said["B"]
    assert "Few cells" in said["B+C"]  # of a part
    assert any(text.startswith("Few cells. ") for text in table.attrs["cautions"])


def test_titles_of_parts() -> None:
    registry = samsvae.Screen.from_anndata(make_adata()).registry
    one = Caution("Few cells", "", conditions=("A",))
    names = ["A", "B", "B+A", "A+C"]
    found = titles_of([one], names, registry, [True, True, False, True])
    assert found == ["Few cells", "", "Few cells", ""]
