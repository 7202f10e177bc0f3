"""What a saved model may hold, stated once and checked before anything is built from it.

Saved models: `model.safetensors` beside `model.json`, never pickle.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from samsvae._deprecated import renamed_settings
from samsvae._version import __version__
from samsvae.data.names import NameRegistry
from samsvae.errors import InputError, got, listed
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.inference.latent import BasalPosterior
from samsvae.settings.arguments import check
from samsvae.storage import tensors
from samsvae.storage.files import written_together

_LAYERS, _WIDTH = 1_000, 2**28
"""More than any model has: a size takes nothing, as long as tensors of it are not made, and the
product of two is a number of bytes that torch can count."""
Check = Callable[[Any], bool]


def _is_name(value: Any) -> bool:
    """Whether a value is text that can be written: half of a character cannot."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _are_unique(value: Any) -> bool:
    return _are_names(value) and len(set(value)) == len(value)


def _are_rows(value: Any) -> bool:
    """Whether a value is a list of lists of names, as long as each other."""
    return (
        isinstance(value, list)
        and all(map(_are_names, value))
        and len(set(map(len, value))) <= 1
        and [] not in value
        and len(set(map(tuple, value))) == len(value)
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_name, value))


def _is_history(value: Any) -> bool:
    """Whether a value is a table of numbers by column."""
    return (
        _is_record(value)
        and len({len(column) if isinstance(column, list) else -1 for column in value.values()}) <= 1
        and all(isinstance(column, list) for column in value.values())
        and all(isinstance(one, int | float) for column in value.values() for one in column)
        and all(abs(one) < 2**63 for column in value.values() for one in column if one == one)
    )


HEADER: dict[str, tuple[str, Check]] = {
    "estimator": ("a name", _is_name),
    "hyperparameters": ("a record", _is_record),
    "history": ("columns of numbers, as long as each other", _is_history),
    "facts.conditions": ("names, each once", _are_unique),
    "facts.unobserved": ("true or false", _is_flag),
    "facts.sgrnas": ("pairs of names", lambda v: _are_rows(v) and all(len(x) == 2 for x in v)),
    "facts.vocabulary.genes": ("names, each once", lambda v: _are_unique(v) and v != []),
    "facts.vocabulary.perturbations": ("names, each once", _are_unique),
    "facts.vocabulary.batches": ("lists of names, as long as each other", _are_rows),
    "facts.vocabulary.symbols": ("names", _are_names),
    "facts.vocabulary.counts": ("true or false", _is_flag),
    "facts.vocabulary.own_library_size": ("true or false", _is_flag),
    "facts.vocabulary.notation.control": ("a name", _is_name),
    "facts.vocabulary.notation.separator": ("a name", _is_name),
    "facts.vocabulary.notation.also": ("names", _are_names),
}
"""What model.json holds by path, beside its versions and its digest."""


class Array(NamedTuple):
    """What an array of facts is."""

    kind: str
    """Of numpy's dtype: "i" whole numbers, "f" real ones, "b" true or false."""
    shape: tuple[str, ...]
    """By axis."""
    low: float = 0.0
    """No value is below it."""


FACTS: dict[str, Array] = {
    "cells_per_condition": Array("i", ("condition",)),
    "cells_per_perturbation": Array("i", ("perturbation",)),
    "median_dose": Array("f", ("perturbation",)),
    "library_size": Array("f", ("cell",), low=-math.inf),  # sums of real values may be
    "batch_shares": Array("f", ("batch",)),
    "cells_per_batch": Array("i", ("condition", "batch or one")),
    "silent": Array("b", ("gene",)),
}
"""The arrays of facts."""


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Say which file it is that holds what it should not."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r} is damaged, or not ours: {error}") from error


