"""Gene sets of a table, and look-ups in it: small cases by hand."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import samsvae
from samsvae import InputError
from samsvae.analysis.similarity import most_similar

GENES = [f"g{i}" for i in range(30)]


def table(condition: str = "A", seed: int = 0) -> pd.DataFrame:
    """Return a table in which the first six genes are called, and lower than the others."""
    rng = np.random.default_rng(seed)
    score = np.r_[rng.normal(-3, 0.3, 6), rng.normal(0, 0.3, 24)]
    q = np.r_[np.full(6, 0.01), np.full(24, 0.5)]
    values = {"condition": condition, "gene": GENES, "estimate": score, "sd": 0.3, "lfsr": q}
    return pd.DataFrame({**values, "q_value": q})


SETS = {"low": GENES[:5], "mixed": GENES[4:12], "none": GENES[12:20], "few": GENES[:2]}


def test_the_hypergeometric_test_by_hand() -> None:
    found = samsvae.enrichment(table(), SETS).set_index("gene_set")
    assert set(found.index) == {"low", "mixed", "none"}  # a set of two genes is left out
    assert found.loc["mixed", ["n_genes", "n_called"]].tolist() == [8, 2]
    expected = sum(comb(6, k) * comb(24, 8 - k) for k in range(2, 7)) / comb(30, 8)
    assert found.loc["mixed", "p_hypergeometric"] == pytest.approx(expected)
    assert found.loc["none", "p_hypergeometric"] == 1
    assert found.loc["mixed", "expected"] == pytest.approx(8 * 6 / 30)
    p = found["p_hypergeometric"].sort_values()
    bh = np.minimum.accumulate((p * 3 / np.arange(1, 4)).iloc[::-1]).iloc[::-1]
    pd.testing.assert_series_equal(
        found["q_hypergeometric"].loc[p.index], bh, check_names=False, rtol=1e-9
    )


def test_the_rank_test_tells_the_direction() -> None:
    found = samsvae.enrichment(table(), SETS).set_index("gene_set")
    assert found.index[0] == "low"
    assert found.loc["low", "direction"] == -1
    assert found.loc["low", "q_rank"] < 0.01
    assert found.loc["none", "q_rank"] > 0.05
    rising = table().assign(estimate=lambda t: -t["estimate"])
    assert samsvae.enrichment(rising, SETS).set_index("gene_set").loc["low", "direction"] == 1


def test_conditions_stand_apart_and_files_are_read(tmp_path: Path) -> None:
    both = pd.concat([table("A"), table("B", 1)])
    path = tmp_path / "sets.gmt"
    path.write_text("".join(f"{name}\tx\t" + "\t".join(g) + "\n" for name, g in SETS.items()))
    found = samsvae.enrichment(both, path)
    assert list(found["condition"].unique()) == ["A", "B"]
    own = found[found["condition"] == "B"].drop(columns="condition").reset_index(drop=True)
    pd.testing.assert_frame_equal(
        own, samsvae.enrichment(table("B", 1), SETS).drop(columns="condition")
    )


def test_nothing_called_and_nothing_measured() -> None:
    nothing = table().assign(q_value=0.5)
    found = samsvae.enrichment(nothing, SETS)
    assert found["p_hypergeometric"].isna().all()
    assert found["p_rank"].notna().all()
    with pytest.raises(InputError, match="none of 1 gene sets has 5 of the 30 genes, such as 'g0'"):
        samsvae.enrichment(table(), {"x": ["other"] * 9})
    with pytest.raises(InputError, match="30 genes occur more than once, 'g0'"):
        samsvae.enrichment(pd.concat([table(), table()]), SETS)
    with pytest.raises(InputError, match="no column of the table: 'lfc'"):
        samsvae.enrichment(table(), SETS, score="lfc")


def test_regulators_of_a_gene() -> None:
    both = pd.concat([table("A"), table("B", 1).assign(lfsr=0.001), table("C").assign(lfsr=0.4)])
    found = samsvae.regulators(both, "g3")
    assert list(found["condition"]) == ["B", "A", "C"]
    assert list(samsvae.regulators(both, "g3", lfsr=0.05)["condition"]) == ["B", "A"]
    with pytest.raises(InputError, match="no gene 'g99'"):
        samsvae.regulators(both, "g99")


def test_similar_conditions() -> None:
    opposite = table("C", 2).assign(estimate=lambda t: -t["estimate"])
    whole = pd.concat([table("A"), table("B", 1), opposite])
    found = samsvae.similar(whole, "A")
    assert list(found["condition"]) == ["B", "C"]
    assert found["correlation"][0] > 0.7
    assert found["correlation"][1] < -0.7
    assert found["n_shared"].tolist() == [6, 0]
    assert found["is_alike"].tolist() == [True, False]
    assert found.attrs["chance"] < found["correlation"][0]
    assert (found["se"] > 0).all()
    with pytest.raises(InputError, match="no condition 'Z'"):
        samsvae.similar(whole, "Z")


def test_what_is_not_known_counts_little() -> None:
    """One gene with a large estimate of which nothing is known does not make two alike."""
    rng = np.random.default_rng(0)
    a, b = (table("A", 3), table("B", 4))
    for one in (a, b):
        one["estimate"] = rng.normal(0, 1, 30)
        one.loc[7, ["estimate", "sd"]] = 50.0, 500.0
    found = samsvae.similar(pd.concat([a, b]), "A")
    assert abs(found["correlation"][0]) < 0.5


def test_conditions_without_effects_do_not_act_alike_whatever_they_share() -> None:
    """Errors of control cells correlate them; without a called gene that says nothing."""
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(200)]
    shared = rng.normal(0, 1, 200)

    def noise(name: str, lfsr: float) -> pd.DataFrame:
        estimate = shared + rng.normal(0, 0.3, 200)
        columns = {"gene": genes, "estimate": estimate, "sd": 1.0, "lfsr": lfsr}
        return pd.DataFrame({"condition": name, **columns})

    inert = pd.concat([noise("A", 0.5), noise("B", 0.5)], ignore_index=True)
    found = samsvae.similar(inert, "A")
    assert found["correlation"][0] > 0.8
    assert not found["is_alike"].any()
    assert most_similar(inert) == {"A": [], "B": []}
    both = pd.concat([noise("A", 0.01), noise("B", 0.01)], ignore_index=True)
    assert samsvae.similar(both, "A")["is_alike"].all()


def test_of_unrelated_conditions_hardly_any_two_act_alike() -> None:
    """Of 40 tables of twelve conditions each, 5 % or so have a pair."""
    n_wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names = [f"c{i:02d}" for i in range(12)]
        together = pd.DataFrame(
            {
                "condition": np.repeat(names, 60),
                "gene": np.tile([f"g{i}" for i in range(60)], 12),
                "estimate": rng.normal(0, 1, 720),
                "sd": 0.5,
                "lfsr": 0.01,
            }
        )
        n_wrong += any(most_similar(together).values())
    assert n_wrong <= 6


def test_the_most_similar_of_all_conditions_are_those_of_each() -> None:
    tables = [table(name, seed) for seed, name in enumerate("ABC")]
    tables.append(table("flat").assign(condition="flat", estimate=0.0))
    together = pd.concat(tables, ignore_index=True)
    found = most_similar(together, n_max=2)
    for name in "ABC":
        own = samsvae.similar(together, name)
        own = own[own["is_alike"]]
        assert len(own) == 2
        assert [other for other, _ in found[name]] == own["condition"].tolist()
        np.testing.assert_allclose([r for _, r in found[name]], own["correlation"])
    assert found["flat"] == []
