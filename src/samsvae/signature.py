"""Settings are defined once: a function that passes them on shows where they are defined."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])
P = ParamSpec("P")


def keywords(source: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the keyword-only parameters of a function or class, annotations resolved."""
    types = get_type_hints(source, include_extras=True)  # of a class: its fields' types
    parameters = inspect.signature(source).parameters.values()
    keyword_only = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return [p.replace(annotation=types[p.name]) for p in keyword_only]


def extended(
    function: Callable[..., object], parameters: Iterable[inspect.Parameter]
) -> inspect.Signature:
    """Return the signature of `f(first, **settings)` with the settings spelled out."""
    own = inspect.signature(function, eval_str=True)
    fixed = {p.name: p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD}
    added = [p for p in parameters if p.name not in fixed]
    return own.replace(parameters=[*fixed.values(), *added])


def shows(source: Callable[..., object]) -> Callable[[Function], Function]:
    """Give a function `f(..., **settings)` the keyword-only parameters of another.

    `help` and the command line see them; the function passes them on.
    """

    def decorate(function: Function) -> Function:
        function.__signature__ = extended(function, keywords(source))  # type: ignore[attr-defined]
        return function

    return decorate


def takes(
    source: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., Result]], Callable[Concatenate[Any, P], Result]]:
    """Do the same as `shows` for a function `f(first, **settings)`, and tell type checkers."""
    return shows(source)
