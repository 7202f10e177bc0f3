"""Training in phases: masks open, latent space rotated, masks from the evidence."""

from __future__ import annotations

import os
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae.analysis.agreement import recovery
from samsvae.data.simulate import simulated_screen
from samsvae.estimators.base import Estimator
from samsvae.model.mask import MASKS, BernoulliMask, MaskPrior
from samsvae.model.mechanism import AdditiveShift
from samsvae.train import alignment, validator
from samsvae.train.alignment import shared_offset
from samsvae.train.step import PlainStep
from samsvae.train.validator import ValidElbo, valid_elbo

QUICK: dict[str, Any] = {
    "max_steps": 40,
    "batch_size": 64,
    "n_particles": 2,
    "learning_rate": 1e-2,
    "validate_every": 8,
    "checkpoint_every": 7,
    "progress": False,
}


def fitted(screen: samsvae.Screen, path: Path | None = None, **settings: Any) -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(screen, **SMALL).train(**QUICK | settings, checkpoint=path)


def mechanism_of(model: Estimator) -> AdditiveShift:
    assert isinstance(model.module.mechanism, AdditiveShift)
    return model.module.mechanism


def test_the_phases_are_told(screen: samsvae.Screen) -> None:
    model = fitted(screen)
    history = model.history
    assert history["step"].tolist() == [8, 16, 20, 24, 32, 40]
    assert history["is_aligned"].tolist() == 3 * [False] + 3 * [True]
    assert history["mask_sparsity"].isna().tolist() == 3 * [True] + 3 * [False]
    assert (history["mask"][:3] == 0).all()  # open masks cost nothing
    assert history["is_best"].iloc[3]  # whatever was before: those were models of another kind
    assert not mechanism_of(model).masks_fixed
    alone = fitted(screen, alignment="none").history
    assert "is_aligned" not in alone
    assert (alone["mask"] != 0).all()


def test_some_perturbations_tell_the_axes_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands those that shift the cell surely are enough, and the others may do nothing."""
    rng = np.random.default_rng(0)
    planted = rng.choice([-1.0, 2.0, *8 * [0.0]], (300, 4))
    planted[100:] = 0
    scale = np.full(planted.shape, 0.1)
    turned = (planted + 0.01 * rng.normal(size=planted.shape)) @ np.linalg.qr(
        rng.normal(size=(4, 4))
    )[0]
    monkeypatch.setattr(alignment, "_MAX_COLUMNS", 60)
    offset, matrix = alignment._sparsest_axes(turned, scale, 0)
    found = (turned - offset) @ matrix
    assert (np.abs(found) > 0.3).sum() == (planted != 0).sum()


def test_open_masks_are_those_of_cpa_vae(screen: samsvae.Screen) -> None:
    """The first phase is the training of CPA-VAE, to the numbers."""
    whole = fitted(screen, max_steps=80)
    other = samsvae.CPAVAE(screen, n_latent=4, n_hidden=8).train(**QUICK)
    ours, theirs = whole.history[:5]["valid_elbo"], other.history["valid_elbo"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", [samsvae.CPAVAE, samsvae.ConditionalVAE])
def test_what_infers_no_mask_has_one_phase(kind: type[Estimator], screen: samsvae.Screen) -> None:
    model = kind(screen, n_latent=4, n_hidden=8).train(**QUICK)
    assert "is_aligned" not in model.history


class PowerCutError(Exception):
    """Stands for a machine that fails."""


@pytest.mark.parametrize("fails_at", [9, 20, 21, 30])
def test_a_run_goes_on_in_either_phase(
    screen: samsvae.Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    a_run_goes_on(screen, tmp_path, monkeypatch, fails_at)


def a_run_goes_on(
    screen: samsvae.Screen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
    **settings: Any,
) -> None:
    model = fitted(screen, tmp_path / "whole", **settings)
    steps: list[int] = []
    taken = PlainStep.__call__

    def failing(step: PlainStep, *given: Any) -> Any:
        steps.append(0)
        if len(steps) == fails_at:
            raise PowerCutError
        return taken(step, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PlainStep, "__call__", failing)
        with pytest.raises(PowerCutError):
            fitted(screen, tmp_path / "part", **settings)
    resumed = fitted(screen, tmp_path / "part", resume=True, **settings)
    ours, theirs = (m.history.drop(columns="cells_per_second") for m in (resumed, model))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    state = model.module.state_dict()
    assert all(torch.equal(value, state[k]) for k, value in resumed.module.state_dict().items())


def test_a_longer_run_goes_on_from_an_aligned_one(screen: samsvae.Screen, tmp_path: Path) -> None:
    fitted(screen, tmp_path / "run")
    with pytest.warns(UserWarning, match="aligned after step 20; .* 100 steps .* after step 50"):
        longer = fitted(screen, tmp_path / "run", resume=True, max_steps=100)
    assert longer.history["step"].iloc[-1] == 100
    assert longer.history["is_aligned"].tolist()[:4] == [False, False, False, True]
    assert longer.history["is_aligned"].iloc[3:].all()


def test_a_shorter_run_gives_the_longer_one_and_says_so(
    screen: samsvae.Screen, tmp_path: Path
) -> None:
    whole = fitted(screen, tmp_path / "run")
    with pytest.warns(UserWarning, match="of step 40, beyond the 30 steps .* no step is taken"):
        shorter = fitted(screen, tmp_path / "run", resume=True, max_steps=30)
    assert shorter.history["step"].iloc[-1] == 40
    state = whole.module.state_dict()
    assert all(torch.equal(value, state[k]) for k, value in shorter.module.state_dict().items())


@pytest.mark.parametrize(("max_steps", "aligned_after"), [(24, 17), (16, 16), (60, None)])
def test_a_run_that_is_not_yet_aligned_goes_on_with_other_steps(
    screen: samsvae.Screen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_steps: int,
    aligned_after: int | None,
) -> None:
    """It is aligned where a new run is, or at once if that was before."""
    taken, steps = PlainStep.__call__, []

    def stopping(own: PlainStep, *given: Any) -> Any:
        steps.append(0)
        if len(steps) == 16:
            signal.raise_signal(signal.SIGINT)
        return taken(own, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PlainStep, "__call__", stopping)
        with pytest.raises(samsvae.TrainingInterrupted):
            fitted(screen, tmp_path / "part")
    note = f"aligned after step {aligned_after}; a new run of {max_steps} steps"
    with pytest.warns(UserWarning, match=note) if aligned_after else nullcontext():
        model = fitted(screen, tmp_path / "part", resume=True, max_steps=max_steps)
    assert not mechanism_of(model).masks_fixed
    if aligned_after is None:
        whole = fitted(screen, max_steps=max_steps).history["valid_elbo"].to_list()
        assert model.history["valid_elbo"].to_list() == whole
    elif aligned_after < max_steps:
        aligned = model.history.loc[model.history["is_aligned"], "step"]
        assert aligned.iloc[0] > aligned_after


@pytest.fixture
def first_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the validation ELBO fall in both phases."""

    def falling(*given: Any) -> ValidElbo:
        elbo, mc_se = valid_elbo(*given)
        return ValidElbo(-elbo, mc_se)

    monkeypatch.setattr(validator, "valid_elbo", falling)


