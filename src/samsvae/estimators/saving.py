"""Saved models: `model.safetensors` and `model.json`, never pickle.

What they may hold is stated once, and checked before anything is built from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Len, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor, nn

from samsvae._deprecated import renamed_settings
from samsvae._version import __version__
from samsvae.data.names import NameRegistry
from samsvae.errors import InputError, got, listed
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.inference.latent import BasalPosterior
from samsvae.settings.arguments import check
from samsvae.settings.train import MAX_EVALUATIONS
from samsvae.storage import tensors
from samsvae.storage.files import expanded, read_text, written_together

TENSORS, NAMES = "model.safetensors", "model.json"
_LAYERS, _WIDTH = 1_000, 2**28
"""More than any model has. A size costs nothing as long as no tensor of it is made, and the product
of two is a number of bytes that torch can count."""


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice")
    return names


def _rectangular(rows: list[list[str]]) -> list[list[str]]:
    if len({len(row) for row in rows}) > 1 or [] in rows or len(set(map(tuple, rows))) < len(rows):
        raise ValueError("rows are empty, of several lengths, or stand twice")
    return rows


def _table(history: dict[str, list[float]]) -> dict[str, list[float]]:
    if len({len(column) for column in history.values()}) > 1:
        raise ValueError("columns are of several lengths")
    if any(abs(number) >= 2**63 for column in history.values() for number in column):
        raise ValueError("a number is too large")
    return history


def _check_rows(history: Mapping[str, Any]) -> None:
    """Raise if a history is longer than any: before each of its values is looked at."""
    n_rows = max(map(len, history.values()), default=0)
    if n_rows > 2 * MAX_EVALUATIONS:  # of a run that was resumed, a few more than at first
        raise InputError(f"history has {n_rows:,} rows: no training of ours has as many")


UniqueNames = Annotated[list[str], AfterValidator(_unique)]
Pair = Annotated[list[str], Len(2, 2)]


class _Record(BaseModel):
    """A part of model.json: what is not named here is an error, and nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Parser(_Record):
    control: str
    separator: str
    also: list[str]


class _Registry(_Record):
    genes: Annotated[UniqueNames, MinLen(1)]
    perturbations: UniqueNames
    batches: Annotated[list[list[str]], AfterValidator(_rectangular)]
    symbols: list[str]
    context_columns: int = 0
    counts: bool
    own_library_size: bool
    notation: _Parser

    @model_validator(mode="after")
    def _symbols_are_of_genes(self) -> Self:
        if len(self.symbols) not in (0, len(self.genes)):
            raise ValueError(f"there are {len(self.symbols)} symbols for {len(self.genes)} genes")
        n_columns = len(self.batches[0]) if self.batches else 0
        if not 0 <= self.context_columns <= n_columns:
            raise ValueError(f"{self.context_columns} of {n_columns} batch columns are contexts")
        return self


class _Metadata(_Record):
    vocabulary: _Registry
    conditions: UniqueNames
    unobserved: bool
    dose_unit: Literal["median"] | None = None
    """Of models whose doses are those of the screen: None."""
    sgrnas: Annotated[list[Pair], AfterValidator(_rectangular)]

    @model_validator(mode="after")
    def _sgrnas_are_of_perturbations(self) -> Self:
        others = {name for _, name in self.sgrnas}.difference(self.vocabulary.perturbations)
        if others:
            raise ValueError(
                f"facts.sgrnas name {listed(sorted(others))}, which are no perturbations"
            )
        return self


class _Header(_Record):
    """What model.json holds, besides its digest."""

    schema_version: int
    samsvae_version: str
    estimator: str
    hyperparameters: dict[str, Any]
    history: Annotated[dict[str, list[bool | float]], AfterValidator(_table)]
    facts: _Metadata


class Array(NamedTuple):
    """An array of the training metadata."""

    kind: str
    """Kind of its dtype: "i" for integers, "f" for floating point numbers, "b" for booleans."""
    shape: tuple[str, ...]
    """Name of each axis."""
    low: float = 0.0
    """Lower bound of its values."""


