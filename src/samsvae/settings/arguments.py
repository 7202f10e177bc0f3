"""Arguments and settings, validated by their annotations.

pydantic validates, with four choices of ours: values are checked, never converted or copied (a
screen by `isinstance`); NumPy's numbers are numbers; any ordered collection is a list, a pandas
Index among them; and each error is one line: what was got, what was expected, what to do.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import os
import types
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as type_hints

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt

from samsvae.errors import InputError, a, got, unknown

if TYPE_CHECKING:  # imported when a value is checked: help and completion do without
    from pydantic import TypeAdapter

__all__ = ["Count", "Natural", "NonNegative", "Positive", "Probability", "Several"]
__all__ += ["Share", "check", "check_fields", "checked", "in_words"]

Function = TypeVar("Function", bound=Callable[..., Any])

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
Natural = Annotated[int, Ge(0)]
"""A whole number of at least 0."""
Several = Annotated[int, Ge(2)]
"""A whole number of at least 2."""
Share = Annotated[float, Ge(0), Le(1)]
"""A number between 0 and 1."""
Probability = Annotated[float, Gt(0), Lt(1)]
"""A number strictly between 0 and 1."""
Positive = Annotated[float, Gt(0)]
"""A finite number above 0."""
NonNegative = Annotated[float, Ge(0)]
"""A finite number of at least 0."""

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
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    None: "None",
    type(None): "None",
}


def checked(function: Function) -> Function:
    """Make a function check its arguments against their annotations, before anything is done.

    An argument that the function does not have is an error that names the nearest one.
    """
    signature = inspect.signature(function)  # with the settings that `takes` adds
    names = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    closed = len(names) == len(signature.parameters)

    @functools.wraps(function)
    def entered(*arguments: Any, **named: Any) -> Any:
        for name in named:
            if closed and name not in names:
                raise unknown(f"argument of {function.__name__}:", name, names[1:])
        hints = _hints(function)
        for name, value in signature.bind(*arguments, **named).arguments.items():
            check(name, value, hints.get(name, signature.parameters[name].annotation))
        return function(*arguments, **named)

    return entered  # type: ignore[return-value]


def check_fields(settings: Any) -> None:
    """Check the fields of a dataclass against their annotations; NumPy's numbers become Python's.

    Settings are written as JSON and TOML, which have no numbers of NumPy's.
    """
    kind: Any = type(settings)
    hints = _hints(kind)
    for name in (field.name for field in dataclasses.fields(settings)):
        value = getattr(settings, name)
        check(name, value, hints[name])
        if (plain := _number(value)) is not value:
            object.__setattr__(settings, name, plain)


def check(name: str, value: Any, hint: Any) -> None:
    """Raise unless a value is as an annotation says."""
    from pydantic import ValidationError

    try:
        _adapter(hint).validate_python(value)
    except ValidationError as error:
        inputs = [item["input"] for item in error.errors()]
        wrong = next((one for one in inputs if one is not value), value)
    else:
        return
    choices = _choices(hint)
    if choices and isinstance(value, str):
        raise unknown(name, value, choices)
    expected = list(dict.fromkeys(in_words(hint)))
    if isinstance(value, Real) and "None" in expected:
        expected.remove("None")
    pairs = [(type(value).__name__, words.split()[-1]) for words in expected]
    advice = [f"; {_ADVICE[pair]}" for pair in pairs if pair in _ADVICE]
    is_item = wrong is not value and isinstance(value, list | tuple)
    problem = f"holds {got(wrong)}" if is_item else f"is {got(value)}"
    raise InputError(f"{name} {problem}: expected {' or '.join(expected)}{''.join(advice[:1])}")


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_strict(hint))


def _strict(hint: Any) -> Any:
    """Return an annotation as pydantic is to take it: nothing is converted, copied or consumed."""
    from pydantic import AllowInfNan, BeforeValidator, GetPydanticSchema, PlainValidator, Strict
    from pydantic_core.core_schema import is_instance_schema

    origin, args = get_origin(hint), get_args(hint)
    if hint in (Any, inspect.Parameter.empty) or isinstance(hint, TypeVar):
        return Any
    if origin is Annotated:
        finite = (AllowInfNan(False),) if args[0] is float else ()
        return Annotated[(_strict(args[0]), *finite, *args[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_strict, args))]  # noqa: UP007  of a tuple
    if hint is bool or hint is int or hint is float:
        return Annotated[hint, Strict(), BeforeValidator(_number)]
    if hint is str:
        return Annotated[str, Strict()]
    if hint is None or origin is Literal:
        return hint
    if origin in _LISTS:
        item = args[0] if args and (len(args) == 1 or args[-1] is Ellipsis) else Any
        items = Any if _is_protocol(item) else _strict(item)  # its users name what is missing
        ordered = origin is not collections.abc.Iterable
        return Annotated[list[items], BeforeValidator(functools.partial(_items, ordered=ordered))]  # type: ignore[valid-type]
    if _is_protocol(hint):
        own = {name for base in hint.__mro__ for name in vars(base) if base is not object}
        members = [name for name in own if not name.startswith("_")]

        def has_members(value: Any) -> Any:
            if not all(hasattr(value, member) for member in members):
                raise ValueError("a member is missing")
            return value

        return Annotated[Any, PlainValidator(has_members)]
    kind = origin or hint
    if not isinstance(kind, type):
        return Any
    return Annotated[Any, GetPydanticSchema(lambda *_: is_instance_schema(kind))]


def _number(value: Any) -> Any:
    """Return a number of NumPy's as Python's."""
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_numpy else value


def _items(value: Any, *, ordered: bool) -> list[Any]:
    """Return the items of a list or tuple; of other collections none, which are not looked at."""
    if isinstance(value, str | bytes | collections.abc.Mapping) or not hasattr(value, "__iter__"):
        raise ValueError("not a list")
    if getattr(value, "ndim", 1) != 1 or (ordered and not hasattr(value, "__getitem__")):
        raise ValueError("not a list")
    return list(value) if isinstance(value, list | tuple) else []


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the texts that an annotation admits; none if it admits any text, or no text."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        kinds = get_args(hint)
        return () if str in kinds else tuple(one for kind in kinds for one in _choices(kind))
    return ()


def in_words(hint: Any) -> list[str]:
    """Return what an annotation says, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return [f"{in_words(args[0])[0]} {_range_in_words(args[1:], whole=args[0] is int)}"]
    if origin in (Union, types.UnionType):
        return [words for one in args for words in in_words(one)]
    if origin is Literal:
        return [repr(one) for one in args]
    if hint in _WORDS:
        return [_WORDS[hint]]
    if origin in _LISTS:
        items = [words.split(maxsplit=1)[-1] for words in in_words(args[0])] if args else []
        return [f"a list of {' or '.join(items)}" if items else "a list"]
    if origin in (collections.abc.Mapping, dict):
        return ["a mapping"]
    if origin is os.PathLike:
        return ["a path"]
    if _is_protocol(hint):
        return ["a model or baseline"]
    return [a(getattr(origin or hint, "__name__", str(hint)))]


def _range_in_words(bounds: tuple[BaseMetadata, ...], *, whole: bool) -> str:
    """Return the bounds of a number, such as "strictly between 0 and 1"."""
    low = next((x.ge if isinstance(x, Ge) else x.gt for x in bounds if isinstance(x, Ge | Gt)), 0)
    is_open = any(isinstance(x, Gt) for x in bounds)
    for bound in bounds:
        if isinstance(bound, Le | Lt):
            high = bound.le if isinstance(bound, Le) else bound.lt
            return f"{'strictly ' if is_open else ''}between {low:g} and {high:g}"
    if is_open:
        return f"above {low:g}"
    return f"{'of ' if whole else ''}at least {low:g}"


def _is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


@functools.cache
def _hints(annotated: Any) -> dict[str, Any]:
    return type_hints(annotated, include_extras=True)