@pytest.mark.usefixtures("first_is_best")
def test_each_phase_ends_by_itself(screen: samsvae.Screen, tmp_path: Path) -> None:
    """Its best is the first evaluation, five others follow, and so does the other phase."""
    model = fitted(screen, tmp_path / "run", max_steps=400)
    history = model.history
    assert history["step"].tolist() == list(range(8, 104, 8))
    assert history["is_aligned"].tolist() == 6 * [False] + 6 * [True]
    assert history.loc[history["is_best"], "step"].tolist() == [8, 56]
    with warnings.catch_warnings(action="error"):  # a new run of 200 steps would do the same
        same = fitted(screen, tmp_path / "run", resume=True, max_steps=200)
    assert len(same.history) == 12
    with pytest.warns(UserWarning, match="of step 96, beyond the 90 steps"):
        fitted(screen, tmp_path / "run", resume=True, max_steps=90)
    fixed = fitted(screen, max_steps=120, patience=None).history
    assert fixed["is_aligned"].sum() == 8
    assert fixed["step"].iloc[-1] == 120


@pytest.mark.usefixtures("first_is_best")
@pytest.mark.parametrize("fails_at", [40, 48, 49, 70])
def test_a_run_whose_phases_end_by_themselves_goes_on(
    screen: samsvae.Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    a_run_goes_on(screen, tmp_path, monkeypatch, fails_at, max_steps=400)


@pytest.mark.parametrize(("step", "validated"), [(10, True), (10, False), (30, True)])
def test_an_interrupted_model_answers_with_masks(
    screen: samsvae.Screen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    validated: bool,
) -> None:
    if not validated:
        split = np.where(np.asarray(screen.split) == "valid", "unused", screen.split)
        screen = screen.with_split(split.tolist())
    model = samsvae.SAMSVAE(screen, **SMALL)
    taken, steps = PlainStep.__call__, []

    def interrupting(own: PlainStep, *given: Any) -> Any:
        steps.append(0)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return taken(own, *given)

    monkeypatch.setattr(PlainStep, "__call__", interrupting)
    with pytest.raises(samsvae.TrainingInterrupted):
        model.train(**QUICK, checkpoint=tmp_path / "checkpoint")
    assert not mechanism_of(model).masks_fixed
    asked: dict[str, Any] = {"n_particles": 50, "n_draws": 0, "progress": False}
    effects = model.effects(["A"], **asked)
    model.save(tmp_path / "model")
    loaded = samsvae.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.effects(["A"], **asked).X, effects.X)
    assert not np.isclose(model.mask_probabilities(), 0.5).all()  # they start from evidence


