"""Where the command line prints, and says what it wrote.

Settings as options of a command.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from samsvae.errors import shown
from samsvae.settings.fields import Settings, converted

if TYPE_CHECKING:
    import pandas as pd

console = Console(markup=False, emoji=False)  # a name may hold brackets, or be like HLA:b:27


def say(text: str) -> None:
    """Print lines as they are, but for what would steer the terminal."""
    lines = (shown(line, most=1000) for line in text.split("\n"))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)  # commands can be copied


def write_rows(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables one after the other, and say how many rows they have."""
    say(f"{written(path, tables):,} rows written to {path}")


def written(path: Path, tables: Iterable[pd.DataFrame], *, obs: pd.DataFrame | None = None) -> int:
    """Write tables one after the other, and return how many rows they have.

    Parameters
    ----------
    path
        By its ending CSV, parquet, or AnnData (.h5ad), as `samsvae.export.as_anndata` makes it.
    tables
        Of the same columns.
    obs
        Of the rows of the AnnData, see there.
    """
    from samsvae.storage.tables import write_table  # pandas, which --help does without

    if path.suffix != ".h5ad":
        return write_table(path, tables)
    import pandas as pd

    from samsvae.export.tables import as_anndata
    from samsvae.storage.tables import write_h5ad

    parts = list(tables)
    whole = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    write_h5ad(path, as_anndata(whole, obs=obs))
    return len(whole)


def given(settings: Settings, *, show_default: bool = True) -> Any:
    """Return the type of a command's parameter that takes settings as options of the command.

    The command receives, as a dictionary, those that were given, and only those: what a file of
    settings says is not overruled by a default. Types, defaults and help come from the dataclasses.
    Defaults are not shown where a run has settings of its own.
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


NOTHING: Any = {}
"""No settings given: the default of such a parameter."""

Assignments = Annotated[list[str] | None, Parameter(name="--set", negative=())]
"""Settings as name=value."""

_WHOLE = Parameter(converter=lambda _, tokens: converted(int, tokens[0].value))
"""Takes no fraction for a whole number."""
