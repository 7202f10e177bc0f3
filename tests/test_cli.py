"""The command line: what each command writes and prints, and one line for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samsvae
from conftest import SMALL, Call, make_adata
from samsvae.cli.console import say
from samsvae.experiments import run as run_module
from samsvae.settings.run import RUN
from samsvae.settings.toml import read_toml, toml

TINY = {**SMALL, "max_steps": 4, "batch_size": 64, "n_particles": 2, "progress": False}
TRAIN = "train data.h5ad --out new --config tiny.toml --split-key split"
BARE = "train data.h5ad --out new --max-steps 1 --no-progress"
QUICK = "--no-progress --n-particles 10"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(toml(TINY))
    adata = make_adata()
    adata.write_h5ad(folder / "data.h5ad")
    adata[:, 1:].write_h5ad(folder / "fewer_genes.h5ad")
    adata[:, ::-1].write_h5ad(folder / "other_order.h5ad")
    make_adata(n_genes=13).write_h5ad(folder / "more_genes.h5ad")
    adata[adata.obs["perturbation"] == "control"].write_h5ad(folder / "control.h5ad")
    whole = (folder / "data.h5ad").read_bytes()
    (folder / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (folder / "text.h5ad").write_text("cell,gene\n")
    h5py.File(folder / "plain.h5ad", "w").close()
    numbered = adata.copy()
    numbered.obs_names = [f"{i:03d}" for i in range(240)]
    numbered.write_h5ad(folder / "numbered.h5ad")
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(folder / "log.h5ad")
    adata.X = adata.layers.pop("counts")
    adata.X[:3] = 0
    adata.write_h5ad(folder / "empty_cells.h5ad")
    (folder / "unknown.toml").write_text("n_latnt = 3\n")
    (folder / "type.toml").write_text('n_latent = "four"\n')
    (folder / "broken.toml").write_text("n_latent: 3\n")
    (folder / "taken.csv").write_text("taken\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(folder: Path, call: Call) -> Path:
    """Return a finished run, made once."""
    if not (folder / "run").exists():
        assert call(TRAIN.replace("new", "run"))[::2] == (0, [])
    return folder / "run"


def files(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def restore(folder: Path, before: dict[str, bytes | None]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in before:
            path.rmdir() if path.is_dir() else path.unlink()
    for name, content in before.items():
        if content is not None:
            (folder / name).write_bytes(content)


def test_train_writes_a_run(run: Path) -> None:
    names = {"config.toml", "model.json", "model.safetensors", "history.csv"}
    assert names | {"checkpoint.safetensors"} == {path.name for path in run.iterdir()} - {
        *("metrics.json", "per_condition.csv", "effects.h5ad")
    }
    config = read_toml(run / "config.toml")
    assert config | TINY == config
    assert config["split_key"] == "split"
    model = samsvae.load(run)
    assert {name: model.hyperparameters[name] for name in SMALL} == SMALL
    history = pd.read_csv(run / "history.csv")
    pd.testing.assert_frame_equal(history, model.history)
    assert history["step"].tolist() == [4]


def test_train_gives_the_numbers_of_python(run: Path, screen: samsvae.Screen) -> None:
    training = {name: value for name, value in TINY.items() if name not in SMALL}
    model = samsvae.SAMSVAE(screen, **SMALL).train(**training)
    loaded = samsvae.load(run).mask_probabilities()
    pd.testing.assert_frame_equal(model.mask_probabilities(), loaded, check_exact=True)


def test_evaluate(run: Path, call: Call) -> None:
    for split in ("valid", "test"):
        done = call(f"evaluate run data.h5ad --split {split} --effect-particles 20 {QUICK}")
        assert done[::2] == (0, [])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() == {"valid", "test"}
    summary = metrics["test"]
    pearson = ("", "_all_cells", "_top20", "_per_condition_median")
    keys = {
        "iwelbo",
        "iwelbo_mc_se",
        "n_particles",
        "n_cells",
        *(f"ate_pearson{p}" for p in pearson),
    }
    assert keys <= summary.keys()
    assert (summary["n_particles"], summary["n_cells"]) == (10, 45)
    assert summary.pop("scale") == "log"
    assert np.isfinite(list(summary.values())).all()
    for name, value in summary.items():
        told = re.search(rf"\b{name} .* (-?[\d.]+) ", done.out)
        assert told, name
        assert float(told[1]) == pytest.approx(value, abs=1e-4)
    screen = samsvae.read_h5ad("data.h5ad", split_key="split")
    iwelbo = samsvae.load(run).iwelbo(screen.test, n_particles=10, progress=False)
    assert summary["iwelbo"] == pytest.approx(iwelbo["iwelbo"].mean())
    assert set(pd.read_csv(run / "per_condition.csv", index_col=0).index) == {"A", "B", "C", "A+B"}
    assert ad.read_h5ad(run / "effects.h5ad").shape == (4, 12)
    scores = pd.read_csv(run / "scores.csv")
    assert {"sams-vae", "additive", "duplicate"} < set(scores["predictor"])
    assert set(scores["split"]) == {"test"}
    mine = scores.set_index(["predictor", "condition", "metric"])["value"]
    assert mine["sams-vae", "(all)", "iwelbo"] == pytest.approx(summary["iwelbo"])
    assert mine["sams-vae", "(all)", "ate_pearson"] == pytest.approx(summary["ate_pearson"])
    assert "condition-mean" in done.out


def test_evaluate_without_baselines(folder: Path, run: Path, call: Call) -> None:
    (run / "scores.csv").unlink(missing_ok=True)
    options = f"--effect-particles 20 {QUICK}"
    done = call(f"evaluate run data.h5ad --no-baselines {options}")
    assert done[::2] == (0, [])
    assert not (run / "scores.csv").exists()
    adata = ad.read_h5ad(folder / "data.h5ad")
    adata[adata.obs["split"] == "test"].write_h5ad(folder / "only_test.h5ad")
    done = call(f"evaluate run only_test.h5ad {options}")
    assert done[::2] == (0, [])
    assert "no training cells" in done.out
    assert not (run / "scores.csv").exists()


@pytest.mark.parametrize("data", ["other_order", "more_genes"])
def test_evaluate_matches_genes(run: Path, call: Call, data: str) -> None:
    done = call(f"evaluate run {data}.h5ad --effect-particles 20 {QUICK}")
    assert done[::2] == (0, [])
    assert all("1 genes" in note for note in done.notes)
    assert bool(done.notes) == (data == "more_genes")


@pytest.mark.parametrize("data", ["data", "numbered"])
def test_split_made_by_train_is_used_by_evaluate(folder: Path, call: Call, data: str) -> None:
    run = folder / f"random_{data}"
    assert call(f"train {data}.h5ad --out {run} --config tiny.toml").code == 0
    split = pd.read_csv(run / "split.csv", dtype=str).set_index("cell")["split"]
    assert split.value_counts().to_dict() == {"train": 154, "valid": 38, "test": 48}
    split[split.index[split == "train"][:100]] = "test"
    (run / "split.csv").write_text(split.sample(frac=1, random_state=0).to_csv())
    done = call(f"evaluate {run} {data}.h5ad --effect-particles 20 {QUICK}")
    assert done[::2] == (0, [])
    assert json.loads((run / "metrics.json").read_text())["test"]["n_cells"] == 148


@pytest.mark.usefixtures("run")
def test_effects_prints(call: Call) -> None:
    done = call(f"effects run B+A A+C {QUICK}")
    assert done[::2] == (0, [])
    assert re.search(r"B\+A \(30 training cells\)", done.out)
    assert re.search(r"A\+C \(never seen in training\)", done.out)
    assert len(re.findall(r"\bg0\b", done.out)) == 2


def test_effects_writes(run: Path, call: Call, tmp_path: Path) -> None:
    csv, h5ad = tmp_path / "effects.csv", tmp_path / "effects.h5ad"
    for out in (csv, h5ad):
        assert call(f"effects run B+A A+C --seed 3 {QUICK} --out {out}")[::2] == (0, [])
    wanted = samsvae.load(run).effects(["B+A", "A+C"], n_particles=10, seed=3, progress=False)
    table = pd.read_csv(csv)
    ends = ["lower", "upper", "lower_50", "upper_50"]
    assert list(table.columns) == ["condition", "gene", "ate", "mc_se", *ends]
    pivoted = table.pivot(index="condition", columns="gene", values="ate")
    ate = pivoted.loc[["B+A", "A+C"], list(wanted.var_names)].to_numpy()
    np.testing.assert_allclose(ate, wanted.X, rtol=1e-6)
    written = ad.read_h5ad(h5ad)
    assert written.obs_names.tolist() == ["B+A", "A+C"]
    assert written.obs["condition"].tolist() == ["A+B", "A+C"]
    np.testing.assert_array_equal(written.X, wanted.X)
    for name in ("mc_se", "lower", "upper"):
        np.testing.assert_array_equal(written.layers[name], wanted.layers[name])


@pytest.mark.usefixtures("run")
def test_effects_of_all_conditions(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "all.h5ad"
    assert call(f"effects run {QUICK} --scale normalized --out {out}").code == 0
    assert ad.read_h5ad(out).obs_names.tolist() == ["A", "A+B", "B", "C"]
    assert call(f"effects run C {QUICK} --out {out} --overwrite").code == 0
    assert ad.read_h5ad(out).obs_names.tolist() == ["C"]


@pytest.mark.usefixtures("run")
def test_simulate(call: Call, tmp_path: Path) -> None:
    new, given_ = tmp_path / "new.h5ad", tmp_path / "given.h5ad"
    assert call(f"simulate run C A+C --n-cells 7 --out {new}")[::2] == (0, [])
    assert call(f"simulate run C A+C --cells control.h5ad --out {given_}")[::2] == (0, [])
    drawn, counterfactual = ad.read_h5ad(new), ad.read_h5ad(given_)
    assert drawn.obs["condition"].tolist() == ["C"] * 7 + ["A+C"] * 7
    cells = ad.read_h5ad("control.h5ad").obs_names.tolist()
    assert counterfactual.obs["cell"].tolist() == cells * 2
    for adata in (drawn, counterfactual):
        counts = adata.X.toarray()
        assert adata.var_names.tolist() == [f"g{i}" for i in range(12)]
        assert (counts >= 0).all()
        assert (counts == counts.round()).all()
        assert (counts.sum(1) > 0).all()


@pytest.mark.parametrize(
    ("more", "n_latent"),
    [("", 4), ("--set n_latent=3", 3), ("--set n-latent=3 --n-latent 2", 2)],
)
def test_option_wins_over_set_and_set_over_file(
    call: Call, tmp_path: Path, more: str, n_latent: int
) -> None:
    assert call(f"{TRAIN.replace('new', str(tmp_path / 'out'))} {more}").code == 0
    assert read_toml(tmp_path / "out" / "config.toml")["n_latent"] == n_latent
    assert samsvae.load(tmp_path / "out").hyperparameters["n_latent"] == n_latent


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    kinds = get_args(annotation) or (annotation,)
    known = {
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False),
        str: st.text() | st.text("\"'\\#=[]{}\n\r\t\x00\x7f\x85 \u2028äé-", max_size=8),
        NoneType: st.none(),
    }
    return st.one_of(*(known[kind] for kind in kinds))


CONFIGS = st.fixed_dictionaries(
    {}, optional={name: values_of(kind) for name, kind in RUN.types.items()}
)


@settings(max_examples=100, deadline=None)
@given(values=CONFIGS)
def test_config_round_trip(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_bytes(toml(RUN.complete(values)).encode())
    read = RUN.checked(read_toml(path), "in a file")
    assert RUN.complete(read) == RUN.complete(values)
    assert {name: type(value) for name, value in read.items()} == {
        name: type(value) for name, value in RUN.complete(values).items() if value is not None
    }


OUT_OF_RANGE = [
    *("n_latent 0", "n_layers 0", "n_hidden 0", "batch_size 0", "n_particles 0", "seed -1"),
    *("learning_rate 0", "learning_rate -1", "learning_rate nan", "clip_norm 0"),
    *("mask_prob 2", "embedding_scale inf"),
]
BAD = [
    ("trian data.h5ad", "trian.*train"),
    (f"{BARE} --n-latnt 3", "--n-latnt.*--n-latent"),
    (f"{BARE} --set n_latnt=3", "'n_latnt'.*'n_latent'"),
    (f"{BARE} --config unknown.toml", "unknown.toml.*'n_latnt'.*'n_latent'"),
    (f"{BARE} --set n_latent", "'n_latent'.*name=value"),
    (f"{BARE} --n-latent four", "--n-latent.*four.*int"),
    (f"{BARE} --set n_latent=four", "n_latent.*'four'.*--set.*int"),
    (f"{BARE} --config type.toml", "n_latent.*'four'.*type.toml.*int"),
    (f"{BARE} --n-latent 4.5", "n.latent.*4.5"),
    (f"{BARE} --set n_latent=4.5", "n_latent.*4.5.*int"),
    (f"{BARE} --set counts=maybe", "counts.*'maybe'.*bool"),
    (f"{BARE} --set mask_prob=1%", "mask_prob.*'1%'.*float"),
    (f"{BARE} --config nothing.toml", "'nothing.toml'"),
    (f"{BARE} --config broken.toml", "'broken.toml' is not TOML"),
    ("train data.h5ad", "--out"),
    ("train --out new", "DATA"),
    ("train nothing.h5ad --out new", "no file 'nothing.h5ad'"),
    ("train empty --out new", "'empty'"),
    ("train text.h5ad --out new", "'text.h5ad' cannot be read as h5ad"),
    ("train plain.h5ad --out new", "'plain.h5ad' cannot be read as h5ad"),
    ("train cut.h5ad --out new", "'cut.h5ad' cannot be read as h5ad"),
    ("train log.h5ad --out new", "not whole.*layer='counts'"),
    ("train empty_cells.h5ad --out new", "3 of 240 cells have no counts.*--drop-empty-cells"),
    ("train data.h5ad --out run", "'run' exists.*--overwrite.*--resume"),
    ("train data.h5ad --out taken.csv --overwrite", "'taken.csv' is a file"),
    (f"{BARE.replace('new', 'taken.csv/new')}", "taken.csv"),
    *((f"{BARE} --{o.replace('_', '-')}", o.replace(" ", " is ")) for o in OUT_OF_RANGE),
    ("train data.h5ad --out new --max-steps 0", "max_steps is 0"),
    (f"{BARE} --max-epochs 2", "max_steps and max_epochs"),
    (f"{BARE} --device nonsense", "device 'nonsense'.*'cpu'"),
    ("train data.h5ad --out run --overwrite --device nonsense", "device 'nonsense'.*'cpu'"),
    (f"{BARE} --perturbation-key pertubation", "'pertubation'.*'perturbation'"),
    (f"{BARE} --control ctrl", "'ctrl'.*'control'"),
    (f"{BARE} --layer counts", "'counts'"),
    (f"{BARE} --split-key spilt", "'spilt'.*'split'"),
    (f"{BARE} --batch-key bach", "'bach'.*'batch'"),
    (
        f"{TRAIN.replace('new', 'run')} --resume --learning-rate 0.1",
        "learning_rate = 0.003, not 0.1",
    ),
    (f"{TRAIN.replace('new', 'run')} --resume --seed 1", "seed = 0, not 1"),
    (f"{TRAIN.replace('new', 'run')} --resume --n-latent 5", "n_latent = 4, not 5"),
    ("evaluate nothing data.h5ad", "no directory 'nothing'"),
    ("evaluate empty data.h5ad", "no saved model in 'empty'"),
    ("evaluate run fewer_genes.h5ad --no-progress", "lack 1 of the model's 12 genes: 'g0'"),
    ("evaluate run cut.h5ad", "'cut.h5ad' cannot be read as h5ad"),
    ("evaluate run data.h5ad --split tets", "'tets'.*'test'"),
    ("evaluate run data.h5ad --n-particles 0 --no-progress", "n_particles is 0"),
    ("evaluate run data.h5ad --split-key spilt", "'spilt'.*'split'"),
    ("effects nothing A", "no directory 'nothing'"),
    ("effects empty A", "no saved model in 'empty'"),
    ("effects run D", "no perturbation 'D'.*'A', 'B', 'C'"),
    ("effects run A+D --out new.csv", "no perturbation 'D'"),
    ("effects run A+", r"'A\+' has an empty part"),
    ("effects run A --out taken.csv", "'taken.csv' exists.*--overwrite"),
    ("effects run A --out new.tsv", "'new.tsv'.*'.csv', '.h5ad'"),
    ("effects run A --out taken.csv/new.csv --no-progress", "cannot write taken.csv/new.csv"),
    ("effects run A --n-particles 0", "n_particles is 0"),
    ("effects run A --scale lgo", "lgo.*log"),
    ("effects run A --library-size 0", "library_size is 0"),
    ("simulate run --out new.h5ad", "no conditions"),
    ("simulate run A", "--out"),
    ("simulate run D --out new.h5ad", "no perturbation 'D'"),
    ("simulate run A --out taken.csv --overwrite", "'taken.csv'.*'.h5ad'"),
    ("simulate run A --out new.h5ad --n-cells 0", "n_cells is 0"),
    ("simulate run A --out new.h5ad --cells fewer_genes.h5ad", "lack 1 of"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_mistake(run: Path, call: Call, line: str, message: str) -> None:
    before = files(run.parent)
    done = call(line)
    left = files(run.parent)
    restore(run.parent, before)
    assert (done.code, len(done.errors)) == (2, 1), done
    assert re.match(f"samsvae: .*{message}", done.errors[0]), done.errors
    assert left == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("two\nlines"), 1, "internal error, RuntimeError: two lines .*--debug"),
        (samsvae.NonFiniteError("step 3"), 1, "step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (samsvae.TrainingInterrupted("go on with resume"), 130, "go on with resume"),
    ],
)
def test_other_errors(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run_module, "read_screen", fail)
    done = call(BARE)
    assert (done.code, len(done.errors)) == (code, 1), done
    assert re.fullmatch(f"samsvae: {message}.*", done.errors[0])


@pytest.mark.parametrize("line", ["--debug train no.h5ad --out new", "effects no A --debug"])
def test_debug_shows_the_traceback(call: Call, line: str) -> None:
    done = call(line)
    assert done.code == 2
    assert done.errors[0] == "Traceback (most recent call last):"
    assert done.errors[-1].startswith("samsvae: no ")


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say("runs/[red]x")
    assert capsys.readouterr().out == "runs/[red]x\n"
