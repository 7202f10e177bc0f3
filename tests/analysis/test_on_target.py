"""Effects of perturbations on their own genes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError
from samsvae.cli.tables import discovery_table

CHANGED = {"A": "down", "B": "up", "C": "not clear"}


def screen() -> samsvae.Screen:
    """Return a screen in which A lowers the gene A, B raises B, C does nothing to C."""
    adata = make_adata(n_cells=900)
    rng = np.random.default_rng(0)
    adata.X = rng.poisson(5, adata.shape).astype(np.float32)
    label = adata.obs["perturbation"].astype(str).to_numpy()
    adata.X[label == "A", 3] = rng.poisson(0.5, (label == "A").sum())
    adata.X[label == "B", 4] = rng.poisson(25, (label == "B").sum())
    names = {3: "A", 4: "B", 5: "C"}
    adata.var_names = [names.get(i, f"g{i}") for i in range(adata.n_vars)]
    return read(adata)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    cells = screen()
    model = samsvae.SAMSVAE(cells, **SMALL)
    model.train(alignment="none", max_steps=60, batch_size=64, learning_rate=0.01, progress=False)
    return samsvae.discoveries(model, cells, ["B", "A", "A+B", "C"], n_particles=50, progress=False)


def test_a_row_per_condition_and_target(table: pd.DataFrame) -> None:
    own = samsvae.on_target(table)
    pairs = list(zip(own["condition"], own["gene"], strict=True))
    assert pairs[:2] == [("B", "B"), ("A", "A")]
    assert sorted(pairs[2:4]) == [("A+B", "A"), ("A+B", "B")]
    assert pairs[4:] == [("C", "C")]
    singles = own[own["condition"] != "A+B"].set_index("gene")["change"]
    assert singles.to_dict() == CHANGED
    row = table[(table["condition"] == "A") & (table["gene"] == "A")].iloc[0]
    assert row["estimate"] < -2
    for name in ("estimate", "lower", "upper", "lfsr", "n_cells"):
        assert own.iloc[1][name] == row[name], name


def test_targets_that_are_not_among_the_genes_are_said(table: pd.DataFrame) -> None:
    some = table[(table["gene"] != "A") & (table["condition"] != "A+B")]
    own = samsvae.on_target(some)
    assert list(own["condition"]) == ["B", "A", "C"]
    assert list(own["change"]) == ["up", "not measured", "not clear"]
    assert own["gene"].isna().tolist() == [False, True, False]
    assert own["n_cells"].tolist() == [
        table.loc[table["condition"] == name, "n_cells"].iloc[0] for name in ("B", "A", "C")
    ]
    with pytest.raises(InputError, match="on_target"):
        samsvae.on_target(table.drop(columns="on_target"))


def test_by_sgrna(table: pd.DataFrame) -> None:
    twice = pd.concat([table.assign(sgrna=name) for name in ("x1", "x2")], ignore_index=True)
    own = samsvae.on_target(twice[twice["condition"] == "A"])
    assert own[["sgrna", "gene"]].to_numpy().tolist() == [["x1", "A"], ["x2", "A"]]


def test_targets_may_be_named_by_symbol() -> None:
    registry = screen().registry
    by_symbol = replace(
        registry,
        genes=tuple(f"ENSG{i}" for i in range(len(registry.genes))),
        symbols=registry.genes,
    )
    assert by_symbol.targets("B+A") == registry.targets("B+A") == [4, 3]


def test_the_command_prints_them(table: pd.DataFrame) -> None:
    printed = discovery_table(table).columns
    texts = {str(column.header): list(column.cells) for column in printed}
    own = dict(zip(texts["condition"], texts["own gene"], strict=True))
    assert str(own["A"]).startswith("A -")
    assert str(own["C"]).endswith("(not clear)")
    others = discovery_table(table[table["gene"] == "g1"]).columns
    assert list({str(c.header): list(c.cells) for c in others}["own gene"]) == ["not measured"] * 4
