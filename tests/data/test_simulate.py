"""The simulated screen, its truth, and what a model recovers of it."""

from __future__ import annotations

import numpy as np
import pytest

import samsvae
from samsvae.runs import demo as demonstration
from samsvae.runs.run import Run
from samsvae.settings.experiment import complete
from samsvae.settings.fields import settings_of
from samsvae.settings.train import TrainPlan


@pytest.fixture(scope="module")
def simulated() -> samsvae.datasets.SimulatedScreen:
    return samsvae.datasets.simulated_screen(seed=1)


def test_counts_are_like_those_of_the_real_screen(
    simulated: samsvae.datasets.SimulatedScreen,
) -> None:
    size = np.log(simulated.control.library_size)
    assert abs(np.median(np.exp(size)) - 190) < 20
    assert abs(size.std() - 0.55) < 0.1
    share = simulated.control.counts.mean(0) / simulated.control.counts.mean(0).sum()
    assert 1.4 < np.log(np.asarray(share)[share > 0]).std() < 2.3
    assert np.bincount(simulated.condition)[1:].max() <= 150


def test_truth_is_sparse_and_every_perturbation_acts(
    simulated: samsvae.datasets.SimulatedScreen,
) -> None:
    truth = simulated.truth
    assert truth.mask.shape == (40, 10)
    assert (truth.mask.sum(1) >= 1).all()
    assert truth.mask.to_numpy().mean() < 0.25
    assert truth.embedding.abs().min(axis=None) >= 1


def test_truth_explains_the_cells(simulated: samsvae.datasets.SimulatedScreen) -> None:
    truth = simulated.truth
    names = [name for name in simulated.conditions if name != "control"]
    effects = truth.effects(names)
    observed = samsvae.differential_expression(simulated, scale="normalized")
    r = [np.corrcoef(effects.loc[name], observed.loc[name])[0, 1] for name in names]
    assert np.median(r) > 0.85


def test_no_combination_is_trained_on(simulated: samsvae.datasets.SimulatedScreen) -> None:
    assert not any("+" in name for name in simulated.train.conditions)
    assert sum("+" in name for name in simulated.test.conditions) == 20
    assert isinstance(simulated.train, samsvae.datasets.SimulatedScreen)


def test_same_seed_same_screen() -> None:
    small = {"n_perturbations": 3, "n_combinations": 1, "cells_per_condition": 5, "n_control": 5}
    first, again, other = (
        samsvae.datasets.simulated_screen(**small, seed=seed) for seed in (0, 0, 1)
    )
    assert (first.counts != again.counts).nnz == 0
    assert first.counts.shape != other.counts.shape or (first.counts != other.counts).nnz > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_perturbations": 1}, "n_perturbations is 1"),
        ({"n_perturbations": 3, "n_combinations": 4}, "n_combinations"),
        ({"mask_prob": 1.5}, "mask_prob"),
        ({"library_size": 0.0}, "library_size"),
    ],
)
def test_bad_sizes(options: dict[str, float], message: str) -> None:
    with pytest.raises(samsvae.InputError, match=message):
        samsvae.datasets.simulated_screen(**options)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.slow
def test_sparse_shifts_come_back() -> None:
    screen = samsvae.datasets.simulated_screen(seed=0)
    settings = complete(demonstration.CONFIG | {"progress": False, "max_steps": 1400})
    model = samsvae.SAMSVAE(screen, **settings_of(samsvae.SAMSVAE, settings))
    model.train(**settings_of(TrainPlan, settings))
    found = samsvae.recovery(model, screen)
    assert found.mask_f1 > 0.75
    assert found.mask_f1 > 2 * max(found.random_mask_f1, found.full_mask_f1)
    assert found.singles > 0.9
    assert found.unseen_combinations > 0.85
    assert found.unseen_combinations > found.sum_of_observed_singles


@pytest.mark.long
@pytest.mark.slow
def test_demo_writes_a_run_that_the_other_commands_read(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    run = Run(Path(str(tmp_path)) / "demo")
    monkeypatch.setattr(
        demonstration, "CONFIG", demonstration.CONFIG | {"max_steps": 3, "n_latent": 12}
    )
    monkeypatch.setattr(demonstration, "PARTICLES", 50)
    said: list[str] = []
    demonstration.demonstrate(run, progress=False, say=said.append)
    for name in ("config.toml", "model.json", "history.csv", "metrics.json", "effects.h5ad"):
        assert (run / name).is_file(), name
    assert (run / "summary.txt").read_text() in "\n".join(said) + "\n"
    screen = run.screen(run / "screen.h5ad", {})
    assert len(screen) == 10_000
    assert len(run.model().iwelbo(screen.test[:20], n_particles=2, progress=False)) == 20
