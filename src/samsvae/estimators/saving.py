"""Saved models: `model.safetensors` beside `model.json`, never pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from samsvae._version import __version__
from samsvae.errors import InputError
from samsvae.estimators import schema
from samsvae.estimators.facts import Facts
from samsvae.inference.latent import BasalPosterior
from samsvae.storage import tensors
from samsvae.storage.files import written_together

TENSORS, NAMES = "model.safetensors", "model.json"


class Saved(NamedTuple):
    """What is saved of a trained model."""

    estimator: str
    """Its name in the family."""
    hyperparameters: dict[str, Any]
    history: dict[str, list[float]]
    facts: Facts
    state: dict[str, Tensor]
    """Of the module."""
    control_basal: BasalPosterior


def write(saved: Saved, folder: str | os.PathLike[str]) -> None:
    """Save a trained model; see `Estimator.save`."""
    folder = Path(folder)
    parts = {
        **tensors.prefixed("model", saved.state),
        **tensors.prefixed("facts", saved.facts.tensors()),
        **tensors.prefixed("control_basal", saved.control_basal.tensors()),
    }
    names = {
        "schema_version": tensors.SCHEMA_VERSION,
        "samsvae_version": __version__,
        "estimator": saved.estimator,
        "hyperparameters": saved.hyperparameters,
        "facts": saved.facts.header(),
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
        with schema.of_file(path):
            schema.check_names(names)
            schema.check_facts(names["facts"], tensors.unprefixed("facts", parts))
        saved = Saved(
            names["estimator"],
            names["hyperparameters"],
            names["history"],
            Facts.restored(names["facts"], tensors.unprefixed("facts", parts)),
            tensors.unprefixed("model", parts),
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
