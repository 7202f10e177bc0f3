"""What commands share: options made of settings, opening a run and a screen, printing, writing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from samsvae.errors import shown
from samsvae.settings.fields import Settings, converted
from samsvae.settings.questions import DeviceSettings, OutputSettings
from samsvae.settings.screen import ScreenSettings

if TYPE_CHECKING:  # help and completion do without pandas and torch
    import pandas as pd

    from samsvae.estimators.base import Estimator

console = Console(markup=False, emoji=False)  # a name may hold brackets, or be like HLA:b:27


def given(settings: Settings, *, show_default: bool = True) -> Any:
    """Return the type of a command's parameter that takes settings as options of the command.

    The command receives a dictionary with the settings that were given, and no others: defaults do
    not override a file of settings, and are not shown where a run has settings of its own. Types,
    defaults and help come from the dataclasses.
    """
    members: dict[str, Any] = {
        "__dataclass_fields__": settings.fields,
        "__annotations__": settings.types  # without bounds, which the settings check themselves
        | {
            name: Annotated[kind, _WHOLE]
            for name, kind in settings.types.items()
            if kind in (int, int | None)
        }
        | {
            name: Annotated[kind, Parameter(negative=())]  # no --empty-control
            for name, kind in settings.types.items()
            if kind == tuple[str, ...]
        }
        | {
            name: Annotated[bool, Parameter(negative=f"--{field.metadata['off']}")]
            for name, field in settings.fields.items()
            if "off" in field.metadata
        },
        "__new__": lambda _, **values: values,
        "__get_pydantic_core_schema__": classmethod(_any),  # cyclopts would have pydantic check it
    }
    parameter = Parameter(name="*", show_default=show_default)
    return Annotated[type("Given", settings.sources, members), parameter]


def _any(*_: Any) -> Any:
    from pydantic_core import core_schema

    return core_schema.any_schema()


_WHOLE = Parameter(converter=lambda _, tokens: converted(int, tokens[0].value))
"""Accepts whole numbers only: cyclopts would round."""
NOTHING: Any = {}
"""No settings given: the default of a parameter of settings."""


RunPath = Annotated[Path, Parameter(help="Run directory of samsvae train.")]
_DATA = "The screen that the run was trained on; read with the keys and the split of the run."
DataPath = Annotated[Path, Parameter(help=_DATA)]
_FILE = "The screen: a file that samsvae inspect can read, such as .h5ad."
FilePath = Annotated[Path, Parameter(help=_FILE)]
_CONDITIONS = 'Such as KLF1, or "KLF1+CEBPA"; by default all conditions of the training cells.'
Conditions = Annotated[str, Parameter(help=_CONDITIONS)]
_CONDITION = 'Such as KLF1, or "KLF1+CEBPA".'
Condition = Annotated[str, Parameter(help=_CONDITION)]
_CONFIG = (
    "TOML file of settings; options take precedence. A table in it, such as [cpa-vae], applies to "
    "that model only."
)
ConfigPath = Annotated[Path | None, Parameter(help=_CONFIG)]
Assignments = Annotated[
    list[str] | None,
    Parameter(name="--set", negative=(), help="A setting, as name=value; may be repeated."),
]
Report = Annotated[bool, Parameter(help="Write report.html at the end.")]
Keys = given(Settings(ScreenSettings), show_default=False)
"""How a screen is read, where that differs from its run."""


def opened(
    run: Path, settings: Mapping[str, Any], data: Path | None = None, keys: Any = NOTHING
) -> tuple[Estimator, Any]:
    """Return the model of a run, and a screen (if any), read with the keys of the run."""
    from samsvae.runs.run import Run

    model = Run(run).model(DeviceSettings.among(settings).device)
    return model, None if data is None else Run(run).screen(data, keys)


_LASTING = ExitStack()


def until_the_end(context: AbstractContextManager[None]) -> None:
    """Enter a context that lasts until the command ends."""
    _LASTING.enter_context(context)


def end() -> None:
    """Leave what was entered until the end of the command."""
    _LASTING.close()


def check_outputs(settings: Mapping[str, Any], *paths: Path | None, h5ad: bool = False) -> None:
    """Raise if tables cannot be written to files; None stands for no file."""
    from samsvae.storage.tables import SUFFIXES, check_parquet

    for path in paths:
        if path is not None:
            check_output(path, (*SUFFIXES, ".h5ad") if h5ad else SUFFIXES, settings)
            check_parquet(path)


def check_output(path: Path, suffixes: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise if a file cannot be written; nobody else writes it until the command ends."""
    from samsvae.storage.files import check_new_file, expanded
    from samsvae.storage.locks import only_writer

    check_new_file(path, suffixes, overwrite=OutputSettings.among(settings).overwrite)
    until_the_end(only_writer(expanded(path)))


def say(text: str) -> None:
    """Print lines as they are, but for characters that steer the terminal."""
    lines = (shown(line, most=1000) for line in text.split("\n"))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)  # commands can be copied


def say_cautions(model: Estimator, screen: Any = None, scores: pd.DataFrame | None = None) -> None:
    """Print what speaks against the answers: in full what is serious, the rest by its titles.

    `scores` are those of `samsvae.evaluate`, if the model was just evaluated.
    """
    from samsvae.estimators.cautions import Cautions

    found = Cautions(model).found(screen)
    if scores is not None:
        from samsvae.report.tables import cautions_of_scores
        from samsvae.runs.reporting import reported_scores

        found = [*found, *cautions_of_scores(reported_scores(scores, [model.name]))]
    for one in found:
        if one.is_serious:
            say(f"caution: {one.title}. {one.text}")
    others = [one.title[:1].lower() + one.title[1:] for one in found if not one.is_serious]
    if others:
        say(f"to keep in mind: {', '.join(others)} (model.cautions(screen), or the report)")


def write_rows(
    path: Path | None,
    tables: Iterable[pd.DataFrame],
    *,
    obs: pd.DataFrame | None = None,
    n_total: int | None = None,
) -> None:
    """Write tables of the same columns to one file, if any, and say how many rows they have.

    By the file's suffix CSV or parquet, with one table in memory at a time, or AnnData with `obs`,
    see `samsvae.export.as_anndata`. `n_total` is the number of rows before some were left out.
    """
    if path is None:
        return
    from samsvae.storage.tables import write_h5ad, write_table

    if path.suffix == ".h5ad":
        import pandas as pd

        from samsvae.export.tables import as_anndata

        parts = list(tables)
        table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        write_h5ad(path, as_anndata(table, obs=obs))
        n_rows = len(table)
    else:
        n_rows = write_table(path, tables)
    of_total = "" if n_total is None else f" of {n_total:,}"
    say(f"{n_rows:,}{of_total} rows written to {path}")