@pytest.mark.parametrize("kind", MASKS)
def test_masks_start_from_evidence(kind: type) -> None:
    mask = kind(3, 4, MaskPrior(prob=0.1, a=1.0, b=9.0))
    evidence = torch.tensor([[4.0, -1.0, 0.0, 90.0]] * 3)
    mask.update(evidence, torch.tensor([True, True, False]), logit_bound=8.0)
    expected = (mask.prior_logit() + evidence).clamp(-8, 8)
    torch.testing.assert_close(mask.logit().detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_share_is_that_of_the_evidence_and_falls_to_nothing_without() -> None:
    """Empirical Bayes: alpha is learned from the entries of the perturbations that were seen."""
    mask = BernoulliMask(10, 10, MaskPrior(prob=None))
    evidence = torch.full((10, 10), -2.0)
    evidence[:3, :5] = 30
    seen = torch.arange(10) < 6
    mask.update(evidence, seen)
    assert mask.prior_logit().sigmoid()[0, 0].item() == pytest.approx(15 / 60, abs=0.05)
    nothing = BernoulliMask(10, 10, MaskPrior(prob=None))
    nothing.update(torch.full((10, 10), -0.5), seen)
    assert nothing.prior_logit().sigmoid().max() < 0.03  # one entry of 60, at most


def test_the_prior_is_learned(screen: samsvae.Screen) -> None:
    small = {**SMALL, "mask_prob": None}
    model = samsvae.SAMSVAE(screen, **small)
    mask = mechanism_of(model).mask
    assert isinstance(mask, BernoulliMask)
    mask.update(torch.full(mask.shape, -8.0), torch.ones(mask.shape[0], dtype=torch.bool))
    model.train(**QUICK)
    learned = model.inclusion()["prior"]
    assert learned.nunique() == 1
    assert 0 < learned.iloc[0] < 1


def test_alignment_is_one_that_there_is(screen: samsvae.Screen) -> None:
    with pytest.raises(samsvae.InputError, match="no alignment 'rotated': the nearest is 'rotate'"):
        fitted(read(make_adata()), alignment="rotated")


@pytest.mark.long
@pytest.mark.slow
def test_mechanisms_are_found_where_no_axis_is_given() -> None:
    """All latent dimensions drive all genes: nothing but the sparsity of shifts tells the axes."""
    screen = simulated_screen(decoder="mixed", n_perturbations=30, n_combinations=0, seed=3)
    sizes = {"n_latent": 16, "n_hidden": 48}
    training = {"max_steps": 1600, "learning_rate": 5e-3, "progress": False}
    model = samsvae.SAMSVAE(screen, **sizes).train(**training)
    found = recovery(model, screen)
    assert found.mask_f1 > 0.85
    assert found.mask_precision > 0.85


def shifts(n: int, share: float, origin: float) -> np.ndarray:
    """Return estimates on an axis, of which a share lies at an origin."""
    rng = np.random.default_rng(0)
    mean = np.where(np.arange(n) < share * n, origin, rng.uniform(-5, 5, n))
    mean += 0.05 * rng.normal(size=n)
    return mean


def test_the_origin_moves_where_most_of_many_perturbations_are() -> None:
    assert shared_offset(shifts(20, 0.8, 0.7)) == pytest.approx(0.7, abs=0.05)
    assert shared_offset(shifts(8, 0.8, 0.7)) == pytest.approx(0.7, abs=0.05)
    assert shared_offset(shifts(20, 0.8, 0.0)) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("n", "share"), [(1, 1), (2, 1), (5, 1), (7, 1), (20, 0.4), (20, 0)])
def test_the_origin_stays_at_control_where_few_agree(n: int, share: float) -> None:
    assert shared_offset(shifts(n, share, 0.7)) == 0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_few_perturbations_have_the_effects_of_a_model_without_masks(n: int) -> None:
    made = simulated_screen(
        n_perturbations=8,
        n_combinations=0,
        n_latent=5,
        n_genes=100,
        cells_per_condition=300,
        n_control=600,
        shift_scale=3.0,
        library_size=1000.0,
        seed=0,
    )
    names = list(made.truth.mask.index)[:n]
    own = np.isin(np.array(made.condition_names)[made.condition], ["control", *names])
    screen = samsvae.Screen.from_anndata(made.to_anndata()[own], split_key="split")
    true = made.truth.effects(names)
    sizes = []
    for kind in (samsvae.CPAVAE, samsvae.SAMSVAE):
        model = kind(screen, n_latent=8, n_hidden=32)
        model.train(max_steps=800, batch_size=256, learning_rate=2e-3, progress=False)
        effects = model.effects(
            names, scale="normalized", n_particles=500, n_draws=0, progress=False
        ).to_df()
        r = [np.corrcoef(effects.loc[name], true.loc[name])[0, 1] for name in names]
        assert min(r) > 0.8
        sizes.append((effects.abs().sum(axis=1) / true.abs().sum(axis=1)).to_numpy())
    assert (sizes[1] > 0.6 * sizes[0]).all()
