"""The settings of a run, of any model, gathered from where they may be given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from samsvae.errors import InputError, listed, unknown
from samsvae.settings.conventions import completed
from samsvae.settings.fields import Settings, read_toml, settings_of
from samsvae.settings.model import MODEL_SETTINGS, ModelChoice
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan

RUN = Settings(ScreenSettings, ModelChoice, *MODEL_SETTINGS.values(), TrainPlan)
"""Those of a run, of any model."""
COMPARED = Settings(ScreenSettings, *MODEL_SETTINGS.values(), TrainPlan)
"""Those of the runs of a comparison, which names its models otherwise."""


def gathered(
    options: Mapping[str, Any], *, assignments: Iterable[str] = (), config: Path | None = None
) -> dict[str, Any]:
    """Return all settings of a run: options win over `--set`, and that over the file.

    A table of the file holds settings of the one model that it is named after.
    """
    where = f"in {str(config)!r}"
    file = {} if config is None else read_toml(config)
    tables = {
        _known(name): RUN.checked(file.pop(name), where)
        for name in [name for name, value in file.items() if isinstance(value, dict)]
    }
    general = RUN.checked(file, where)
    nearer = RUN.assigned(assignments) | dict(options)
    model = ModelChoice(**settings_of(ModelChoice, general | nearer)).model
    return complete(general | tables.get(_known(model), {}) | nearer)


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run of the chosen model: the content of config.toml.

    It is an error if there is no such model, or a setting is of other models.
    """
    model = _known(ModelChoice(**settings_of(ModelChoice, given)).model)
    of_model = Settings(ScreenSettings, ModelChoice, MODEL_SETTINGS[model], TrainPlan)
    foreign = [name for name in given if name not in of_model.fields]
    if foreign:
        takers = [
            name
            for name, source in MODEL_SETTINGS.items()
            if set(foreign) & settings_of(source, given).keys()
        ]
        raise InputError(
            f"the model {model!r} has no setting {listed(foreign)}: leave it out, or take "
            f"another --model, such as {listed(takers)}"
        )
    return of_model.complete(completed(given))


def _known(model: str) -> str:
    """Return the name of a model, if there is one."""
    if model not in MODEL_SETTINGS:
        raise unknown("model", model, list(MODEL_SETTINGS))
    return model
