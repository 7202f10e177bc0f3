"""Settings by name, from outside (checked by type), for functions and in TOML files."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tomli_w

from samsvae._deprecated import renamed_settings
from samsvae.errors import InputError, unknown
from samsvae.settings.arguments import in_words
from samsvae.storage.files import expanded, read_text

_SHARED = ("device", "seed", "progress")


class Settings:
    """The settings of several dataclasses, by name.

    The dataclasses may share bases, but no two of them may define the same name, which would be
    ambiguous.

    >>> from samsvae.settings.model import ModelChoice, SAMSVAESettings
    >>> settings = Settings(ModelChoice, SAMSVAESettings)
    >>> settings.assigned(["n-latent=20"])
    {'n_latent': 20}
    """

    def __init__(self, *sources: type) -> None:
        self.sources = sources
        self.types: dict[str, Any] = {}
        self.fields: dict[str, dataclasses.Field] = {}
        for source in sources:
            for field in _fields(source):
                first = self.fields.setdefault(field.name, field)
                if first is not field:  # a dataclass passes its fields on to its subclasses
                    raise TypeError(f"the setting {field.name!r} is defined more than once")
            self.types |= get_type_hints(source)
        texts = {
            k: f.metadata["as_text"] for k, f in self.fields.items() if "as_text" in f.metadata
        }
        self.types |= texts  # of settings that have another type where they are given as text

    def assigned(self, assignments: Iterable[str]) -> dict[str, Any]:
        """Return the settings of `--set name=value`."""
        texts: dict[str, str] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise InputError(f"--set {assignment!r}: expected name=value")
            name, text = name.strip().replace("-", "_"), text.strip()
            if texts.setdefault(name, text) != text:
                raise InputError(f"--set gives {name} as {texts[name]!r} and {text!r}: give one")
        return self.checked(texts, "of --set")

    def given(self, options: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
        """Return the settings that options and `--set` give; two values of one are an error."""
        assigned = self.assigned(assignments)
        for name in assigned.keys() & options.keys():
            if assigned[name] != options[name]:
                raise InputError(
                    f"{name} is given as {options[name]!r} (--{name.replace('_', '-')}) and as "
                    f"{assigned[name]!r} (--set): give one"
                )
        return assigned | dict(options)

    def checked(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return values converted to the types of the settings they name."""
        import cyclopts  # the terminal's: those who work in Python do without

        checked: dict[str, Any] = {}
        for name, value in renamed_settings(values).items():
            if name not in self.fields:
                raise unknown(f"setting {where}:", name, list(self.fields))
            several = isinstance(value, list | tuple)
            texts = [
                str(one).lower() if isinstance(one, bool) else str(one)
                for one in (value if several else [value])
            ]
            kind = self.types[name]
            try:
                if kind == tuple[str, ...]:
                    checked[name] = tuple(texts)
                elif several:
                    raise ValueError("one value is expected")
                else:
                    checked[name] = cyclopts.convert(kind, texts, converter=converted)
            except (cyclopts.CycloptsError, ValueError, TypeError) as error:
                expected = " or ".join(in_words(kind))
                raise InputError(f"{name} = {value!r} {where}: expected {expected}") from error
        return checked

    def stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as they are read again from the TOML file that they are written to."""
        return self.checked(tomllib.loads(toml(values)), "in a TOML file")

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings: the given values, and the defaults of the others."""
        settings = {name: values.get(name, field.default) for name, field in self.fields.items()}
        return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def settings_of(source: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are settings of one dataclass.

    >>> from samsvae.settings.model import CPAVAESettings
    >>> settings_of(CPAVAESettings, {"n_latent": 20, "mask_prob": 0.1})
    {'n_latent': 20}
    """
    names = {field.name for field in dataclasses.fields(source)}
    return {name: value for name, value in values.items() if name in names}


def converted(kind: Any, text: str) -> Any:
    """Convert one value; cyclopts would round 4.5 to a whole number."""
    if kind is not int:
        import cyclopts

        return cyclopts.convert(kind, [text])
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"unable to convert {text!r} into int, a whole number") from None


Result = TypeVar("Result")


def takes(source: type) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a function `f(..., **settings)` the settings of a dataclass as its parameters.

    `help` and completion see them; the function passes them on.

    >>> from samsvae.settings.questions import EffectSettings
    >>> @takes(EffectSettings)
    ... def asked(model, **settings):
    ...     return settings
    >>> list(inspect.signature(asked).parameters)[:3]
    ['model', 'scale', 'relative_to']
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in named}
        types = get_type_hints(source, include_extras=True)
        settings = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]
            )
            for f in _fields(source)
            if f.name not in names
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*named, *settings]
        )
        return function

    return decorate


def _fields(source: type) -> list[dataclasses.Field]:
    """Return the fields of a dataclass, those that many settings share at the end."""
    return sorted(dataclasses.fields(source), key=lambda field: field.name in _SHARED)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; it is an error if there is none, or it is not TOML."""
    path = expanded(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected a TOML file of settings")
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not TOML: {error}") from error


def toml(values: Mapping[str, Any]) -> str:
    """Return settings as TOML. None is the absence of a setting, and is left out.

    >>> print(toml({"n_latent": 20, "batch_key": None, "mask": "bernoulli"}), end="")
    n_latent = 20
    mask = "bernoulli"
    """
    present = {name: value for name, value in values.items() if value is not None}
    return tomli_w.dumps({k: str(v) if isinstance(v, Path) else v for k, v in present.items()})
