"""Public names that have changed: they keep working for this release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from typing import Any, TypeVar

from samsvae.errors import note

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = TypeVar("Kind")

METHODS = {
    "annotate": "samsvae.export.annotate",
    "perturbation_space": "samsvae.export.perturbation_space",
}
"""By former method of a model, the function that took its place: the model is its first argument.
"""
SETTINGS: Mapping[str, tuple[str, Mapping[Any, Any]]] = {
    "response": ("learn_responders", {"all": False, "learned": True}),
    "rate": ("fdr", {}),
}
"""By former name of a setting, its name, and its values by the former ones."""
OPTIONS = {("discoveries", "--below"): "--fdr", ("regulators", "--below"): "--lfsr"}
"""By command and its former option, the option of today."""

PREDICTORS = {"duplicate": "technical replicate"}
"""By former name in tables of scores, that of today: for files that were written before."""


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
    _warn(f"model.{name}(...) is now {METHODS[name]}(model, ...)", stacklevel=4)
    return partial(getattr(import_module(module), function), owner)


def renamed_settings(settings: Mapping[str, Any], *, stacklevel: int = 3) -> dict[str, Any]:
    """Return settings by their names of today.

    With a `stacklevel` of 0 there is no warning: for files that were written before.
    """
    current: dict[str, Any] = {}
    for name, value in settings.items():
        if name in SETTINGS:
            new, values = SETTINGS[name]
            if stacklevel:
                _warn(f"{name}={value!r} is now {new}={values.get(value, value)!r}", stacklevel + 1)
            name, value = new, values.get(value, value)
        current[name] = value
    return current


def renamed_options(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line with options by their names of today.

    >>> warnings.simplefilter("ignore")
    >>> renamed_options(["train", "x.h5ad", "--response", "learned", "--n-latent=3"])
    ['train', 'x.h5ad', '--learn-responders', '--n-latent=3']
    >>> renamed_options(["discoveries", "run", "x.h5ad", "--below=0.05"])
    ['discoveries', 'run', 'x.h5ad', '--fdr=0.05']
    """
    current: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        new = OPTIONS.get((arguments[0], option))
        if new is not None:
            note(f"the option {option} is now {new}")
            current.append(f"{new}{equals}{value}")
            continue
        former = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or former not in SETTINGS:
            current.append(argument)
            continue
        given = {former: value if equals else next(rest, "")}
        ((name, now),) = renamed_settings(given, stacklevel=0).items()
        words = [("--" if now is not False else "--no-") + name.replace("_", "-")]
        words += [] if isinstance(now, bool) else [str(now)]
        note(f"the option {option} is now {words[0]}")
        current += words
    return current


def takes_former_settings(kind: type[Kind]) -> type[Kind]:
    """Let a class be made with settings by their former names."""
    plain: Callable[..., None] = kind.__init__

    @wraps(plain)
    def init(self: Any, *args: Any, **settings: Any) -> None:
        plain(self, *args, **renamed_settings(settings))

    kind.__init__ = init  # type: ignore[method-assign]
    return kind


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
                    _warn(f"the argument {former} of {function.__name__} is now {new}", 3)
            return function(*arguments, **named)

        return entered  # type: ignore[return-value]

    return decorate


def renamed_attribute(former: str, new: str) -> Any:
    """Return a property that gives an attribute by its former name."""

    def value(owner: object) -> Any:
        kind = type(owner).__name__
        _warn(f"{kind}.{former} is now {kind}.{new}", 3)
        return getattr(owner, new)

    return property(value)


def renamed_column(table: Any, former: str, new: str) -> Any:
    """Return a table with a column by its new name, if it has it by the former one."""
    if former not in table.columns or new in table.columns:
        return table
    _warn(f"the column {former} is now {new}", 4)
    return table.rename(columns={former: new})


def matched_to(screen: Any, registry: Any) -> tuple[Any, int]:
    """Return a screen aligned with a model's names, and how many genes it lost."""
    message = "screen.matched_to(...) is now samsvae.data.alignment.align_screen(screen, ...)"
    _warn(message, 3)
    aligned = import_module("samsvae.data.alignment").align_screen(screen, registry)
    return aligned, len(screen.genes) - len(aligned.genes)


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
