"""Arguments of public functions, checked at the entrance: got, expected, do."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import os
import types
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from samsvae.errors import InputError, a, got, unknown

__all__ = ["check", "checked"]

Function = TypeVar("Function", bound=Callable[..., Any])

_ADVICE = {
    ("str", "AnnData"): "read it with samsvae.Screen.open(path)",
    ("str", "Screen"): "read it with samsvae.Screen.open(path)",
    ("AnnData", "Screen"): "take samsvae.Screen.from_anndata(adata)",
    ("MuData", "AnnData"): "give one of its modalities, such as mdata['rna']",
    ("Screen", "AnnData"): "it is one already",
    ("str", "Estimator"): "load it with samsvae.load(folder)",
    ("DataFrame", "Series"): "give one of its columns",
}
"""What to do, by the type that was got and the one that is expected."""

_LISTS = (
    list,
    tuple,
    collections.abc.Sequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)


def checked(function: Function) -> Function:
    """Make a function check its arguments against their annotations, before anything is done.

    Types are checked, and the values of a `Literal`; ranges are the function's own. An argument
    that the function does not have is an error that names the nearest one.
    """
    shown = inspect.signature(function)  # with the settings that `takes` adds
    known = [name for name, p in shown.parameters.items() if p.kind is not p.VAR_KEYWORD]
    closed = len(known) == len(shown.parameters)

    @functools.wraps(function)
    def entered(*arguments: Any, **named: Any) -> Any:
        for name in named:
            if closed and name not in known:
                raise unknown(f"argument of {function.__name__}:", name, known[1:])
        hints = _hints(function)
        for name, value in shown.bind(*arguments, **named).arguments.items():
            check(name, value, hints.get(name, shown.parameters[name].annotation))
        return function(*arguments, **named)

    return entered  # type: ignore[return-value]


def check(name: str, value: Any, hint: Any) -> None:
    """Raise unless a value is of the type that an annotation says."""
    if _is(value, hint):
        return
    if isinstance(value, str) and (choices := _choices(hint)):
        raise unknown(name, value, choices)
    expected = list(dict.fromkeys(_told(hint)))
    pairs = [(type(value).__name__, words.split()[-1]) for words in expected]
    advice = [f"; {_ADVICE[pair]}" for pair in pairs if pair in _ADVICE]
    verb, shown = "is", value
    wrong = [one for one in value if not _fits_any(one, hint)] if _is(value, list[Any]) else []
    if wrong:
        verb, shown = "holds", wrong[0]
    raise InputError(
        f"{name} {verb} {got(shown)}: expected {' or '.join(expected)}{''.join(advice[:1])}"
    )


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the texts that an annotation admits; none if it admits others, or no text."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        kinds = get_args(hint)
        return () if str in kinds else tuple(one for kind in kinds for one in _choices(kind))
    return ()


def _fits_any(value: Any, hint: Any) -> bool:
    """Whether a value may stand in one of the lists that an annotation admits."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    items = [get_args(kind)[0] for kind in kinds if get_origin(kind) in _LISTS and get_args(kind)]
    return any(_is(value, item) for item in items)


def _is(value: Any, hint: Any) -> bool:
    origin, given = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in given)
    if origin is Literal:
        return isinstance(value, str) and value in given
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin is os.PathLike or hint is os.PathLike:
        return isinstance(value, os.PathLike)
    if origin in _LISTS:
        ordered = origin is collections.abc.Iterable or hasattr(value, "__getitem__")
        return ordered and _is_several(value, given)
    if origin is collections.abc.Mapping or origin is dict:
        return isinstance(value, collections.abc.Mapping)
    if origin is type or hint is type:
        return isinstance(value, type)
    if _is_protocol(hint):
        return all(hasattr(value, one) for one in _members(hint))
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_several(value: Any, given: tuple[Any, ...]) -> bool:
    """Whether a value is a list (or the like) of the given types, as far as it can be looked at."""
    if isinstance(value, str | bytes | collections.abc.Mapping) or not hasattr(value, "__iter__"):
        return False
    if getattr(value, "ndim", 1) != 1:
        return False
    if not isinstance(value, list | tuple) or not given:
        return True
    item = given[0] if len(given) == 1 or given[-1] is Ellipsis else Any
    return _is_protocol(item) or all(_is(one, item) for one in value)  # told by what asks them


def _told(hint: Any) -> list[str]:
    """Return what an annotation says, in words."""
    origin, given = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [name for one in given for name in _told(one)]
    if origin is Literal:
        return [repr(one) for one in given]
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    if hint in words:
        return [words[hint]]
    if hint is None or hint is type(None):
        return ["None"]
    if origin in _LISTS:
        items = [words.split(maxsplit=1)[-1] for words in _told(given[0])] if given else []
        return [f"a list of {' or '.join(items)}" if items else "a list"]
    if origin in (collections.abc.Mapping, dict):
        return ["a mapping"]
    if origin is os.PathLike:
        return ["a path"]
    if _is_protocol(hint):
        return ["a model or baseline"]
    return [a(getattr(origin or hint, "__name__", str(hint)))]


def _is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def _members(protocol: type) -> set[str]:
    own = {name for base in protocol.__mro__ for name in vars(base) if base is not object}
    return {name for name in own if not name.startswith("_")}


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)
