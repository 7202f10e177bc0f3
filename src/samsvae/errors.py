"""Errors that users can fix: one line each, with the nearest valid name."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from numbers import Real

__all__ = ["InputError", "NonFiniteError", "TrainingInterrupted"]


class InputError(ValueError):
    """Input that cannot be used: says what was got, what was expected and what to do."""


class NonFiniteError(ArithmeticError):
    """Training reached a loss that is not a finite number."""


class LostProcessError(RuntimeError):
    """One of several processes that train a model together is gone."""


class FailedJobsError(RuntimeError):
    """Some jobs of an experiment failed; the others are done."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM; the message says where it can go on."""


def note(message: str) -> None:
    """Tell what a user should know, as a warning of the line that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] == "samsvae":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def shown(text: object, most: int = 60) -> str:
    r"""Return a text as it can be shown in a line: short, and nothing in it that steers a terminal.

    Control characters, and those that turn the direction of writing, are written as escapes.

    Examples
    --------
    >>> print(shown("a\x1b[31mb\r"))
    a\x1b[31mb\r
    >>> shown("x" * 1000, most=10)
    'xxxxxx...x'
    """
    short = _short(text, most)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in short)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, in this process or on a device.

    >>> is_lack_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    True
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch
        return True
    signs = {RuntimeError: "allocate memory", ImportError: "failed to map segment"}
    return any(isinstance(error, kind) and sign in str(error) for kind, sign in signs.items())


def got(value: object) -> str:
    """Return what was got, in a line: a text or number as it is, anything else by its type.

    >>> got("4"), got(2.5), got(None), got([1, 2])
    ("'4'", '2.5', 'None', 'a list')
    """
    if isinstance(value, str):
        return quoted(value)
    return repr(value) if isinstance(value, Real) or value is None else a(type(value).__name__)


def a(noun: str) -> str:
    """Return a noun with its article."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def quoted(name: object) -> str:
    """Return a name in quotes, as it can be shown in a line."""
    return repr(_short(name, 60))


def _short(text: object, most: int) -> str:
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: most - 4]}...{whole[-1]}"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Return names in quotes, the first few of them."""
    names = list(names)
    first = ", ".join(map(quoted, names[:most]))
    return first + (f" and {len(names) - most} more" if len(names) > most else "")


def check_unique(names: Collection[object], kind: str, advice: str) -> None:
    """Raise if names repeat, where something is matched by them; `advice` says what to do."""
    if len(set(names)) == len(names):
        return
    repeated = {name: n for name, n in Counter(names).items() if n > 1}
    raise InputError(
        f"{len(repeated):,} {kind} occur more than once, {listed(repeated, 3)} "
        f"({sum(repeated.values()):,} of {len(names):,}): {advice}"
    )


def check_unique_cells(names: Collection[object], purpose: str) -> None:
    """Raise if names of cells repeat; `purpose` says what is matched by them."""
    check_unique(
        names,
        "cell names",
        f"{purpose} by name; make them unique, with adata.obs_names_make_unique(), or lane by "
        "lane, with anndata.concat(lanes, index_unique='-')",
    )


def unknown(kind: str, name: object, known: Collection[object]) -> InputError:
    """Return the error for a name that does not exist, with the nearest that do."""
    short = {shown(k): k for k in known}  # what is long takes long to compare
    near = difflib.get_close_matches(shown(name), short, n=3, cutoff=0.5)
    hint = f"the nearest is {listed(near)}" if near else f"there are {listed(known) or 'none'}"
    return InputError(f"no {kind} {quoted(name)}: {hint}")
