"""A saved model answers alike; one that is not whole is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from helpers.processes import printed_by
from helpers.saved_files import MODEL, NAMES, Spoil, cut, newer
from helpers.screens import make_adata, read
from samsvae.storage import tensors as files


@pytest.fixture(scope="module")
def saved(trained: samsvae.SAMSVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder)
    return folder


def answers(model: samsvae.SAMSVAE, screen: samsvae.Screen) -> dict[str, np.ndarray]:
    effects = model.effects(["A", "C+B"], n_particles=20, n_draws=5, progress=False)
    return {
        "effects": effects.X,
        **{name: effects.layers[name] for name in ("mc_se", "lower", "upper")},
        "n_train_cells": effects.obs["n_train_cells"].to_numpy(),
        "iwelbo": model.iwelbo(screen.test, n_particles=5, progress=False).to_numpy(),
        "mask": model.mask_probabilities().to_numpy(),
        "embeddings": model.embeddings().to_numpy(),
        "counts": model.simulate("A", n_cells=5).X.toarray(),
        "history": model.history.to_numpy(float),
    }


def test_loaded_model_answers_alike(
    trained: samsvae.SAMSVAE, saved: Path, screen: samsvae.Screen
) -> None:
    ours, theirs = answers(samsvae.load(saved), screen), answers(trained, screen)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert samsvae.load(saved).hyperparameters == trained.hyperparameters


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def of_another_model(path: Path) -> None:
    tensors, _ = files.read(path)
    tensors["model.mechanism.mask.logits"] += 1e-3
    files.write(path, tensors, {})


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        *((name, lambda p: cut(p, 1.0), "not whole") for name in (NAMES, MODEL)),
        *((name, lambda p: cut(p, 0.5), "not whole") for name in (NAMES, MODEL)),
        *((name, lambda p: cut(p, 0.0), "not whole") for name in (NAMES, MODEL)),
        *((name, Path.unlink, "no (file|saved model).*{}") for name in (NAMES, MODEL)),
        (NAMES, lambda p: edit(p, schema_version=8), "schema version 8.*newer samsvae"),
        (MODEL, newer, "schema version 8.*newer samsvae"),
        (NAMES, lambda p: edit(p, digest="0"), "do not belong together"),
        (MODEL, of_another_model, "do not belong together"),
        (NAMES, lambda p: edit(p, schema_version=1), "schema version 1.*train the model anew"),
        (NAMES, lambda p: edit(p, estimator="cpa-vae"), "do not belong together, or are damaged"),
    ],
)
def test_spoiled_model(saved: Path, tmp_path: Path, name: str, spoil: Spoil, message: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "copy")
    samsvae.load(folder)
    spoil(folder / name)
    with pytest.raises(samsvae.InputError, match=message.format(name)) as caught:
        samsvae.load(folder)
    assert "\n" not in str(caught.value)


def test_genes_are_matched_by_name(trained: samsvae.SAMSVAE, adata: AnnData) -> None:
    def iwelbo(data: AnnData) -> pd.DataFrame:
        return trained.iwelbo(read(data), n_particles=5, progress=False)

    wanted = iwelbo(adata)
    pd.testing.assert_frame_equal(iwelbo(adata[:, ::-1].copy()), wanted, check_exact=True)
    more = make_adata(n_genes=14)
    more.var_names = ["x", "y", *adata.var_names]
    more.X[:, 2:] = adata.X
    with pytest.warns(UserWarning, match="^2 genes .* ignored"):
        pd.testing.assert_frame_equal(iwelbo(more), wanted, check_exact=True)
    with pytest.raises(samsvae.InputError, match="lack 1 of the model's 12 genes: 'g3'"):
        iwelbo(adata[:, adata.var_names != "g3"].copy())


FULL_DISK = """
import resource, signal, sys, samsvae
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, other, limit = sys.argv[1:]
model = samsvae.load(other)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
try:
    model.save(folder)
except samsvae.InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", ["neither file", "the tensors alone"])
def test_full_disk_leaves_the_old_model(tmp_path: Path, room: str) -> None:
    adata = make_adata()
    adata.var_names = [name * 5000 for name in adata.var_names]  # so model.json is the larger file
    tiny = {"n_latent": 1, "n_hidden": 2, "n_hidden_embedding": 2}
    for seed, folder in enumerate([tmp_path / "old", tmp_path / "new"]):
        model = samsvae.SAMSVAE(read(adata), **tiny)
        model.train(max_steps=1, batch_size=64, seed=seed, progress=False).save(folder)
    size = (tmp_path / "old" / MODEL).stat().st_size
    assert size + 1000 < (tmp_path / "old" / NAMES).stat().st_size
    limit = size // 2 if room == "neither file" else size + 1000
    before = samsvae.load(tmp_path / "old").mask_probabilities()
    script = (sys.executable, "-c", FULL_DISK, tmp_path / "old", tmp_path / "new", str(limit))
    assert re.fullmatch(f"cannot write {tmp_path}/old/model.*: .*unchanged\n", printed_by(*script))
    assert {path.name for path in (tmp_path / "old").iterdir()} == {MODEL, NAMES}
    pd.testing.assert_frame_equal(samsvae.load(tmp_path / "old").mask_probabilities(), before)


def huge(names: dict[str, Any]) -> None:
    names["hyperparameters"] |= {"n_latent": 2**40, "n_hidden": 2**40}


def reversed_conditions(names: dict[str, Any]) -> None:
    names["facts"]["conditions"].reverse()


def strange_condition(names: dict[str, Any]) -> None:
    names["facts"]["conditions"][-1] = "A+zzz"


def unsorted_condition(names: dict[str, Any]) -> None:
    conditions = names["facts"]["conditions"]
    conditions[conditions.index("A+B")] = "B+A"


def strange_sgrna(names: dict[str, Any]) -> None:
    names["facts"]["sgrnas"] = [["A-1", "A"], ["z-1", "zzz"]]


def endless_history(names: dict[str, Any]) -> None:
    names["history"] = {"step": [1.0] * 150_000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (endless_history, r"history has 150,000 rows: no training of ours has as many"),
        (huge, r"n_(latent|hidden) is 1099511627776: no model has as many"),
        (reversed_conditions, r"the first of facts.conditions is not 'control'"),
        (strange_condition, r"no perturbation 'zzz'"),
        (unsorted_condition, r"facts.conditions hold 'B\+A', written in another way"),
        (strange_sgrna, r"facts.sgrnas name 'zzz', which are no perturbations"),
    ],
)
def test_names_that_belong_to_no_model(
    change: Callable[[dict[str, Any]], None], message: str, saved: Path, tmp_path: Path
) -> None:
    """Their digest is right: somebody made them, or software that is not ours."""
    shutil.copytree(saved, tmp_path / "run")
    path = tmp_path / "run" / NAMES
    names = json.loads(path.read_text())
    parts, _ = files.read(path.with_name(MODEL))
    change(names)
    del names["digest"]
    names["digest"] = files.digest(parts, names)
    path.write_text(json.dumps(names))
    with pytest.raises(samsvae.InputError, match=message):
        samsvae.load(path.parent)
