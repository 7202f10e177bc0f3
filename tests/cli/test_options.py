"""Options of commands that ask a model are the arguments of the Python functions: defined once."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import samsvae
from helpers.command_line import Call
from samsvae.cli.app import app
from samsvae.settings import questions
from samsvae.settings.experiment import RUN
from samsvae.settings.fields import Settings
from samsvae.settings.screen import ScreenSettings

SHARED = (questions.OutputSettings, questions.DeviceSettings)
FUNCTIONS: dict[str, tuple[Callable, tuple[type, ...]]] = {
    "effects": (samsvae.SAMSVAE.effects, (questions.EffectSettings,)),
    "simulate": (samsvae.SAMSVAE.simulate, (questions.SimulationSettings,)),
    "combinations": (samsvae.combinations, (questions.CombinationSettings,)),
    "discoveries": (samsvae.discoveries, (questions.DiscoverySettings,)),
    "contrast": (samsvae.contrast, (questions.ContrastSettings,)),
    "regulators": (samsvae.regulators, (questions.RegulatorSettings,)),
    "mechanisms": (samsvae.SAMSVAE.mechanisms, (questions.MechanismSettings,)),
    "sgrnas": (samsvae.sgrnas, (questions.SgrnaSettings,)),
    "programs": (samsvae.SAMSVAE.programs, (questions.ProgramSettings,)),
    "responders": (samsvae.SAMSVAE.responders, (questions.ResponderSettings,)),
    "report": (samsvae.write_report, (questions.ReportSettings,)),
    "evaluate": (samsvae.evaluate, (questions.ScoreSettings,)),
}


def options(command: str) -> dict[str, tuple[object, str]]:
    """Return default and help of each option of a command."""
    arguments = app[command].assemble_argument_collection(parse_docstring=True)
    return {
        argument.name.removeprefix("--").replace("-", "_"): (
            argument.field_info.default,
            " ".join(str(argument.parameter.help).split()),
        )
        for argument in arguments
        if argument.name.startswith("--")
    }


def documented(source: type) -> dict[str, str]:
    """Return the help of each setting, as its docstring has it."""
    helps: dict[str, str] = {}
    for kind in reversed(source.__mro__):
        lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
        names = set(getattr(kind, "__dataclass_fields__", {}))
        name = ""
        for line in lines:
            if line in names:
                name = line
                helps[name] = ""
            elif name and line.startswith("    "):
                helps[name] = f"{helps[name]} {line.strip()}".strip()
    return helps


@pytest.mark.parametrize("command", FUNCTIONS)
def test_an_option_is_the_argument_of_the_function(command: str) -> None:
    function, sources = FUNCTIONS[command]
    taken = options(command)
    arguments = inspect.signature(function).parameters
    for name, field in Settings(*sources).fields.items():
        help_ = next(helps[name] for helps in map(documented, sources) if name in helps)
        assert taken[name] == (field.default, help_), name
        assert arguments[name].default == field.default, name


@pytest.mark.parametrize("command", FUNCTIONS)
def test_no_option_is_defined_a_second_time(command: str) -> None:
    """But for files and for whom they are of, all options are those of settings."""
    own = {
        "out",
        "cells",
        "gene_sets",
        "enrichment",
        "rates",
        "by_condition",
        "split",
        "baselines",
        "report",
    }
    every = (
        kind
        for kind in vars(questions).values()
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    )
    names = {name for kind in (*every, ScreenSettings) for name in kind.__dataclass_fields__}
    assert set(options(command)) - names <= own


def test_shared_options_are_the_same_everywhere() -> None:
    for source in (*SHARED, questions.SeedSettings, questions.ProgressSettings):
        (name,) = source.__dataclass_fields__
        helps = {options(command)[name][1] for command in FUNCTIONS if name in options(command)}
        assert helps == {documented(source)[name]}


def test_paths_that_the_shell_has_not_expanded(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run, tmp_path / "run")
    shutil.copy("data.h5ad", tmp_path / "data.h5ad")
    (tmp_path / "s.toml").write_text("max_steps = 2\n")
    lines = (
        "train ~/data.h5ad --out ~/new --config ~/s.toml --split-key split --no-progress",
        "effects ~/run A --n-particles 4 --no-progress --out ~/a.csv",
        "effects ~/run A --n-particles 4 --no-progress --out ~/a.h5ad",
        "simulate ~/run A --n-cells 2 --out ~/s.h5ad",
        "inspect ~/data.h5ad",
        "datasets stand-in norman --scale 0.02 --out ~/n.h5ad",
    )
    for line in lines:
        assert call(line)[::2] == (0, []), line
    written = {"new", "a.csv", "a.h5ad", "s.h5ad", "n.h5ad", "n.annotation.json"}
    assert written <= {path.name for path in tmp_path.iterdir()}
    assert not Path("~").exists()


@pytest.mark.parametrize("command", ["train", "compare", "discoveries", "sgrnas"])
def test_the_help_of_labels_is_of_labels(command: str, call: Call) -> None:
    done = call(f"{command} --help")
    assert "--control STR..." in done.out
    assert "--batch-key STR..." in done.out
    assert "STR|" not in done.out
    assert "--empty" not in done.out


@pytest.mark.parametrize("command", ["train data.h5ad --out x", "compare data.h5ad --out x"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("--max-steps 60 --set max_steps=400", "max_steps is given as 60 .--max-steps. and as 400"),
        ("--set max_steps=60 --set max-steps=400", "--set gives max_steps as '60' and '400'"),
        ("--control NT --set control=ctrl", "control is given as"),
    ],
)
def test_two_values_of_a_setting(command: str, values: str, message: str, call: Call) -> None:
    done = call(f"{command} {values}")
    assert done.code == 2
    (line,) = done.errors
    assert re.search(message, line)
    assert line.endswith("give one")


def test_the_same_value_twice_is_one() -> None:
    assert RUN.given({"max_steps": 60}, ["max-steps=60", "max_steps=60"]) == {"max_steps": 60}
