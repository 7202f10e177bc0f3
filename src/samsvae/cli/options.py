"""Settings as options of a command."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from samsvae.settings.by_name import Settings, converted


def given(settings: Settings, *, show_default: bool = True) -> Any:
    """Return the type of a command's parameter that takes settings as options of the command.

    The command receives, as a dictionary, those that were given, and only those: what a file of
    settings says is not overruled by a default. Types, defaults and help come from the dataclasses.
    Defaults are not shown where a run has settings of its own.
    """
    members: dict[str, Any] = {
        "__dataclass_fields__": settings.fields,
        "__annotations__": {
            name: Annotated[settings.types[name], _WHOLE]
            for name in settings.fields
            if settings.types[name] in (int, int | None)
        }
        | {
            name: Annotated[bool, Parameter(negative=f"--{field.metadata['off']}")]
            for name, field in settings.fields.items()
            if "off" in field.metadata
        },
        "__new__": lambda _, **values: values,
    }
    parameter = Parameter(name="*", show_default=show_default)
    return Annotated[type("Given", settings.sources, members), parameter]


NOTHING: Any = {}
"""No settings given: the default of such a parameter."""

Assignments = Annotated[list[str] | None, Parameter(name="--set", negative=())]
"""Settings as name=value."""

_WHOLE = Parameter(converter=lambda _, tokens: converted(int, tokens[0].value))
"""Takes no fraction for a whole number."""
