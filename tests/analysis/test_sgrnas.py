"""How sgRNAs of one target agree: by hand, by permutation, and where one is dead."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import samsvae
from helpers.screens import SMALL, half_dead, make_adata, read
from samsvae import InputError, Screen
from samsvae.data.expression import expression

QUICK: dict[str, Any] = {"n_permutations": 99, "progress": False}


def test_cochrans_q_is_that_of_the_formula() -> None:
    screen = half_dead(n_cells=240)
    table = samsvae.sgrnas(screen, ["A"], **QUICK).conditions
    values = expression(screen)[:].toarray()
    own = screen.condition == screen.condition_names.index("A")
    cells, names = values[own], np.asarray(screen.sgrna[own])
    total = 0.0
    for gene in cells.T:
        variance = gene.var(ddof=1)
        for name in ("Ag1", "Ag2"):
            some = gene[names == name]
            total += len(some) * (some.mean() - gene.mean()) ** 2 / variance
    assert table["Q"][0] == pytest.approx(total)
    assert table["df"][0] == len(screen.genes)
    assert table["n_cells"][0] == own.sum()


def test_the_p_value_is_that_of_all_permutations() -> None:
    """Of six cells in two batches, whose permutations can be counted."""
    adata = make_adata(n_cells=40, labels=("control", "A"))
    label = adata.obs["perturbation"].to_numpy()
    own = np.flatnonzero(label == "A")[:6]
    keep = np.sort(np.concatenate([own, np.flatnonzero(label == "control")]))
    adata.obs["batch"] = np.array(["one", "two"])[np.arange(40) // 2 % 2]
    adata.obs["guide"] = "NT"
    adata.obs.loc[adata.obs_names[own], "guide"] = ["g1", "g2", "g1", "g2", "g2", "g1"]
    screen = read(adata[keep].copy(), sgrna_key="guide", batch_key="batch")
    found = samsvae.sgrnas(screen, n_permutations=4000, progress=False)
    mine = screen.condition == 1
    values, batch = expression(screen)[:].toarray()[mine], screen.batch[mine]
    names = np.asarray(screen.sgrna[mine])
    values = values - np.stack([values[batch == b].mean(0) for b in batch])
    variance = (values**2).sum(0) / (6 - len(set(batch)))
    values = values[:, variance > 0] / np.sqrt(variance[variance > 0])

    def q(order: tuple[int, ...]) -> float:
        label = names[list(order)]
        groups = [values[label == name] for name in ("g1", "g2")]
        return sum(len(g) * ((g.mean(0) - values.mean(0)) ** 2).sum() for g in groups)

    allowed = [o for o in permutations(range(6)) if (batch[list(o)] == batch).all()]
    every = np.array([q(order) for order in allowed])
    expected = (every >= q(tuple(range(6))) - 1e-9).mean()
    assert found.conditions["Q"][0] == pytest.approx(q(tuple(range(6))))
    assert found.conditions["p_heterogeneity"][0] == pytest.approx(expected, abs=0.04)


def test_a_dead_sgrna_is_flagged_and_its_partner_is_not_called_dead() -> None:
    adata_screen = half_dead()
    found = samsvae.sgrnas(adata_screen, n_permutations=199, progress=False)
    flags = found.sgrnas.set_index("sgrna")["flag"]
    assert flags["Ag2"] == "dead"
    assert flags["Ag1"] != "dead"
    assert (flags[["Bg1", "Bg2", "Cg1", "Cg2"]] == "").all()
    whole = found.conditions.set_index("condition")
    assert whole["q_heterogeneity"]["A"] < 0.05
    assert whole["p_heterogeneity"][["B", "C"]].min() > 0.01
    assert whole["correlation"]["B"] > 0.8
    assert abs(whole["correlation"]["C"]) < 0.6
    strength = found.sgrnas.set_index("sgrna")["strength"]
    assert strength["Ag2"] < 0.3


def test_sgrnas_that_agree_have_strength_one() -> None:
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=6, n_combinations=0, n_genes=60, n_sgrnas=2, cells_per_condition=400
    )
    found = samsvae.sgrnas(screen, n_permutations=99, progress=False)
    strong = found.sgrnas[found.sgrnas["n_changed"] >= 20]
    assert len(strong) >= 4
    assert strong["strength"].mean() == pytest.approx(1, abs=0.1)
    assert (strong["sign_agreement"] > 0.9).all()
    assert (found.sgrnas["flag"] == "").mean() > 0.8


def test_p_values_are_uniform_where_sgrnas_do_not_differ() -> None:
    """Failure rate below 1e-5: 48 p values, of which at most 14 may lie below a tenth."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=24, n_combinations=0, n_genes=20, n_sgrnas=2, cells_per_condition=60
    )
    found = samsvae.sgrnas(screen, **QUICK)
    p = found.conditions["p_heterogeneity"]
    assert (p <= 0.1).sum() <= 12
    assert 0.25 < p.mean() < 0.75


