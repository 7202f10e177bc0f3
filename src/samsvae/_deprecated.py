"""Public names that have moved: they keep working for this release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from typing import Any

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
