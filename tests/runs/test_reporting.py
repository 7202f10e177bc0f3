"""Reports of runs: their numbers are those of Python, and are computed once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae.runs import reporting
from samsvae.runs.reporting import (
    report_tables,
    reported_conditions,
    reported_effects,
    reported_scores,
)
from samsvae.runs.run import Run
from samsvae.settings.experiment import complete
from samsvae.storage.tables import read_csv, write_csv, write_h5ad

QUICK: dict[str, Any] = {"n_particles": 30, "progress": False}
TRAINING: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 6,
    "batch_size": 64,
    "n_particles": 2,
    "progress": False,
}


def made(folder: Path, kind: str = "sams-vae", **keys: Any) -> tuple[Run, samsvae.Screen]:
    """Return a run in a folder, and the screen it was trained on (data.h5ad beside it)."""
    adata = make_adata()
    adata.obs["sgrna"] = adata.obs["perturbation"].astype(str) + (
        np.arange(len(adata)) // 5 % 2
    ).astype(str)
    write_h5ad(folder / "data.h5ad", adata)
    size = {"n_latent": 4, "n_hidden": 8}
    settings = complete({"model": kind, "split_key": "split", **size, **TRAINING, **keys})
    screen = read(adata, **keys)
    run = Run(folder / "run")
    cls = {"sams-vae": samsvae.SAMSVAE, "conditional-vae": samsvae.ConditionalVAE}[kind]
    with run.made():
        run.start(settings, screen, resume=False)
        run.train(cls(screen, **size), settings, resume=False)
    return run, screen


def record(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)  # type: ignore[no-any-return]


def test_a_report_has_the_numbers_of_python(tmp_path: Path) -> None:
    run, screen = made(tmp_path, batch_key=("batch",), sgrna_key="sgrna")
    path = samsvae.write_report(run.place, tmp_path / "data.h5ad", ["C+B", "A"], **QUICK)
    assert path == run.place / "report.html"
    seen, model = record(path), samsvae.load(run.place)
    names = [one["name"] for one in seen["conditions"]]
    assert names == ["A", "A+B", "B", "C", "B+C"]  # what is listed comes last, once
    table = samsvae.discoveries(model, screen, names, **QUICK)
    for i, name in enumerate(names):
        own, rows = seen["effects"][i], table[table["condition"] == name].set_index("gene")
        rows = rows.loc[[seen["genes"][g] for g in own["gene"]]]
        assert len(rows) == len(screen.genes)
        for column in ("estimate", "lower", "upper", "lfsr", "q_value", "model", "observed"):
            np.testing.assert_allclose(
                np.array(own[column], float), rows[column], rtol=1e-3, atol=1e-9
            )
    combination = seen["combinations"][1]
    genes = [seen["genes"][g] for g in combination["gene"]]
    summed = table[table["condition"] == "B+C"].set_index("gene").loc[genes, "estimate"]
    np.testing.assert_allclose(combination["predicted"], summed, rtol=1e-3, atol=1e-6)
    de = samsvae.differential_expression(screen, ["B", "C"], scale="lfc")[genes].sum()
    np.testing.assert_allclose(combination["sum"], de, rtol=1e-3, atol=1e-6)
    assert combination["observed"] == [None] * len(genes)  # nobody measured it
    text = path.read_text()
    assert [seen["sgrnas"][0][i][:2] for i in (0, 1)] == [["A0", 24], ["A1", 24]]
    assert "takes perturbations to act in all cells" in text  # so that no responders are told
    for name, row in pd.crosstab(screen.batch, screen.is_control).iterrows():
        batch = screen.registry.batch_names[int(str(name))]
        assert re.search(rf">{batch}</th><td[^>]*>{row[True]}</td><td[^>]*>{row[False]}<", text)


def test_complete_tables_are_written_with_it(tmp_path: Path) -> None:
    run, screen = made(tmp_path, sgrna_key="sgrna")
    path = samsvae.write_report(run.place, screen, **QUICK)
    linked = re.findall(r'href="(report/[^"]+)"', path.read_text())
    assert set(linked) == {f"report/{p.name}" for p in (run / "report").glob("*.csv")}
    table = read_csv(run / "report/discoveries.csv")
    model = samsvae.load(run.place)
    whole = samsvae.discoveries(model, screen, **QUICK)
    assert len(table) == len(whole)
    np.testing.assert_allclose(table["estimate"], whole["estimate"], rtol=6e-6)
    inclusion = read_csv(run / "report/inclusion.csv")
    np.testing.assert_allclose(inclusion["probability"], model.inclusion()["probability"])
    cells = read_csv(run / "report/conditions.csv").set_index("condition")
    assert cells["total"].to_dict() == screen.summary()["total"].to_dict()


def test_effects_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, screen = made(tmp_path)
    first = record(samsvae.write_report(run.place, screen, **QUICK))
    asked: list[Any] = []
    monkeypatch.setattr(
        reporting, "reported_effects", lambda *a, **k: asked.append(a) or reported_effects(*a, **k)
    )
    assert record(samsvae.write_report(run.place, screen, **QUICK)) == first
    assert not asked
    samsvae.write_report(run.place, screen, **{**QUICK, "seed": 1})
    assert len(asked) == 1  # other draws
    samsvae.write_report(run.place, screen[: len(screen) - 5], **{**QUICK, "seed": 1})
    assert len(asked) == 2  # other cells
    whole = (run / "report/discoveries.csv").read_bytes()
    for damaged in (whole.replace(b"A", b"B", 1), whole[:50], b""):
        (run / "report/discoveries.csv").write_bytes(damaged)
        samsvae.write_report(run.place, screen[: len(screen) - 5], **{**QUICK, "seed": 1})
        assert (run / "report/discoveries.csv").read_bytes() == whole
    asked.clear()
    run.train(samsvae.SAMSVAE(screen, **SMALL), {**run.config(), "max_steps": 3}, resume=False)
    samsvae.write_report(run.place, screen[: len(screen) - 5], **{**QUICK, "seed": 1})
    assert len(asked) == 1  # another model


def test_without_cells_the_report_shows_the_model_alone(tmp_path: Path) -> None:
    run, _ = made(tmp_path)
    path = samsvae.write_report(run.place, **QUICK)
    text, seen = path.read_text(), record(path)
    assert "The report has no cells" in text
    assert seen["hasRates"] is False
    assert not set(seen["effects"][0]["observed"]) - {None}
    ate = samsvae.load(run.place).effects(["A"], library_size="observed", **QUICK)
    genes = [seen["genes"][g] for g in seen["effects"][0]["gene"]]
    np.testing.assert_allclose(
        seen["effects"][0]["estimate"], ate.to_df().loc["A", genes], rtol=1e-3, atol=1e-6
    )


def test_without_validation_cells_there_are_no_error_rates(tmp_path: Path) -> None:
    run, screen = made(tmp_path)
    split = np.where(screen.split == "valid", "test", screen.split)
    path = samsvae.write_report(run.place, screen.with_split(list(split)), **QUICK)
    seen = record(path)
    assert seen["hasRates"] is False
    assert "There are no error rates: there are too few validation cells" in path.read_text()
    observed = samsvae.differential_expression(screen, ["A"], scale="lfc")
    genes = [seen["genes"][g] for g in seen["effects"][0]["gene"]]
    np.testing.assert_allclose(
        seen["effects"][0]["observed"], observed.loc["A", genes], rtol=1e-3, atol=1e-6
    )


def test_a_model_without_masks_says_so(tmp_path: Path) -> None:
    run, screen = made(tmp_path, "conditional-vae")
    path = samsvae.write_report(run.place, screen, **QUICK)
    assert "There are none to show: a ConditionalVAE has no masks" in path.read_text()
    assert record(path)["mask"] == {}


def test_too_many_or_unknown_conditions_are_refused(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    with pytest.raises(samsvae.InputError, match="501 conditions are listed: expected at most 500"):
        reported_conditions(trained, screen, [f"A@{i}" for i in range(2, 503)])
    with pytest.raises(samsvae.InputError, match="no perturbation 'X'"):
        reported_conditions(trained, screen, ["A+X"])
    assert reported_conditions(trained, None, []) == list(trained.metadata.conditions[1:])


def test_confounded_conditions_are_marked() -> None:
    adata = make_adata()
    label = adata.obs["perturbation"].to_numpy().astype(object)
    adata.obs["batch"] = np.where(label == "C", "alone", "shared")
    screen = read(adata, batch_key="batch")
    with pytest.warns(UserWarning, match="are confounded with those of their batches"):
        model = samsvae.SAMSVAE(screen, **SMALL)
    model.train(**TRAINING)
    effects, _ = reported_effects(model, screen, ["A", "C"], **QUICK)
    found = report_tables(model, screen, effects, name="x", run_settings={"batch_size": 64})
    assert found.cells is not None
    assert found.batches is not None
    assert found.cells.index[~found.cells["estimable"]].tolist() == ["C"]
    assert found.batches.loc["alone"].tolist() == [0, 48, 1]
    assert found.batches["perturbed"].sum() == (~screen.is_control).sum()


def test_scores_are_over_all_conditions_with_the_best_value(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    mean = samsvae.baselines.ConditionMean(screen)
    table = samsvae.evaluate(
        {"condition-mean": mean, "sams-vae": trained, "mine": trained},
        screen,
        scale="log",
        n_halvings=2,
        effect_particles=20,
        progress=False,
    )
    found = reported_scores(table, ["sams-vae"])
    assert found["predictor"].iloc[0] == "sams-vae"  # the one that is reported comes first
    kinds = found.drop_duplicates("predictor").set_index("predictor")["kind"].to_dict()
    assert kinds == {
        "sams-vae": "model",
        "mine": "model",
        "condition-mean": "baseline",
        "technical replicate": "replicate",
    }
    pooled = table[table["condition"] == "(all)"].set_index(["predictor", "metric"])["value"]
    for row in found.itertuples():
        np.testing.assert_equal(row.value, pooled[row.predictor, row.metric])
    assert found.drop_duplicates("metric").set_index("metric")["best"]["rmse"] == 0


def test_the_command_writes_it_and_says_where(
    tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path)
    done = call("report run data.h5ad B+C --n-particles 20 --no-progress")
    assert done[::2] == (0, [])
    assert "the report is run/report.html" in done.out
    assert [one["name"] for one in record(tmp_path / "run/report.html")["conditions"]][-1] == "B+C"
    (tmp_path / "data.h5ad").rename(tmp_path / "run/screen.h5ad")
    assert call("report run --n-particles 20 --no-progress").code == 0  # its own screen
    assert record(tmp_path / "run/report.html")["hasRates"]
    done = call("report nowhere")
    assert (done.code, len(done.errors)) == (2, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_comparison_reports_its_first_model_and_the_others(folder: Path, call: Any) -> None:
    write_h5ad(folder / "data.h5ad", make_adata())
    size = "--n-latent 3 --n-hidden 6 --max-steps 6 --batch-size 64 --no-progress"
    line = f"compare data.h5ad --split-key split {size} --seeds 2 --jobs 1 --baselines additive"
    done = call(f"{line} --models sams-vae,cpa-vae --out cmp --alignment none")
    assert done[::2] == (0, [])
    assert "the report is cmp/report.html" in done.out
    text = (folder / "cmp/report.html").read_text()
    assert "<h1>cmp: sams-vae, seed 0</h1>" in text
    assert all(f">{name}<" in text for name in ("sams-vae", "cpa-vae", "additive"))
    assert text.count("<td>seed 0</td>") == 2  # agreement of each model's seeds
    models = read_csv(folder / "cmp/report/models.csv")
    assert models[["model", "seed"]].to_numpy().tolist() == [
        *(["sams-vae", 0], ["sams-vae", 1], ["cpa-vae", 0], ["cpa-vae", 1])
    ]
    results = read_csv(folder / "cmp/results.csv")
    pooled = results[(results["condition"] == "(all)") & (results["split"] == "test")]
    pooled = pooled.set_index(["predictor", "seed", "metric"])["value"]
    (run,) = (folder / "cmp/runs").rglob("cpa-vae*seed*1*/model.json")
    history = samsvae.load(run.parent).history
    last = models.iloc[-1]
    assert last["rmse"] == pytest.approx(pooled["cpa-vae", 1, "rmse"])
    assert last["validation_elbo"] == pytest.approx(history["valid_elbo"].max())
    assert last["dimensions_in_use"] == 3  # a CPA-VAE has no mask
    assert f">{last['rmse']:.3f}</td>" in text
    agreement = read_csv(folder / "cmp/report/stability.csv")
    assert agreement["model"].tolist() == ["sams-vae", "cpa-vae"]
    assert f">{agreement['effect_pearson'][1]:.3f}</td>" in text
    table = pd.read_csv(folder / "cmp/table.csv").set_index(["split", "predictor", "metric"])
    assert f"{table.loc[('test', 'cpa-vae', 'rmse'), 'mean']:.3f}" in text


def test_a_report_can_be_left_out(folder: Path, call: Any) -> None:
    write_h5ad(folder / "data.h5ad", make_adata())
    size = "--n-latent 3 --n-hidden 6 --max-steps 4 --batch-size 64 --no-progress"
    done = call(f"train data.h5ad --split-key split {size} --out run --no-report")
    assert done[::2] == (0, [])
    scoring = "--no-baselines --n-particles 5 --effect-particles 20 --no-progress"
    assert call(f"evaluate run data.h5ad {scoring} --no-report").code == 0
    assert not (folder / "run/report.html").exists()
    done = call(f"evaluate run data.h5ad {scoring}")
    assert "the report is run/report.html" in done.out
    scores = read_csv(folder / "run/scores.csv").set_index(["condition", "metric"])["value"]
    text = (folder / "run/report.html").read_text()
    assert f">{scores['(all)', 'rmse']:.3f}" in text


def test_a_saved_model_has_a_report_too(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    assert "write_report(..., scores=)" in samsvae.write_report(tmp_path, **QUICK).read_text()
    asked = {"n_halvings": 0, "effect_particles": 20, "n_particles": 5, "progress": False}
    scores = samsvae.evaluate(trained, screen, scale="log", **asked)
    other = samsvae.SAMSVAE(screen, **SMALL).train(**TRAINING)
    agreement = samsvae.stability({"one": trained, "two": other}, **QUICK)
    path = samsvae.write_report(tmp_path, screen, scores=scores, stability=agreement, **QUICK)
    text = path.read_text()
    pooled = scores[scores["condition"] == "(all)"].set_index("metric")["value"]
    assert f">{pooled['rmse']:.3f}" in text
    assert f">{agreement['effect_pearson'][0]:.3f}<" in text
    assert "<dt>n_hidden_embedding</dt><dd>6</dd>" in text  # its hyperparameters


def test_real_values_have_no_library_size(tmp_path: Path) -> None:
    adata = make_adata()
    adata.X = np.log1p(adata.X)
    screen = samsvae.Screen.from_anndata(adata, split_key="split", counts=False)
    model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8, likelihood="gaussian")
    model.train(**TRAINING).save(tmp_path)
    text = samsvae.write_report(tmp_path, screen, **QUICK).read_text()
    assert "counts in the median cell" not in text
    assert json.loads(text.split('type="application/json">')[1].split("</script>")[0])["scale"] == (
        "mean"
    )


def test_scores_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "predictor": ["sams-vae", "duplicate"],
            "split": "test",
            "condition": "(all)",
            "metric": "mae",
            "value": [0.2, 0.3],
        }
    )
    write_csv(tmp_path / "scores.csv", table)
    scores = Run(tmp_path).scores()
    assert scores is not None
    assert list(scores["predictor"]) == ["sams-vae", "technical replicate"]
