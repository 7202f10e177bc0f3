"""Rules that assign sgRNAs, the mixture behind them, and what names say of targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.sgrna_files import all_features, sequenced
from samsvae import InputError, Screen, assign_sgrnas
from samsvae.data.sgrna_mixture import sgrna_mixture
from samsvae.data.sgrna_targets import targets_of


def counted(counts: np.ndarray, names: list[str] | None = None) -> AnnData:
    names = names or [f"G{i}g1" for i in range(counts.shape[1])]
    return AnnData(counts.astype(np.float32), var=pd.DataFrame(index=names))


def draws(
    rng: np.random.Generator, n_cells: int, n_sgrnas: int, moi: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of sgRNAs, and which are there: ambient sizes, profile and signals differ."""
    holds = rng.random((n_cells, n_sgrnas)) < moi / n_sgrnas
    size = rng.lognormal(0, 0.5, n_cells)
    profile = rng.lognormal(-1.5, 0.5, n_sgrnas)
    signal = rng.lognormal(3.5, 0.5, n_sgrnas) * rng.gamma(2, 0.5, (n_cells, n_sgrnas))
    return rng.poisson(size[:, None] * profile + holds * signal), holds


@pytest.mark.parametrize(("moi", "n_sgrnas"), [(1.0, 60), (8.0, 100)])
def test_the_mixture_finds_any_number_of_sgrnas_and_its_posterior_is_calibrated(
    moi: float, n_sgrnas: int
) -> None:
    counts, holds = draws(np.random.default_rng(1), 4000, n_sgrnas, moi)
    probability = sgrna_mixture(sp.csr_matrix(counts)).probability.toarray()
    found = probability > 0.5
    assert (found & holds).sum() / found.sum() > 0.98
    assert (found & holds).sum() / holds.sum() > 0.95
    # Of those of which it is unsure, as many are there as it says.
    unsure = (probability > 0.05) & (probability < 0.95)
    expected, sd = probability[unsure].sum(), np.sqrt(unsure.sum() * 0.25)
    assert abs(holds[unsure].sum() - expected) < 5 * sd + 0.15 * unsure.sum()


def test_the_cells_ambient_size_decides_what_is_background() -> None:
    counts, _ = draws(np.random.default_rng(2), 3000, 30, 1.0)
    counts[:2, :] = 0
    counts[0, 3] = counts[1, 3] = 4
    counts[0, 4:] = 4  # all of them: background of a cell of large ambient size
    probability = sgrna_mixture(sp.csr_matrix(counts)).probability
    assert probability[0, 3] < 0.1 < 0.5 < probability[1, 3]


def test_rules_and_why_they_leave_cells_out() -> None:
    counts = np.array(
        [[9, 0, 1], [0, 20, 0], [1, 0, 1], [8, 9, 0], [0, 0, 0], [8, 2, 0], [3, 0, 0]]
    )
    adata = counted(counts, ["IRF1g1", "IRF1g2", "NTg1"])
    dominant = assign_sgrnas(adata, rule="dominant")
    few, no_top = "below 3 UMIs", "no sgRNA above 80%"
    # 8 of 10 are not more than 80 %.
    assert list(dominant.status) == [
        *("one sgRNA", "one sgRNA", few, no_top, few, no_top, "one sgRNA"),
    ]
    table = dominant.per_cell()
    assert list(table["target"].dropna()) == ["IRF1", "IRF1", "IRF1"]
    assert table["top_share"].tolist() == [0.9, 1, 0.5, 9 / 17, 0, 0.8, 1]
    by_count = assign_sgrnas(adata, rule=8)
    several, none = "several sgRNAs", "no sgRNA"
    one = "one sgRNA"
    assert list(by_count.status) == [one, one, none, several, none, one, none]
    assert by_count.rules().loc["threshold 8"].tolist()[:2] == [3, 3]
    assert by_count.rules().loc["dominant", few] == 2
    assert by_count.per_target().loc["IRF1"].tolist() == [2, 3]
    with pytest.raises(InputError, match="no rule of sgRNA assignment '0'"):
        dominant.with_rule(0)
    with pytest.raises(InputError, match="no rule 'best'"):
        assign_sgrnas(adata, rule="best")


def test_the_default_is_dominant_where_most_cells_hold_one() -> None:
    low, _ = draws(np.random.default_rng(3), 500, 20, 0.5)
    high, holds = draws(np.random.default_rng(3), 500, 20, 5.0)
    assert assign_sgrnas(counted(low)).rule == "dominant"
    many = assign_sgrnas(counted(high))
    assert many.rule == "mixture"
    assert abs(many.per_cell()["n_sgrnas"].mean() - holds.sum(1).mean()) < 0.5


def test_much_ambient_rna_leaves_none_dominant_and_the_mixture_is_the_default() -> None:
    rng = np.random.default_rng(6)
    holds = np.arange(60) == rng.integers(0, 60, 800)[:, None]
    counts = rng.poisson(0.5 + 60 * holds)  # 30 of 90 UMIs are ambient
    many = assign_sgrnas(counted(counts))
    assert many.rule == "mixture"
    assert many.has_one.mean() > 0.95
    assert many.with_rule("dominant").has_one.mean() < 0.1


