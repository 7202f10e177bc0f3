"""The paragraph for the Methods section: its numbers are those of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.estimators import ESTIMATORS
from samsvae.estimators.base import Estimator
from samsvae.runs.run import Run
from samsvae.settings.experiment import complete
from samsvae.settings.fields import settings_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run"
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    settings = complete(
        {**SMALL, "split_key": "split", "batch_key": ("batch",), "max_steps": 40, "batch_size": 32}
        | {"validate_every": 5, "learning_rate": 0.002, "seed": 7, "progress": False}
    )
    run = Run(place)
    with run.made():
        run.start(settings, screen, resume=False)
        model = samsvae.SAMSVAE(screen, **settings_of(samsvae.SAMSVAE, settings))
        run.train(model, settings, resume=False)
    return place


def test_it_says_what_the_run_did(folder: Path) -> None:
    text, model = samsvae.methods_text(folder), samsvae.load(folder)
    n_cells = model.metadata.cells_per_condition
    history = model.history
    kept = history[history["is_best"]].iloc[-1]
    for said in (
        f"Counts of 12 genes in {n_cells.sum():,} training cells",
        f"samsvae {samsvae.__version__}",
        f"{n_cells[0]} control cells and {len(n_cells) - 1} conditions",
        "within 2 batches (batch)",
        f"{SMALL['n_latent']} latent dimensions",
        "(learning rate 0.002, batches of 32 cells, 1 draw per cell, seed 7)",
        f"Of {history['step'].max()} steps the model of step {kept['step']} was kept",
        f"({kept['valid_elbo']:.2f} nats per cell)",
        "https://doi.org/10.48550/arXiv.2311.02794",
    ):
        assert said in text
    assert all(f"[{i}]" in text.split("\n\n")[0] for i in (1, 2, 3))


def test_a_saved_model_does_not_tell_how_it_was_trained(folder: Path, tmp_path: Path) -> None:
    samsvae.load(folder).save(tmp_path / "saved")
    text = samsvae.methods_text(tmp_path / "saved")
    assert "learning rate" not in text
    assert "SAMS-VAE" in text


@pytest.mark.parametrize("kind", ESTIMATORS[1:], ids=lambda kind: kind.name)
def test_each_model_has_its_own_reference(kind: type[Estimator], tmp_path: Path) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    names = set(kind.__dataclass_fields__)
    model = kind(screen, **{k: v for k, v in SMALL.items() if k in names})
    model.train(max_steps=2, progress=False).save(tmp_path)
    paragraph, references = samsvae.methods_text(tmp_path).split("\n\n")
    assert "[2], as in [1]," in paragraph
    assert len(references.splitlines()) == 3


def test_without_a_model_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(samsvae.InputError, match="expected a run"):
        samsvae.methods_text(tmp_path / "none")
