"""The paper's experiments on stand-ins, from the raw file to tables and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.command_line import Call
from samsvae import InputError
from samsvae.reproduce import tables
from samsvae.reproduce.experiments import EXPERIMENTS, experiment_of
from samsvae.settings.experiment import read_experiment

SMALL = """
split = "{split}"
fractions = {fractions}
seeds = 2
baselines = ["{baseline}"]
choice_particles = 5
[scoring]
n_particles = 5
effect_particles = 20
n_draws = 5
n_halvings = 0
n_cells = 0
[[models]]
label = "SAMS-VAE, correlated z_basal and E"
model = "sams-vae"
embedding_given_mask = true
alignment = "none"
n_latent = 4
n_hidden = 8
n_hidden_embedding = 6
max_steps = 30
candidates.mask_prob = [0.1, 0.01]
[[models]]
label = "conditional VAE"
model = "conditional-vae"
n_latent = 4
n_hidden = 8
max_steps = 30
"""
MAIN = "SAMS-VAE, correlated z_basal and E"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    given = {"split": "random", "fractions": [], "baseline": "condition-mean"}
    (folder / "replogle.toml").write_text(SMALL.format(**given))
    given = {"split": "norman-ood", "fractions": [0.0, 0.75], "baseline": "additive"}
    (folder / "norman-ood.toml").write_text(SMALL.format(**given))
    return folder


def made(folder: Path, call: Call, name: str) -> Path:
    """Return the directory of an experiment, made once."""
    layout = name.partition("-")[0]
    if not (folder / name).exists():
        done = call(f"datasets stand-in {layout} --out {layout}.h5ad --scale 0.01")
        assert (done.code, done.errors) == (0, [])
        done = call(
            f"reproduce {name} --data {layout}.h5ad --experiment {name}.toml --out {name} "
            "--jobs 1 --no-progress --n-genes 40"
        )
        assert (done.code, done.errors) == (0, [])
        assert "tables are in" in done.out
    return folder / name


def test_published_numbers_are_printed_next_to_ours(tmp_path: Path) -> None:
    rows = [(name, -1.0 - seed, 0.4, 0.1 * seed) for name in (MAIN, "other") for seed in (0, 1)]
    pooled = pd.DataFrame(rows, columns=["label", "iwelbo", "ate_pearson", "validation_iwelbo"])
    path = tmp_path / "paper.csv"
    path.write_text(f'label,iwelbo,ate_pearson\n"{MAIN}",-1000.5,0.25\n')
    table = tables.first_table(pooled, [], {}, tables.read_published(path)).set_index("label")
    paper = table.filter(like="paper_")
    assert list(paper) == ["paper_iwelbo", "paper_pathway_accuracy", "paper_ate_pearson"]
    np.testing.assert_equal(paper.loc[MAIN].to_list(), [-1000.5, np.nan, 0.25])
    assert paper.loc["other"].isna().all()
    assert "-1000.5" in tables.as_text(table.reset_index())
    for text, message in (
        ("model,iwelbo\nx,1\n", "expected label, and any of"),
        ("label,iwelbo\nx,many\n", "numbers in 'iwelbo'"),
        ("label,iwelbo\nx,1\nx,2\n", "each label once"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            tables.read_published(path)


def test_the_papers_table_1_has_a_row_for_each_of_its_models() -> None:
    paper = tables.read_published()
    variants = experiment_of("replogle", 1.0, {}).variants
    assert list(paper.index) == [variant.label for variant in variants if not variant.ours]
    own = paper.loc[MAIN, ["iwelbo", "iwelbo_sd", "pathway_accuracy", "ate_pearson"]]
    assert own.to_list() == [-1756.27, 0.1, 0.89, 0.765]
    assert paper["pathway_accuracy_sd"].notna().sum() == 5  # only models with a sparse mask


@pytest.mark.slow
def test_replogle_gives_table_1_and_its_figures(folder: Path, call: Call) -> None:
    out = made(folder, call, "replogle")
    table = pd.read_csv(out / "tables" / "table1.csv").set_index("label")
    assert list(table.index) == [MAIN, "conditional VAE", "condition-mean", "technical replicate"]
    assert list(table["ours"]) == [False, False, True, True]
    assert table.loc[MAIN, ["iwelbo", "iwelbo_sd", "ate_pearson"]].notna().all()
    assert table.loc[MAIN, "paper_iwelbo"] == -1756.27  # the paper's, without being asked
    assert table.loc["conditional VAE", "paper_ate_pearson"] == 0.765
    assert (
        table.loc[["condition-mean", "technical replicate"]]
        .filter(like="paper_")
        .isna()
        .all(axis=None)
    )
    pooled = pd.read_csv(out / "pooled.csv")
    ours = pooled[pooled["label"] == MAIN]
    assert table.loc[MAIN, "iwelbo"] == pytest.approx(ours["iwelbo"].mean())
    assert table.loc[MAIN, "iwelbo_sd"] == pytest.approx(ours["iwelbo"].std())
    best = ours.loc[ours["validation_iwelbo"].idxmax()]
    assert table.loc[MAIN, "ate_pearson"] == pytest.approx(best["ate_pearson"])
    text = (out / "tables" / "table1.txt").read_text().splitlines()
    assert text[4].startswith("-----")  # between the paper's rows and ours
    assert "-1756.270 (0.100)" in text[2]
    assert (out / "tables" / "table1.tex").read_text().count("\\midrule") == 2
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert {"figure2", "figure3", "figure5"} <= drawn
    report = pd.read_csv(out / "preparation.csv")
    assert list(report["step"])[-1] == "the paper's"


@pytest.mark.slow
def test_candidates_are_chosen_by_validation(folder: Path, call: Call) -> None:
    out = made(folder, call, "replogle")
    choices = pd.read_csv(out / "choices.csv")
    assert len(choices) == 2
    best = choices.loc[choices["validation_iwelbo"].idxmax()]
    assert list(choices["chosen"]) == [i == best.name for i in choices.index]
    value = best["values"].removeprefix("mask_prob = ")
    runs = {path.name for path in (out / "runs").iterdir()}
    slug = "sams-vae-correlated-z_basal-and-e"
    assert {name for name in runs if name.startswith(slug) and name.endswith("seed1")} == {
        f"{slug}-mask_prob-{value}-seed1"
    }
    scores = {path.name for path in (out / "scores").iterdir()}
    assert f"{slug}-mask_prob-{value}-seed0" in scores
    assert len([name for name in scores if name.startswith(slug)]) == 2


@pytest.mark.slow
def test_norman_gives_curves_and_interactions(folder: Path, call: Call) -> None:
    out = made(folder, call, "norman-ood")
    table = pd.read_csv(out / "tables" / "norman-ood.csv")
    assert set(table["fraction"]) == {0.0, 0.75}
    assert set(table["label"]) == {MAIN, "conditional VAE", "additive", "technical replicate"}
    scores = pd.read_csv(out / "tables" / "interactions.csv")
    assert set(scores["kind"]) == {"ADDITIVE", "NEOMORPHIC", "EPISTASIS"}
    assert (scores["n_better"] <= scores["n_pairs"]).all()
    assert scores["n_pairs"].sum() > 0
    assert scores.loc[scores["n_pairs"] > 0, ["rmse_model", "rmse_sum"]].notna().all(axis=None)
    held_out = json.loads((out / "experiment.json").read_text())
    assert held_out["fractions"] == [0.0, 0.75]
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert {"figure4", "figure7", "figure8"} <= drawn
    genes = pd.read_csv(out / "tables" / "combinations.csv")
    assert genes[["observed", "predicted", "additive"]].notna().all(axis=None)


@pytest.mark.slow
def test_the_same_command_resumes_and_another_is_refused(folder: Path, call: Call) -> None:
    made(folder, call, "replogle")
    line = (
        "reproduce replogle --data replogle.h5ad --experiment replogle.toml --out replogle "
        "--jobs 1 --no-progress --n-genes 40"
    )
    assert "--resume" in call(line).errors[0]
    done = call(f"{line} --resume")
    assert (done.code, done.errors) == (0, [])
    assert done.out.count("jobs were done before") == 3
    done = call(f"{line} --resume --seeds 3")
    assert done.code == 2
    assert "seeds = 2, not 3" in done.errors[0]
    done = call(f"{line} --resume".replace("--n-genes 40", "--min-cells 3"))
    assert done.code == 2
    assert "was started with another min_cells" in done.errors[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_papers_experiments_are_whole(name: str) -> None:
    found = experiment_of(name, 1.0, {})
    labels = [variant.label for variant in found.variants]
    assert sum(label.startswith("SAMS-VAE,") for label in labels) == 4
    assert sum(label.startswith("CPA-VAE") for label in labels) == 2
    assert {"conditional VAE", "SVAE+"} < set(labels)
    for variant in found.variants:
        settings = variant.settings
        assert settings["alignment"] == ("rotate" if variant.ours else "none")
        assert settings["validate_every"] == 2000
        assert (settings["batch_size"], settings["n_particles"]) == (512, 5)
        assert settings["learning_rate"] == 3e-4
        assert settings["closed_form_kl"] is False
    steps = {variant.settings["max_steps"] for variant in found.variants}
    assert steps == ({150_000} if name == "replogle" else {30_000})
    tried = next(one.candidates for one in found.variants if one.label == MAIN)
    assert tried == ({"mask_prob": [0.1, 0.01, 0.001]} if name == "replogle" else {})
    assert found.seeds == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seads = 3", "no entry .*'seads': the nearest is 'seeds'"),
        ("seeds = 3", "has no models"),
        ("[[models]]\nmodel = 'sams-vae'", "has no models"),
        ("split = 'norman-ood'\n[[models]]\nlabel = 'a'", "fractions are"),
        ("fractions = [0.5]\n[[models]]\nlabel = 'a'", "fractions are"),
        ("[[models]]\nlabel = 'a'\n[[models]]\nlabel = 'a'", "names 'a' twice"),
        ("[[models]]\nlabel = 'a'\ncandidates.beta_c = [1.0]", "beta_c"),
        ("[[models]]\nlabel = 'a'\nmodel = 'cpa-vae'\ncandidates.mask_prob = [0.1]", "mask_prob"),
        ("[scoring]\nn_partikels = 3", "n_partikels"),
    ],
)
def test_mistakes_in_an_experiment_are_errors(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_experiment(tmp_path / "a.toml")


def test_the_data_must_be_there(folder: Path, call: Call) -> None:
    done = call("reproduce replogle --data absent.h5ad --out fresh")
    assert done.code == 2
    assert "datasets stand-in" in done.errors[0]
    assert not (folder / "fresh").exists()