def test_few_cells_and_sgrnas_alone() -> None:
    adata = make_adata(n_cells=200, labels=("control", "A", "B"))
    label = adata.obs["perturbation"].to_numpy()
    guide = np.array([f"{name}g1" for name in label], object)
    guide[np.flatnonzero(label == "A")[:4]] = "Ag2"
    adata.obs["guide"] = guide
    found = samsvae.sgrnas(read(adata, sgrna_key="guide"), **QUICK)
    flags = found.sgrnas.set_index("sgrna")["flag"]
    assert flags.to_dict() == {"Ag1": flags["Ag1"], "Ag2": "few cells", "Bg1": "alone"}
    assert np.isnan(found.conditions.set_index("condition")["p_heterogeneity"]["B"])


def test_what_it_needs() -> None:
    with pytest.raises(InputError, match="read the screen with sgrna_key"):
        samsvae.sgrnas(read(make_adata()))
    screen = half_dead(n_cells=240)
    with pytest.raises(InputError, match="no perturbation 'AA'"):
        samsvae.sgrnas(screen, ["AA"])
    with pytest.raises(InputError, match="no control cells"):
        samsvae.sgrnas(screen[~screen.is_control])


@pytest.fixture(scope="module")
def screen() -> Screen:
    return half_dead()


def test_discoveries_by_sgrna(screen: Screen) -> None:
    model = samsvae.SAMSVAE(screen, **SMALL)
    model.train(alignment="none", max_steps=60, batch_size=64, learning_rate=0.01, progress=False)
    given: dict[str, Any] = {"n_particles": 50, "progress": False}
    table = samsvae.discoveries(model, screen, ["A", "B"], by="sgrna", **given)
    assert list(table.columns[:3]) == ["condition", "sgrna", "gene"]
    assert list(table["sgrna"].unique()) == ["Ag1", "Ag2", "Bg1", "Bg2"]
    n_cells = table.groupby("sgrna", observed=True)["n_cells"].first()
    assert n_cells.to_dict() == {n: int((screen.sgrna == n).sum()) for n in n_cells.index}
    own = table.set_index(["sgrna", "gene"])["observed"]
    cells = screen[np.asarray((screen.sgrna == "Ag2") | screen.is_control)]
    expected = samsvae.differential_expression(cells, ["A"], scale="lfc").loc["A"]
    np.testing.assert_allclose(own["Ag2"][list(screen.genes)], expected, atol=1e-9)
    rows = table.set_index(["sgrna", "gene"])
    assert rows["lfsr"]["Ag1", "g2"] < 0.01
    assert rows["estimate"]["Ag2", "g2"] < 0.3 * rows["estimate"]["Ag1", "g2"]
    whole = samsvae.discoveries(model, screen, ["A", "B"], **given)
    assert "sgrna" not in whole.columns
    without = replace(screen, sgrna=None)
    with pytest.raises(InputError, match="read the screen with sgrna_key"):
        samsvae.discoveries(model, without, by="sgrna", **given)
