"""Functions that take the settings of a dataclass by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TypeVar, get_type_hints

Result = TypeVar("Result")


def takes(source: type) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a function `f(..., **settings)` the settings of a dataclass as its parameters.

    `help` and completion see them; the function passes them on.

    >>> from samsvae.settings.effects import EffectSettings
    >>> @takes(EffectSettings)
    ... def asked(model, **settings):
    ...     return settings
    >>> list(inspect.signature(asked).parameters)[:3]
    ['model', 'scale', 'library_size']
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {p.name for p in named}
        settings = [p for p in _parameters(source) if p.name not in known]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*named, *settings]
        )
        return function

    return decorate


def _parameters(source: type) -> list[inspect.Parameter]:
    """Return the fields of a dataclass as keyword-only parameters, annotations resolved."""
    types = get_type_hints(source)
    return [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]
        )
        for f in dataclasses.fields(source)
    ]
