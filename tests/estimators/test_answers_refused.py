"""Answers that would be wrong are errors; a condition is understood however it is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae import InputError, Screen
from samsvae.storage import tensors as files
from samsvae.train import validator
from samsvae.train.validator import ValidElbo

QUICK: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 6,
    "checkpoint_every": 3,
    "validate_every": 3,
    "progress": False,
}
ASKED: dict[str, Any] = {"n_particles": 10, "n_draws": 0, "progress": False}


def test_parameters_that_are_no_numbers_have_no_answer(screen: Screen, tmp_path: Path) -> None:
    model = samsvae.SAMSVAE(screen, **SMALL).train(**QUICK)
    with torch.no_grad():
        model.module.likelihood.linear.weight[3, 2] = float("nan")
    answers: list[Callable[[], object]] = [
        lambda: model.iwelbo(screen.test, n_particles=3, progress=False),
        lambda: model.effects(["A"], **ASKED),
        lambda: model.simulate(["A"], n_cells=3),
        lambda: model.latent(screen.test),
    ]
    for answer in answers:
        with pytest.raises(InputError, match=r"not finite, in 'likelihood.linear.weight'"):
            answer()
    model.save(tmp_path)
    with pytest.raises(InputError, match="not finite"):
        samsvae.load(tmp_path)


# Resuming.


def other_sizes(screen: Screen) -> Screen:
    return replace(screen, library_size=screen.library_size + 1)


def other_genes(screen: Screen) -> Screen:
    genes = ("other", *screen.genes[1:])
    return replace(screen, registry=replace(screen.registry, genes=genes))


def other_perturbations(screen: Screen) -> Screen:
    names = ("A", "B", "D")
    conditions = tuple(name.replace("C", "D") for name in screen.condition_names)
    registry = replace(screen.registry, perturbations=names)
    return replace(screen, registry=registry, condition_names=conditions)


def other_batches(screen: Screen) -> Screen:
    return replace(screen, batch=1 - screen.batch)


OTHERS = [other_sizes, other_genes, other_perturbations, other_batches]


@pytest.mark.parametrize("other", OTHERS, ids=lambda one: one.__name__)
def test_other_data_are_not_resumed(other: Callable[[Screen], Screen], tmp_path: Path) -> None:
    screen = Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    settings = {**QUICK, "checkpoint": tmp_path / "checkpoint"}
    samsvae.SAMSVAE(screen, **SMALL).train(**settings)
    samsvae.SAMSVAE(screen, **SMALL).train(**settings, resume=True)
    with pytest.raises(InputError, match="another model or other data"):
        samsvae.SAMSVAE(other(screen), **SMALL).train(**settings, resume=True)


def test_a_checkpoint_from_before_a_setting_was_known_goes_on(
    screen: Screen, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    settings = {**QUICK, "checkpoint": path}
    samsvae.SAMSVAE(screen, **SMALL).train(**settings)
    tensors, header = files.read(path)
    del header["settings"]["warmup_steps"]
    files.write(path, tensors, header)
    samsvae.SAMSVAE(screen, **SMALL).train(**settings, resume=True)
    with pytest.raises(InputError, match="warmup_steps 0, not 5"):
        samsvae.SAMSVAE(screen, **SMALL).train(**settings, resume=True, warmup_steps=5)


# Ends of training.


def test_a_validation_elbo_that_is_no_number_ends_training(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validator, "valid_elbo", lambda *_: ValidElbo(math.nan, math.nan))
    with pytest.raises(samsvae.NonFiniteError, match=r"step 3 .*validation ELBO nan"):
        samsvae.SAMSVAE(screen, **SMALL).train(**QUICK)


def test_an_error_in_training_is_told_whatever_cleaning_up_says(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("in cleaning up")

    def breaks(*_: object) -> float:
        raise ZeroDivisionError("in training")

    monkeypatch.setattr(samsvae.SAMSVAE, "_keep_control", fails)
    monkeypatch.setattr(validator, "valid_elbo", breaks)
    with pytest.raises(ZeroDivisionError, match="in training"):
        samsvae.SAMSVAE(screen, **SMALL).train(**QUICK)


def test_the_history_tells_which_evaluation_is_the_best(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([-3.0, -2.0, -4.0, -1.0])
    monkeypatch.setattr(validator, "valid_elbo", lambda *_: ValidElbo(next(told), 0.01))
    model = samsvae.SAMSVAE(screen, **SMALL).train(**{**QUICK, "max_steps": 12})
    assert model.history["is_best"].tolist() == [True, True, False, True]


# Names.


def test_a_condition_is_understood_however_it_is_named(
    trained: samsvae.SAMSVAE, screen: Screen
) -> None:
    names: list[Any] = ["A+B", "B+A", ("A", "B"), "A+control+B"]
    additive = samsvae.baselines.Additive(screen)
    effects = trained.effects(["A+B"], **ASKED)
    for name in names:
        one = trained.effects([name], **ASKED)
        np.testing.assert_array_equal(one.X, effects.X)
        np.testing.assert_array_equal(additive.effects([name]).X, additive.effects(["A+B"]).X)
        assert len(screen.of(name)) == len(screen.of("A+B"))
        table = samsvae.differential_expression(screen, [name])
        assert table.notna().all(axis=None)
        found = samsvae.ate_pearson(one.to_df(), screen)
        assert np.isfinite(found.pooled)
        assert trained.simulate([name], n_cells=2).n_obs == 2


def test_numbers_are_names_too() -> None:
    adata = make_adata(labels=("0", "1", "2", "2+1"))
    screen = Screen.from_anndata(adata, control="0", split_key="split")
    model = samsvae.SAMSVAE(screen, **SMALL).train(**QUICK)
    both = model.effects([1, (1, 2)], **ASKED)
    np.testing.assert_array_equal(both.X, model.effects(["1", "2+1"], **ASKED).X)
    np.testing.assert_array_equal(model.effects(1, **ASKED).X, both.X[:1])
    assert samsvae.differential_expression(screen, [2]).notna().all(axis=None)


@pytest.mark.parametrize("name", ["Aa", "A+Bb", ("A", "nobody")])
def test_a_name_that_is_unknown_is_an_error(screen: Screen, name: Any) -> None:
    with pytest.raises(InputError, match=r"no perturbation '.*': (the nearest is|there are)"):
        samsvae.differential_expression(screen, ["A", name])
    with pytest.raises(InputError, match=r"no condition 'A\+C': the nearest"):
        samsvae.differential_expression(screen, ["C+A"])