FACTS: dict[str, Array] = {
    "cells_per_condition": Array("i", ("condition",)),
    "cells_per_perturbation": Array("i", ("perturbation",)),
    "median_dose": Array("f", ("perturbation",)),
    "library_size": Array("f", ("cell",), low=-math.inf),  # sums of real values may be
    "batch_shares": Array("f", ("batch",)),
    "cells_per_batch": Array("i", ("condition", "batch or one")),
    "silent": Array("b", ("gene",)),
}
"""The arrays of the training metadata, by their names in the file."""
OPTIONAL: tuple[dict[str, Array], ...] = (
    {
        "spread_of_condition": Array("f", ("condition",)),
        "spread_of_gene": Array("f", ("gene",)),
        "discrepancy_slope": Array("f", ("one",)),
    },
    {
        "counts_of_gene": Array("f", ("gene",)),
        "counts_of_condition": Array("f", ("condition",)),
    },
    {
        "unmeasured_factor": Array("f", ("perturbation", "rank"), low=-1.001),
        "unmeasured_has_features": Array("b", ("perturbation",)),
        "unmeasured_is_measured": Array("b", ("perturbation",)),
        "unmeasured_score": Array("f", ("perturbation", "component"), low=-math.inf),
        "unmeasured_score_variance": Array("f", ("perturbation", "component")),
        "unmeasured_square": Array("f", ("component",)),
        "unmeasured_component": Array("f", ("component", "gene"), low=-math.inf),
        "unmeasured_mean": Array("f", ("gene",), low=-math.inf),
        "unmeasured_spread": Array("f", ("gene",)),
        "unmeasured_width": Array("f", ("one",)),
        "unmeasured_sign_width": Array("f", ("one",)),
        "unmeasured_weight": Array("f", ("source",)),
    },
)
"""Those that may be absent: of each group all, or none."""


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Name the file in errors about what it holds."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(path)!r} is damaged, or not ours: {error}") from error


def check_metadata(metadata: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """Raise unless the arrays of the training metadata fit its names and each other."""
    registry = metadata["vocabulary"]
    n_batches = len(registry["batches"])
    sizes = {
        "condition": len(metadata["conditions"]),
        "perturbation": len(registry["perturbations"]),
        "batch": n_batches,
        "one": 1,
        "batch or one": max(1, n_batches),
        "gene": len(registry["genes"]),
    }
    expected = FACTS.copy()
    for group in OPTIONAL:
        expected |= group if group.keys() & arrays.keys() else {}
    _same_names("facts", arrays, expected)
    for name, array in expected.items():
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
    """Raise unless conditions are written in the standard form, control first."""
    parser = registry.parser
    if not conditions or conditions[0] != parser.control:
        raise InputError(f"the first of facts.conditions is not {got(parser.control)}")
    for name in conditions:
        if registry.stored(name) != name:
            raise InputError(f"facts.conditions hold {got(name)}, written in another way")


def check_hyperparameters(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise if hyperparameters are of another model (`hints`), or larger than any model's."""
    strange = [name for name in values if name not in hints]
    if strange:
        raise InputError(f"the model has no hyperparameters {listed(strange)}")
    for name, value in values.items():
        check(name, value, hints[name])
        if isinstance(value, int) and value > (_LAYERS if "layers" in name else _WIDTH):
            raise InputError(f"{name} is {got(value)}: no model has as many")


def check_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless tensors are the parameters of a model, by name, shape and type."""
    wanted = module.state_dict()
    _same_names("model", state, wanted)
    for name, value in wanted.items():
        tensor = state[name]
        if tensor.shape != value.shape or tensor.dtype != value.dtype:
            raise InputError(
                f"model.{name} is {_size(tensor.shape)}, {tensor.dtype}: expected "
                f"{_size(value.shape)}, {value.dtype}"
            )


def check_control(state: Mapping[str, Tensor], n_latent: int, n_covariates: int) -> None:
    """Raise unless tensors are posteriors of control cells' basal states."""
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


def _same_names(what: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    if missing or extra:
        problem = f"lacks {listed(missing)}" if missing else f"has {listed(extra)} besides"
        raise InputError(f"{what} {problem}")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"


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
    folder = expanded(folder)
    parts = {
        **tensors.prefixed("model", saved.state),
        **tensors.prefixed("facts", saved.metadata.tensors()),
        **tensors.prefixed("control_basal", saved.control_basal._asdict()),
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
    """Return what `write` wrote; raise if files are missing, damaged or of different models."""
    folder = expanded(folder)
    path = folder / NAMES
    if not path.is_file():
        raise InputError(f"no saved model in {str(folder)!r}: it has no {NAMES}")
    try:
        names = json.loads(read_text(path))
        tensors.check_schema(path, names)
        parts, _ = tensors.read(folder / TENSORS)
        _check_rows(names["history"])
        digest = names.pop("digest")
        with of_file(path):
            try:
                _Header.model_validate(names)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the file"
                message = f"{where} is {got(first['input'])}: {first['msg']}"
                raise InputError(" ".join(message.split())) from error
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
    tensors.check_finite(folder / TENSORS, parts)
    return saved


_ONE_HOT = ".embedding.network.hidden.first.weights.1"
"""A parameter of embeddings given their mask, which had no table of updates."""


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
    for name in [name for name in renamed if name.endswith(_ONE_HOT)]:
        embedding = (
            name.removesuffix(_ONE_HOT) + ".embedding"
        )  # given its mask: without an update of its own
        width = len(renamed[f"{embedding}.network.heads.bias"])
        renamed.setdefault(f"{embedding}.updated", torch.zeros(len(renamed[name]), width))
    for name, value in list(renamed.items()):
        if name.endswith((".mask.logits", ".mask.log_a")):  # without the evidence of its entries
            renamed.setdefault(f"{name.rpartition('.')[0]}.evidence", torch.zeros_like(value))
    return renamed
