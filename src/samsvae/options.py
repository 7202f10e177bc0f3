"""Settings by name: from options, `--set name=value` and TOML files, each checked by its type.

A setting is defined once, by the signature and the docstring of what takes it. Here it becomes an
option of the command line, a key of a TOML file and a name for `--set`.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import cyclopts

from samsvae.errors import InputError, unknown
from samsvae.signature import extended, keywords

Command = TypeVar("Command", bound=Callable[..., Any])

_SECTION = re.compile(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", re.S | re.M)


class Options:
    """The settings of several functions or classes, by name.

    Parameters
    ----------
    sources
        What takes the settings: their keyword-only parameters.
    without
        Names that are not settings.
    """

    def __init__(self, *sources: Callable[..., Any], without: Iterable[str] = ()) -> None:
        self.sources = sources
        self.parameters: dict[str, inspect.Parameter] = {}
        for source in sources:
            for parameter in keywords(source):
                if parameter.name not in without:
                    self.parameters[parameter.name] = parameter

    def of(self, source: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that are settings of one source."""
        names = {p.name for p in keywords(source)}
        return {name: value for name, value in values.items() if name in names}

    def taken_by(self, command: Command) -> Command:
        """Make a command `f(..., **settings)` show the settings as options of its own.

        It receives those that were given, and only those.
        """
        signature = extended(command, map(_strict, self.parameters.values()))
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        command.__doc__ = "\n".join([inspect.getdoc(command) or "", *self._documentation()])
        return command

    def _documentation(self) -> list[str]:
        documents = dict[str, None]()  # each once, in order: classes share their bases
        for source in self.sources:
            classes = source.__mro__[:-1] if isinstance(source, type) else (source,)
            for document in classes:
                found = _SECTION.search(inspect.getdoc(document) or "")
                documents |= {found[1].rstrip(): None} if found else {}
        return list(documents)

    def assigned(self, assignments: Iterable[str]) -> dict[str, Any]:
        """Return the settings of `--set name=value`.

        Raises
        ------
        InputError
            If a name is unknown (with the nearest known one) or a value has the wrong type.
        """
        texts = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise InputError(f"--set {assignment!r}: expected name=value")
            texts[name.strip().replace("-", "_")] = text.strip()
        return self.checked(texts, "of --set")

    def checked(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return values converted to the types of the settings they name."""
        return {name: self._checked(name, value, where) for name, value in values.items()}

    def _checked(self, name: str, value: Any, where: str) -> Any:
        if name not in self.parameters:
            raise unknown(f"setting {where}:", name, list(self.parameters))
        annotation = self.parameters[name].annotation
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            return cyclopts.convert(annotation, [text], converter=_convert)
        except (cyclopts.CycloptsError, ValueError, TypeError) as error:
            kind = getattr(annotation, "__name__", str(annotation))
            raise InputError(f"{name} = {value!r} {where}: expected {kind}") from error

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings: the given values, and the defaults of the others."""
        return {name: values.get(name, p.default) for name, p in self.parameters.items()}


def _strict(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter of which a command takes no fraction for a whole number."""
    if parameter.annotation not in (int, int | None):
        return parameter
    whole = cyclopts.Parameter(converter=lambda _, tokens: _convert(int, tokens[0].value))
    return parameter.replace(annotation=Annotated[parameter.annotation, whole])


def _convert(kind: Any, text: str) -> Any:
    """Convert one value; cyclopts would round 4.5 to a whole number."""
    if kind is not int:
        return cyclopts.convert(kind, [text])
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"unable to convert {text!r} into int, a whole number") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If there is no such file, or it is not TOML.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected a TOML file of settings")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not TOML: {error}") from error


def toml(values: Mapping[str, Any]) -> str:
    """Write settings as TOML. None is the absence of a setting, and is left out."""
    lines = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, float):
            text = repr(value)
        else:  # JSON's strings, integers and booleans are TOML's, but for one character
            text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
            text = text.replace("\x7f", "\\u007f")
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