def test_numbers_under_poisson_loading() -> None:
    counts, _ = draws(np.random.default_rng(4), 4000, 40, 1.5)
    table = assign_sgrnas(counted(counts)).loading()
    assert table["cells"].sum() == 4000
    assert np.isnan(table["expected"][0])
    common = table.loc[1:4]
    assert (abs(common["cells"] - common["expected"]) < 6 * np.sqrt(common["expected"]) + 40).all()
    n = table.index[1:]
    mean = (n * table["cells"][1:]).sum() / table["cells"][1:].sum()
    assert (n * table["expected"][1:]).sum() / table["expected"][1:].sum() == pytest.approx(
        mean, rel=0.01
    )


def test_cells_with_several_are_combinations_at_high_moi() -> None:
    counts, holds = draws(np.random.default_rng(5), 400, 6, 2.5)
    adata = AnnData(np.ones((400, 3), np.float32))
    adata.obsm["guides"] = pd.DataFrame(
        counts, adata.obs_names, ["Ag1", "Ag2", "Bg1", "Bg2", "NTg1", "NTg2"]
    )
    with pytest.warns(match="by the rule mixture .*; those with several are combinations"):
        screen = Screen.from_anndata(adata)
    assert set(screen.conditions) == {"control", "A", "B", "A+B"}
    both = holds[:, :2].any(1) & holds[:, 2:4].any(1)
    names = pd.Series(np.array(screen.condition_names)[screen.condition], screen.cells)
    assert (names[adata.obs_names[both]] == "A+B").mean() > 0.9
    assert screen.sgrna.isna().any()
    with pytest.warns(match="cells are left out"):
        one = Screen.from_anndata(adata, several_sgrnas="drop")
    assert "A+B" not in one.conditions
    with pytest.raises(InputError, match="expected a separator that joins their targets"):
        Screen.from_anndata(adata, separator=None)


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["IRF1g1", "NKX2-1g2", "HLA-Ag10"], ["IRF1", "NKX2-1", "HLA-A"]),
        (["IRF1_1", "NKX2-1_2", "non-targeting_00012"], ["IRF1", "NKX2-1", "control"]),
        (["sgIRF1-2", "sgJAK2-1", "sgNT-1"], ["IRF1", "JAK2", "control"]),
        (["IRF1_sgRNA1", "JAK2_sgRNA2", "NTC_sgRNA1"], ["IRF1", "JAK2", "control"]),
        (["IRF1_A", "JAK2_B"], ["IRF1", "JAK2"]),
        (["AAAS_+_53715438.23-P1P2", "AAK1_-_6978.23-P1P2"], ["AAAS", "AAK1"]),
        (["IRF1_ACGTACGTACGTACGTACGT", "JAK2_TTTTACGTACGTACGTACGT"], ["IRF1", "JAK2"]),
        (["IRF1", "JAK2", "SGK1"], ["IRF1", "JAK2", "SGK1"]),
    ],
)
def test_targets_by_name(names: list[str], targets: list[str]) -> None:
    assert targets_of(pd.DataFrame(index=names)).names.tolist() == targets


def test_targets_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match="all 2 sgRNAs are called like control, 'NTg1'"):
        targets_of(pd.DataFrame(index=["NTg1", "NTg2"]))
    with pytest.raises(InputError, match=r"1 of 2 sgRNAs have no target by column 'target'.*'b'"):
        targets_of(pd.DataFrame({"target": ["A", None]}, index=["a", "b"]))
    with pytest.raises(InputError, match="names of sgRNAs occur more than once: 'a'"):
        targets_of(pd.DataFrame(index=["a", "a"]))


def test_no_cell_is_left() -> None:
    adata = AnnData(np.ones((3, 2), np.float32))
    adata.obsm["guide"] = pd.DataFrame(np.ones((3, 2)), adata.obs_names, ["Ag1", "Bg1"])
    with pytest.raises(InputError, match="no cell is left: 2 sgRNAs"):
        Screen.from_anndata(adata, sgrna_assignment="dominant")


def test_what_was_assigned_trains_and_its_sgrnas_are_compared() -> None:
    with pytest.warns(match="216 of 240 cells have one"):
        screen = Screen.from_anndata(all_features(sequenced()), split_key="split")
    assert assign_sgrnas(screen.train) is screen.sgrna_assignment
    assert assign_sgrnas(screen, rule="mixture").has_one.sum() == 216
    table = samsvae.sgrnas(screen, n_permutations=19, progress=False).sgrnas
    assert list(table["sgrna"]) == ["Ag1", "Ag2", "Bg1", "Bg2", "Cg1", "Cg2"]
    model = samsvae.SAMSVAE(screen, n_latent=3, n_hidden=6, learn_responders=True)
    model.train(max_steps=3, progress=False)
    rates = model.responders(screen, progress=False).rates
    assert {"Ag1", "Cg2"} <= set(rates["sgrna"])


def test_further_targets_may_be_control() -> None:
    with pytest.warns(match="216 of 240"):
        screen = Screen.from_anndata(all_features(sequenced()), control=["B", "C*"])
    assert screen.conditions == ("control", "A")
