"""Stand-ins in the published layouts, and what preparation keeps of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from samsvae import InputError, Screen, datasets
from samsvae.reproduce.experiments import experiment_of
from samsvae.reproduce.prepare import (
    SHAPES,
    StandIn,
    _dispersions,
    fewer_cells,
    prepare,
    stand_in,
)
from samsvae.reproduce.tables import read_groups, single_group
from samsvae.runs.run import read_experiment_data, write_experiment_data
from samsvae.settings.experiment import PreparationSettings


@pytest.fixture(scope="module")
def replogle() -> StandIn:
    return stand_in("replogle", scale=0.02, seed=1)


@pytest.fixture(scope="module")
def norman() -> StandIn:
    return stand_in("norman", scale=0.01, seed=1)


def read(found: StandIn, convention: str) -> Screen:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names of the stand-in are invented
        return Screen.from_anndata(found.adata, convention=convention, batch_key=None)


def test_full_stand_ins_have_the_papers_shapes() -> None:
    for shape in SHAPES.values():
        assert shape.scaled(1) == shape


def test_replogles_layout_is_read(replogle: StandIn) -> None:
    screen = read(replogle, "replogle")
    assert len(screen) == replogle.adata.n_obs
    assert len(screen.perturbations) == 24
    assert screen.is_control.sum() == round(0.08 * len(screen))
    assert screen.sgrna is not None
    assert {name for some in replogle.annotation.values() for name in some} <= set(
        screen.perturbations
    )


def test_normans_layout_is_read(norman: StandIn) -> None:
    screen = read(norman, "norman")
    assert len(screen.perturbations) == 24
    pairs = [name for name in screen.conditions if "_" in name]
    assert len(pairs) == 8
    told = {"_".join(sorted(p.split("+"))) for some in norman.annotation.values() for p in some}
    assert told == set(pairs)
    assert screen.is_control.any()


def test_the_same_seed_gives_the_same_stand_in(norman: StandIn) -> None:
    again, other = (stand_in("norman", scale=0.01, seed=seed) for seed in (1, 2))
    assert (again.adata.X != norman.adata.X).nnz == 0
    assert (other.adata.X != norman.adata.X).nnz > 0


def test_strong_perturbations_and_their_genes_are_kept(replogle: StandIn) -> None:
    screen = read(replogle, "replogle")
    prepared = prepare("replogle", screen, PreparationSettings())
    kept = prepared.screen
    without_effect = {name for i, name in enumerate(screen.perturbations) if i % 10 == 9}
    assert set(kept.perturbations) == set(screen.perturbations) - without_effect
    assert kept.conditions[0] == "control"
    assert kept.is_control.sum() == screen.is_control.sum()
    assert set(kept.genes) < set(screen.genes)
    np.testing.assert_array_equal(kept.library_size, np.asarray(kept.counts.sum(1)).ravel())
    report = prepared.report.set_index("step")
    assert report.loc["genes they change", "genes"] == len(kept.genes)
    assert report.loc["the paper's"].to_dict() == SHAPES["replogle"]._asdict()


def test_thresholds_that_leave_nothing_are_an_error(replogle: StandIn) -> None:
    screen = read(replogle, "replogle")
    with pytest.raises(InputError, match="lower --min-cells or --min-de-share"):
        prepare("replogle", screen, PreparationSettings(min_cells=100_000))
    with pytest.raises(InputError, match="lower --min-perturbation-share"):
        prepare("replogle", screen, PreparationSettings(min_perturbation_share=1.0))


def test_highly_variable_genes_are_kept_with_their_counts(norman: StandIn) -> None:
    screen = read(norman, "norman")
    # A gene with the same counts in all cells is not among them, one of a few cells is.
    counts = screen.counts.tolil()
    counts[:, 3] = 5
    counts[:, 7] = 0
    counts[::100, 7] = 40
    changed = replace(screen, counts=counts.tocsr())
    prepared = prepare("norman", changed, PreparationSettings(n_genes=60))
    kept = prepared.screen
    assert len(kept.genes) == 60
    assert screen.genes[7] in kept.genes
    assert screen.genes[3] not in kept.genes
    assert len(kept) == len(screen)
    told = {"+".join(sorted(p.split("+"))) for some in norman.annotation.values() for p in some}
    assert {name for name in kept.conditions if "+" in name} == told
    column = kept.genes.index(screen.genes[7])
    assert set(kept.counts[:, column].toarray().ravel()) == {0, 40}


def test_fewer_cells_keep_every_condition(norman: StandIn) -> None:
    screen = read(norman, "norman")
    fewer = fewer_cells(screen, 0.5, n_min=20)
    before, after = (
        np.bincount(one.condition, minlength=len(screen.condition_names)) for one in (screen, fewer)
    )
    expected = np.minimum(before, np.maximum(20, np.round(0.5 * before)))
    expected[0] = min(before[0], max(200, round(0.5 * before[0])))
    np.testing.assert_array_equal(after, expected)
    assert list(fewer.cells) == list(fewer_cells(screen, 0.5, n_min=20).cells)


def test_a_screen_comes_back_as_it_was_written(norman: StandIn, tmp_path: Path) -> None:
    screen = prepare("norman", read(norman, "norman"), PreparationSettings(n_genes=50)).screen
    write_experiment_data(tmp_path, screen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = read_experiment_data(tmp_path)
    assert again.genes == screen.genes
    assert again.perturbations == screen.perturbations
    assert list(again.cells) == list(screen.cells)
    assert (again.counts != screen.counts).nnz == 0
    assert (again.dosage != screen.dosage).nnz == 0
    names = [np.array(one.condition_names)[one.condition] for one in (again, screen)]
    np.testing.assert_array_equal(*names)


def test_groups_come_from_json_and_csv(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"P": ["A", "B", "B"], "Q": ["B", "C"]}')
    (tmp_path / "a.csv").write_text("name,pathway\nA,P\nB,P\nB,Q\nC,Q\n")
    from_json, from_csv = (read_groups(tmp_path / name) for name in ("a.json", "a.csv"))
    assert from_json == {"P": ["A", "B", "B"], "Q": ["B", "C"]}
    assert from_csv == {"P": ["A", "B"], "Q": ["B", "C"]}
    assert single_group(from_json, "ABCD").to_dict() == {"A": "P", "C": "Q"}  # B is in both
    (tmp_path / "bad.json").write_text('{"P": "A"}')
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "three.csv").write_text("a,b,c\n1,2,3\n")
    for name, said in (("bad.json", "expected"), ("no.json", "not JSON"), ("three.csv", "3 col")):
        with pytest.raises(InputError, match=said):
            read_groups(tmp_path / name)
    with pytest.raises(InputError, match="no file"):
        read_groups(tmp_path / "absent.json")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_papers_screens_are_made_from_a_file(norman: StandIn, tmp_path: Path) -> None:
    norman.adata.write_h5ad(tmp_path / "raw.h5ad")
    screen = datasets.norman(tmp_path / "raw.h5ad", n_genes=50)
    assert len(screen.genes) == 50
    assert screen.conditions[0] == "control"
    assert not screen.registry.batches  # the paper takes none
    with pytest.raises(InputError, match="n_genes is 0"):
        datasets.norman(tmp_path / "raw.h5ad", n_genes=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_former_name_of_the_false_discovery_rate_still_works(
    replogle: StandIn, tmp_path: Path
) -> None:
    replogle.adata.write_h5ad(tmp_path / "raw.h5ad")
    screen = datasets.replogle(tmp_path / "raw.h5ad", fdr=0.2)
    with pytest.warns(DeprecationWarning, match="argument rate of replogle is now fdr"):
        former = datasets.replogle(tmp_path / "raw.h5ad", rate=0.2)
    assert former.genes == screen.genes
    with pytest.warns(DeprecationWarning, match="rate=0.2 is now fdr=0.2"):
        assert PreparationSettings(rate=0.2) == PreparationSettings(fdr=0.2)  # type: ignore[call-arg]


def test_dispersions_are_those_of_scanpy() -> None:
    """Its formula (flavor "seurat"), on counts per 10,000; the last gene has no counts."""
    screen = datasets.simulated_screen(
        n_perturbations=5, n_combinations=0, n_genes=400, library_size=3000, seed=0
    )
    counts = screen.counts.tolil()
    counts[:, -1] = 0
    screen = replace(screen, counts=counts.tocsr())
    values = screen.counts.toarray().astype(float)
    values *= 1e4 / values.sum(1, keepdims=True)
    mean, variance = values.mean(0), values.var(0, ddof=1)
    mean[mean == 0] = 1e-12
    dispersion = variance / mean
    dispersion[dispersion == 0] = np.nan
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": np.log(dispersion)})
    bins = table.groupby(pd.cut(table["mean"], 20), observed=True)["dispersion"]
    center, sd = bins.transform("mean"), bins.transform("std")
    alone = sd.isna()
    sd[alone], center[alone] = center[alone], 0
    assert alone.any()
    expected = ((table["dispersion"] - center) / sd).fillna(-np.inf)
    np.testing.assert_allclose(_dispersions(screen, 20), expected, atol=1e-9)


def test_an_experiment_at_scale_0_is_one_clear_error() -> None:
    with pytest.raises(InputError, match=r"^scale is 0, which leaves nothing of"):
        experiment_of("replogle", 0.0, {})
    assert experiment_of("replogle", 1.0, {}).seeds == 5
