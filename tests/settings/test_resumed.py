"""A run is resumed with the settings that it was started with, however they are given."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

import samsvae
from helpers.screens import SMALL
from samsvae import InputError
from samsvae.cli.app import app
from samsvae.runs.run import Run
from samsvae.settings.experiment import RUN, gathered
from samsvae.settings.fields import Settings, toml
from samsvae.settings.model import MODEL_SETTINGS
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import MAY_DIFFER, TrainPlan

OF = {
    "convention": "cpa",
    "likelihood": "poisson",
    "mask": "beta_bernoulli",
    "device": "cpu",
}
"""Values of settings whose choices no annotation lists."""
WAYS = ("option", "key", "assignment", "argument")


def values_of(name: str, kind: Any) -> list[Any]:
    """Return values of a setting, others than its default."""
    if name in OF:
        return [OF[name]]
    if kind == tuple[str, ...]:
        return [("batch",), ("one", "two")]
    if get_origin(kind) is Literal:
        return [one for one in get_args(kind) if one != RUN.fields[name].default]
    known = {bool: [not RUN.fields[name].default], int: [3], float: [0.25], str: ["some"]}
    one = next(one for one in get_args(kind) or (kind,) if one is not NoneType)
    return known[one] if one in known else values_of(name, one)


def settings_of_model(model: str, turn: int) -> dict[str, Any]:
    """Return a value of every setting of a model: of several values, one each turn."""
    kinds = Settings(ScreenSettings, MODEL_SETTINGS[model], TrainPlan).types
    values = {name: values_of(name, kind) for name, kind in kinds.items()}
    return {"model": model} | {name: some[turn % len(some)] for name, some in values.items()}


def given(way: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return all settings of a run to which some are given, in some way."""
    names_of_one = {k: v[0] for k, v in settings.items() if isinstance(v, tuple) and len(v) == 1}
    lists = {k: v for k, v in settings.items() if isinstance(v, tuple)}
    if way == "argument":
        return gathered(settings | names_of_one)
    if way == "key":
        (folder / "settings.toml").write_text(toml(settings | names_of_one))
        return gathered({}, config=folder / "settings.toml")
    if way == "assignment":
        one_each = {k: v for k, v in settings.items() if k not in lists}
        return gathered(lists, assignments=[f"{k}={v}" for k, v in one_each.items()])
    words = ["train", "data.h5ad", "--out", "run"]
    for key, one in settings.items():
        option = key.replace("_", "-")
        if isinstance(one, bool):
            off = RUN.fields[key].metadata.get("off", f"no-{option}")
            words.append(f"--{option if one else off}")
        else:
            for text in one if isinstance(one, tuple) else (one,):
                words += [f"--{option}", str(text)]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return gathered(bound.arguments["settings"])


@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("model", MODEL_SETTINGS)
def test_every_setting_is_the_same_when_a_run_is_resumed(
    model: str, turn: int, screen: samsvae.Screen, tmp_path: Path
) -> None:
    values = settings_of_model(model, turn)
    settings = {way: given(way, values, tmp_path) for way in WAYS}
    for way in WAYS:
        run = Run(tmp_path / way)
        run.place.mkdir()
        run.start(settings[way], screen, resume=False)
        assert run.config() == values
        for other in WAYS:
            run.start(settings[other], screen, resume=True)
    defaults = gathered({"model": model})
    for name in values.keys() - {*MAY_DIFFER, "model"}:
        with pytest.raises(InputError, match=f"the run was started with {name} = "):
            run.start(settings[way] | {name: defaults[name]}, screen, resume=True)


@pytest.mark.parametrize(("name", "none"), [("separator", ""), ("control", ())])
def test_a_setting_without_a_value_is_not_read_as_its_default(
    name: str, none: Any, screen: samsvae.Screen, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    for resume in (False, True):
        run.start(gathered({name: None}), screen, resume=resume)
    assert run.config()[name] == none


NUMBERS = {
    "batch_size": np.int64(64),
    "seed": np.int64(3),
    "basal_weight": np.float32(0.3),
    "scale_learning_rate": np.False_,
}


@pytest.mark.parametrize(("name", "value"), NUMBERS.items())
def test_training_with_numpys_numbers_is_resumed(
    name: str, value: Any, screen: samsvae.Screen, tmp_path: Path
) -> None:
    for n_steps in (2, 4):
        model = samsvae.SAMSVAE(screen, **SMALL).train(
            max_steps=n_steps,
            alignment="none",
            progress=False,
            checkpoint=tmp_path / "checkpoint.safetensors",
            resume=True,
            **{name: value},
        )
    assert model.history["step"].iloc[-1] == 4
