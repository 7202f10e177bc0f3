"""Public names that have moved: they keep working for this release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

METHODS = {
    "annotate": "samsvae.export.annotate",
    "perturbation_space": "samsvae.export.perturbation_space",
}
"""By former method of a model, the function that took its place: the model is its first argument.
"""


def renamed_method(owner: object, name: str) -> Any:
    """Return what answers for a former method of an object.

    Raises
    ------
    AttributeError
        If it never had such a method.
    """
    if name not in METHODS:
        raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")
    module, _, function = METHODS[name].rpartition(".")
    warnings.warn(
        f"model.{name}(...) is now {METHODS[name]}(model, ...)", DeprecationWarning, stacklevel=3
    )
    return partial(getattr(import_module(module), function), owner)


def renamed_arguments(**names: str) -> Callable[[Function], Function]:
    """Let a function take keyword arguments by their former names, too, given as `former="new"`.

    >>> @renamed_arguments(rate="fdr")
    ... def called(*, fdr):
    ...     return fdr
    >>> with warnings.catch_warnings(record=True, action="always") as notes:
    ...     called(rate=0.1), str(notes[0].message)
    (0.1, 'the argument rate of called is now fdr')
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def entered(*arguments: Any, **named: Any) -> Any:
            for former, new in names.items():
                if former in named and new not in named:
                    named[new] = named.pop(former)
                    message = f"the argument {former} of {function.__name__} is now {new}"
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
            return function(*arguments, **named)

        return entered  # type: ignore[return-value]

    return decorate


def renamed_attribute(former: str, new: str) -> Any:
    """Return a property that gives an attribute by its former name."""

    def value(owner: object) -> Any:
        kind = type(owner).__name__
        warnings.warn(f"{kind}.{former} is now {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(owner, new)

    return property(value)


def matched_to(screen: Any, registry: Any) -> tuple[Any, int]:
    """Return a screen aligned with a model's names, and how many genes it lost."""
    message = "screen.matched_to(...) is now samsvae.data.alignment.align_screen(screen, ...)"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    aligned = import_module("samsvae.data.alignment").align_screen(screen, registry)
    return aligned, len(screen.genes) - len(aligned.genes)
