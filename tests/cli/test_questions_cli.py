"""Questions at the command line: responders, regulators, programs, combinations, by sgRNA."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.command_line import Call
from helpers.report_tables import HOSTILE, mechanisms
from helpers.screens import half_dead
from samsvae.cli.tables import mechanism_table, program_table
from samsvae.errors import shown
from samsvae.storage.tables import read_csv

QUICK = "--no-progress --seed 1"
SMALL = "--n-latent 3 --n-hidden 8 --max-steps 40 --learning-rate 0.02 --no-progress"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    half_dead(n_cells=600).to_anndata().write_h5ad(folder / "data.h5ad")
    sets = ["first\t\tg0\tg1\tg2\tg3\tg4", "others\t\tg5\tg6\tg7\tg8\tg9"]
    (folder / "sets.gmt").write_text("\n".join(sets) + "\n")
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once, that knows its sgRNAs."""
    if not (folder / "run").exists():
        keys = "--split-key split --sgrna-key sgrna --learn-responders --mask-prob 0.5"
        done = call(f"train data.h5ad --out run {keys} {SMALL}")
        assert (done.code, done.errors) == (0, [])
    return folder / "run"


def test_responders(run: Path, call: Call, tmp_path: Path) -> None:
    out, rates = tmp_path / "cells.csv", tmp_path / "rates.csv"
    done = call(f"responders {run} data.h5ad --out {out} --rates {rates} {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert "cells that respond" in done.out
    model = samsvae.load(run)
    screen = samsvae.read_h5ad(run.parent / "data.h5ad", split_key="split", sgrna_key="sgrna")
    expected = model.responders(screen, seed=1, progress=False)
    cells, table = read_csv(out), read_csv(rates)
    assert list(cells["cell"]) == list(expected.cells["cell"])
    assert list(cells["sgrna"]) == list(expected.cells["sgrna"].astype(str))
    np.testing.assert_allclose(cells["probability"], expected.cells["probability"], rtol=1e-5)
    np.testing.assert_allclose(table["rate"], expected.rates["rate"], rtol=1e-5)
    again = call(f"responders {run} data.h5ad --out {out} {QUICK}")
    assert again.code == 2
    assert "exists" in again.errors[0]


@pytest.mark.parametrize("option", ["--response learned", "--response=learned"])
def test_a_former_option_is_understood(run: Path, call: Call, tmp_path: Path, option: str) -> None:
    del run  # it makes the data
    done = call(f"train data.h5ad --out {tmp_path / 'run'} --split-key split {option} {SMALL}")
    assert (done.code, done.errors) == (0, [])
    assert "the option --response is now --learn-responders" in done.notes[0]
    assert samsvae.load(tmp_path / "run").learn_responders


def test_former_thresholds_are_understood(run: Path, call: Call, tmp_path: Path) -> None:
    common = f"--below 0.2 --out {tmp_path}/t.csv --overwrite --n-particles 30 {QUICK}"
    done = call(f"discoveries {run} data.h5ad {common}")
    assert (done.code, done.errors) == (0, [])
    assert "the option --below is now --fdr" in done.notes[0]
    assert (read_csv(tmp_path / "t.csv")["q_value"] <= 0.2).all()
    done = call(f"regulators {run} data.h5ad g0 {common}")
    assert "the option --below is now --lfsr" in done.notes[0]
    assert (read_csv(tmp_path / "t.csv")["lfsr"] <= 0.2).all()


def test_regulators(run: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    done = call(f"regulators {run} data.h5ad g0 g2 --out {out} --n-particles 30 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert "conditions that change g0" in done.out
    table = read_csv(out)
    assert list(table["gene"].unique()) == ["g0", "g2"]
    assert len(table) == 6
    own = table[table["gene"] == "g2"]
    assert own["lfsr"].is_monotonic_increasing
    assert own["condition"].iloc[0] == "A"
    some = call(
        f"regulators {run} data.h5ad g2 --lfsr 0.05 --out {tmp_path}/s.csv {QUICK} --n-particles 30"
    )
    assert some.errors == []
    assert (read_csv(tmp_path / "s.csv")["lfsr"] <= 0.05).all()
    unknown = call(f"regulators {run} data.h5ad g222 {QUICK}")
    assert "no gene 'g222': the nearest is" in unknown.errors[0]
    nothing = call(f"regulators {run} data.h5ad {QUICK}")
    assert "no gene is named" in nothing.errors[0]


@pytest.mark.filterwarnings("ignore:.*groups of dimensions")
def test_programs(run: Path, call: Call, tmp_path: Path) -> None:
    out, sets = tmp_path / "p.csv", tmp_path / "e.csv"
    given = f"--gene-sets sets.gmt --enrichment {sets} --n-particles 50"
    done = call(f"programs {run} --out {out} {given} {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert "programs" in done.out
    model = samsvae.load(run)
    expected = model.programs(n_particles=50, seed=1, progress=False)
    table = read_csv(out)
    assert list(table["dimension"]) == list(expected["dimension"])
    np.testing.assert_allclose(table["loading"], expected["loading"], rtol=1e-6)
    rich = read_csv(sets)
    assert set(rich["gene_set"]) == {"first", "others"}
    assert list(rich["dimension"].unique()) == list(table["dimension"].unique())
    alone = call(f"programs {run} --enrichment {tmp_path}/x.csv {QUICK}")
    assert "expected --gene-sets" in alone.errors[0]


@pytest.mark.filterwarnings("ignore:.*groups of dimensions")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_mechanisms(run: Path, call: Call, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"m{suffix}"
    done = call(f"mechanisms {run} --n-genes 3 --out {out}")
    assert (done.code, done.errors) == (0, [])
    expected = samsvae.load(run).mechanisms(n_genes=3)
    assert "mechanisms" in done.out
    assert f"{len(expected):,} rows written" in done.out
    table = read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert list(table["dimension"]) == list(expected.index)
    assert list(table["perturbations"]) == ["; ".join(one) for one in expected["perturbations"]]
    assert list(table["up"]) == ["; ".join(one) for one in expected["up"]]
    np.testing.assert_allclose(table["share"], expected["share"])
    again = call(f"mechanisms {run} --out {out}")
    assert "exists" in again.errors[0]
    assert "n_genes is 0" in call(f"mechanisms {run} --n-genes 0").errors[0]


def test_sgrnas_need_no_model(folder: Path, call: Call, tmp_path: Path) -> None:
    out, by_condition = tmp_path / "s.csv", tmp_path / "c.csv"
    given = f"--sgrna-key sgrna --n-permutations 99 --out {out} --by-condition {by_condition}"
    done = call(f"sgrnas data.h5ad {given} {QUICK}")
    assert (done.code, done.errors) == (0, [])
    screen = samsvae.read_h5ad(folder / "data.h5ad", sgrna_key="sgrna")
    expected = samsvae.sgrnas(screen, n_permutations=99, seed=1, progress=False)
    table = read_csv(out)
    assert list(table["sgrna"]) == list(expected.sgrnas["sgrna"])
    np.testing.assert_allclose(table["strength"], expected.sgrnas["strength"])
    np.testing.assert_allclose(read_csv(by_condition)["Q"], expected.conditions["Q"])
    n_flagged = int((expected.sgrnas["flag"] != "").sum())
    assert n_flagged
    assert f"{n_flagged} of {len(table)} sgRNAs are flagged" in done.out
    assert "dead" in done.out
    one = call(f"sgrnas data.h5ad A --sgrna-key sgrna --n-permutations 19 {QUICK}")
    assert "of 2 sgRNAs" in one.out
    assert "sgrna_key" in call(f"sgrnas data.h5ad {QUICK}").errors[0]
    assert "n_permutations is 5" in call(f"sgrnas data.h5ad --n-permutations 5 {QUICK}").errors[0]


def test_combinations_are_written_part_by_part(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samsvae.analysis.combinations._MAX_ROWS", 12)
    out = tmp_path / "c.csv"
    done = call(f"combinations {run} --out {out} --n-particles 20 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert "36 rows written" in done.out
    table = read_csv(out)
    assert list(table["condition"].unique()) == ["A+B", "A+C", "B+C"]
    assert table["deviation"].dtype == float
    done = call(f"combinations {run} data.h5ad A+B --out {tmp_path}/o.csv --n-particles 20 {QUICK}")
    assert done.errors == []
    assert read_csv(tmp_path / "o.csv")["observed"].isna().all()  # no cells have both


def test_discoveries_by_sgrna(run: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "d.csv"
    done = call(f"discoveries {run} data.h5ad A --by sgrna --out {out} --n-particles 30 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    assert list(read_csv(out)["sgrna"].unique()) == ["Ag1", "Ag2"]


@pytest.mark.filterwarnings("ignore:.*groups of dimensions")
def test_tables_as_anndata(run: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "d.h5ad"
    done = call(f"discoveries {run} data.h5ad --out {out} --n-particles 30 {QUICK}")
    assert (done.code, done.errors) == (0, [])
    call(f"discoveries {run} data.h5ad --out {tmp_path}/d.csv --n-particles 30 {QUICK}")
    table = read_csv(tmp_path / "d.csv").set_index(["condition", "gene"])
    found = ad.read_h5ad(out)
    for name in ("A", "B"):
        own = table.loc[name].loc[found.var_names]
        np.testing.assert_allclose(found[name].X[0], own["estimate"], rtol=1e-12)
        np.testing.assert_allclose(found[name].layers["lfsr"][0], own["lfsr"], rtol=1e-12)
    done = call(f"responders {run} data.h5ad --out {tmp_path}/c.h5ad {QUICK}")
    assert (done.code, done.errors) == (0, [])
    cells = ad.read_h5ad(tmp_path / "c.h5ad")
    assert cells.obs["probability"].between(0, 1).all()
    assert (np.diff(cells.X.indptr) == 1).all()
    done = call(f"programs {run} --out {tmp_path}/p.h5ad {QUICK}")
    assert (done.code, done.errors) == (0, [])
    programs = ad.read_h5ad(tmp_path / "p.h5ad")
    assert {"lower", "upper", "sd"} <= set(programs.layers)
    assert {"perturbations", "share"} <= set(programs.obs)
    refused = call(f"combinations {run} --out {tmp_path}/x.h5ad {QUICK}")
    assert "ends in '.csv', '.parquet'" in refused.errors[0]


def test_without_pyarrow_parquet_is_refused_at_once(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    done = call(f"programs {run} --out {tmp_path}/p.parquet {QUICK}")
    assert done.code == 2
    assert "pip install 'samsvae[parquet]'" in done.errors[0]
    done = call(f"programs {run} --out {tmp_path}/p.xlsx {QUICK}")
    assert "ends in '.csv', '.parquet'" in done.errors[0]


def test_parquet_holds_the_same_table(run: Path, call: Call, tmp_path: Path) -> None:
    paths = {}
    for ending in ("csv", "parquet"):
        out = tmp_path / f"c.{ending}"
        done = call(f"combinations {run} --out {out} --n-particles 20 {QUICK}")
        assert (done.code, done.errors) == (0, [])
        paths[ending] = out
    first, second = read_csv(paths["csv"]), pd.read_parquet(paths["parquet"])
    pd.testing.assert_frame_equal(first, second, check_dtype=False)


def test_candidates_are_in_brackets_and_genes_in_the_order_of_the_program() -> None:
    table = mechanisms(["A", "C"], 1)
    table["candidates"], table["candidate_shifts"] = [["B"]], [[-0.7]]
    genes = pd.DataFrame({"gene": ["g1", "g2", "g3", "g4"], "loading": [0.1, -0.2, 3.0, -4.0]})
    listed = mechanism_table(table), program_table(genes.assign(dimension="z0"), table)
    rows = [[next(iter(column.cells)) for column in one.columns] for one in listed]
    assert [row[2] for row in rows] == ["A +1.5, C +1.5 (B -0.7)"] * 2
    assert rows[0][3:] == ["positive", "STAT1, " + shown(HOSTILE), "JAK2"]
    assert rows[1][3:] == ["positive", "g1, g3", "g2, g4"]
    table["perturbations"], table["shifts"] = [[]], [[]]
    assert next(iter(mechanism_table(table).columns[2].cells)) == "(B -0.7)"