def check_names(names: Any) -> None:
    """Raise unless a record holds what model.json is to hold, and nothing else.

    Raises
    ------
    InputError
        With where it is, what was got and what was expected.
    """
    known = {*HEADER, "schema_version", "samsvae_version", "digest"}
    for path in _paths(names, known):
        if not any(one == path or one.startswith(f"{path}.") for one in known):
            raise InputError(f"{path!r} is not known")
    for path, (expected, holds) in HEADER.items():
        value = _at(names, path)
        if not holds(value):
            raise InputError(f"{path} is {got(value)}: expected {expected}")
    registry = names["facts"]["vocabulary"]
    n_genes, n_symbols = len(registry["genes"]), len(registry["symbols"])
    if n_symbols not in (0, n_genes):
        raise InputError(f"there are {n_symbols} symbols for {n_genes} genes")
    received = {name for _, name in names["facts"]["sgrnas"]}
    strange = sorted(received.difference(registry["perturbations"]))
    if strange:
        raise InputError(f"facts.sgrnas name {listed(strange)}, which are no perturbations")


def check_metadata(metadata: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """Raise unless the arrays of facts go with their names, and with each other."""
    registry = metadata["vocabulary"]
    n_batches = len(registry["batches"])
    sizes = {
        "condition": len(metadata["conditions"]),
        "perturbation": len(registry["perturbations"]),
        "batch": n_batches,
        "batch or one": max(1, n_batches),
        "gene": len(registry["genes"]),
    }
    _same_names("facts", arrays, FACTS)
    for name, array in FACTS.items():
        values = arrays[name].numpy()
        if values.dtype.kind != array.kind:
            raise InputError(f"facts.{name} holds {values.dtype} values")
        shape = tuple(sizes.setdefault(axis, n) for axis, n in zip(array.shape, values.shape))  # noqa: B905
        if values.ndim != len(array.shape) or values.shape != shape:
            raise InputError(f"facts.{name} is {_size(values.shape)}: expected {_size(shape)}")
        if not (np.isfinite(values).all() and (values >= array.low).all()):
            raise InputError(f"facts.{name} holds values below {array.low:g}, or no numbers")
    n_cells = arrays["cells_per_condition"]
    held = int(n_cells.sum()), len(arrays["library_size"])
    of_batches = arrays["cells_per_batch"].sum(1)
    shares = float(arrays["batch_shares"].sum())
    if held[0] != held[1] or not bool((of_batches == n_cells).all()):
        raise InputError(f"facts count {held[0]} training cells, and hold {held[1]}")
    if registry["counts"] and not (arrays["library_size"] > 0).all():
        raise InputError("facts.library_size holds values that are not positive")
    if n_batches and not math.isclose(shares, 1, abs_tol=1e-6):
        raise InputError(f"facts.batch_shares sum to {shares:g}")


def check_conditions(conditions: Sequence[str], registry: NameRegistry) -> None:
    """Raise unless conditions are of the perturbations, as these are written, control first."""
    parser = registry.parser
    if not conditions or conditions[0] != parser.control:
        raise InputError(f"the first of facts.conditions is not {got(parser.control)}")
    for name in conditions:
        if registry.stored(name) != name:
            raise InputError(f"facts.conditions hold {got(name)}, written in another way")


def check_hyperparameters(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise if hyperparameters are of another model, or ask for more layers than are ever built.

    Parameters
    ----------
    values
        By name.
    hints
        The types of those that the model has.
    """
    strange = [name for name in values if name not in hints]
    if strange:
        raise InputError(f"the model has no hyperparameters {listed(strange)}")
    for name, value in values.items():
        check(name, value, hints[name])
        if isinstance(value, int) and value > (_LAYERS if "layers" in name else _WIDTH):
            raise InputError(f"{name} is {got(value)}: no model has as many")


def check_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless tensors are those of a model, by name, shape and type."""
    wanted = module.state_dict()
    _same_names("model", state, wanted)
    for name, value in wanted.items():
        found = state[name]
        if found.shape != value.shape or found.dtype != value.dtype:
            raise InputError(
                f"model.{name} is {_size(found.shape)}, {found.dtype}: expected "
                f"{_size(value.shape)}, {value.dtype}"
            )


def check_control(state: Mapping[str, Tensor], n_latent: int, n_covariates: int) -> None:
    """Raise unless tensors are basal states of control cells, with a scale."""
    widths = {"loc": n_latent, "scale": n_latent, "covariates": n_covariates}
    _same_names("control_basal", state, widths)
    n_cells = len(state["loc"]) if state["loc"].ndim else 0
    for name, width in widths.items():
        value = state[name]
        if value.shape != (n_cells, width) or value.dtype != torch.float32 or not n_cells:
            raise InputError(
                f"control_basal.{name} is {_size(value.shape)}, {value.dtype}: expected some "
                f"cells x {width}"
            )
    if not (state["scale"] > 0).all():
        raise InputError("control_basal.scale holds values that are not positive")


def _same_names(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in found]
    strange = [name for name in found if name not in wanted]
    if missing or strange:
        told = f"lacks {listed(missing)}" if missing else f"has {listed(strange)} besides"
        raise InputError(f"{what} {told}")


def _paths(record: Any, known: set[str], at: str = "") -> list[str]:
    """Return the paths of what a record holds, as deep as it is known."""
    if at in known or not isinstance(record, dict):
        return [at] if at else []
    found: list[str] = []
    for name, value in record.items():
        found += _paths(value, known, f"{at}.{name}" if at else str(name))
    return found


def _at(record: Any, path: str) -> Any:
    """Return what stands at a path; None without it."""
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"


TENSORS, NAMES = "model.safetensors", "model.json"


class Saved(NamedTuple):
    """What is saved of a trained model."""

    estimator: str
    """Its name in the family."""
    hyperparameters: dict[str, Any]
    history: dict[str, list[float]]
    metadata: TrainingMetadata
    state: dict[str, Tensor]
    """Of the module."""
    control_basal: BasalPosterior


def write(saved: Saved, folder: str | os.PathLike[str]) -> None:
    """Save a trained model; see `Estimator.save`."""
    folder = Path(folder)
    parts = {
        **tensors.prefixed("model", saved.state),
        **tensors.prefixed("facts", saved.metadata.tensors()),
        **tensors.prefixed("control_basal", saved.control_basal.tensors()),
    }
    names = {
        "schema_version": tensors.SCHEMA_VERSION,
        "samsvae_version": __version__,
        "estimator": saved.estimator,
        "hyperparameters": saved.hyperparameters,
        "facts": saved.metadata.header(),
        "history": saved.history,
    }
    names["digest"] = tensors.digest(parts, names)
    with written_together(folder / TENSORS, folder / NAMES) as (aside, names_aside):
        aside.write_bytes(tensors.to_bytes(parts, {}))
        names_aside.write_text(json.dumps(names, indent=1))


def read(folder: str | os.PathLike[str]) -> Saved:
    """Return what `write` wrote.

    Raises
    ------
    InputError
        If a file is missing, not whole, damaged, of another schema, does not belong to the other,
        or holds parameters that are not finite.
    """
    path = Path(folder) / NAMES
    if not path.is_file():
        raise InputError(f"no saved model in {str(folder)!r}: it has no {NAMES}")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        tensors.check_schema(path, names)
        parts, _ = tensors.read(Path(folder) / TENSORS)
        digest = names.pop("digest")
        with of_file(path):
            check_names(names)
            check_metadata(names["facts"], tensors.unprefixed("facts", parts))
        saved = Saved(
            names["estimator"],
            renamed_settings(names["hyperparameters"], stacklevel=0),
            names["history"],
            TrainingMetadata.restored(names["facts"], tensors.unprefixed("facts", parts)),
            _current_parameters(tensors.unprefixed("model", parts)),
            BasalPosterior(**tensors.unprefixed("control_basal", parts)),
        )
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is not whole, or not a file of ours: {error}") from error
    if digest != tensors.digest(parts, names):
        raise InputError(
            f"{NAMES} and {TENSORS} in {str(folder)!r} do not belong together, or are damaged: "
            "save the model again"
        )
    tensors.check_finite(Path(folder) / TENSORS, parts)
    return saved


def _current_parameters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters by their names of today, of models that earlier versions saved."""
    responding = "mechanism.responders.logits" in state
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        name = name.replace("mechanism.response.", "mechanism.dose_response.")
        if name == "mechanism.responders.logits":
            name = "mechanism.logits"
        elif responding:
            name = name.replace("mechanism.", "mechanism.inner.")
        renamed[name] = value
    return renamed
