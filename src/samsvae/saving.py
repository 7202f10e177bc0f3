"""Saved models: `model.safetensors` beside `model.json`, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from samsvae._version import __version__
from samsvae.errors import InputError
from samsvae.evaluation.latent import BasalPosterior
from samsvae.facts import Facts
from samsvae.files import written_aside
from samsvae.train import checkpoint

if TYPE_CHECKING:
    from samsvae.estimator import Estimator

TENSORS, NAMES = "model.safetensors", "model.json"


def save(model: Estimator, folder: str | os.PathLike[str]) -> None:
    """Save a trained model; see `Estimator.save`."""
    if not model.is_trained:
        raise InputError("the model is not trained: there is nothing to save yet")
    folder = Path(folder)
    tensors = {
        **checkpoint.prefixed("model", model.module.state_dict()),
        **checkpoint.prefixed("facts", model.facts.tensors()),
        **checkpoint.prefixed("control_basal", model.control_basal._asdict()),
    }
    names = {
        "schema_version": checkpoint.SCHEMA_VERSION,
        "samsvae_version": __version__,
        "estimator": model.name,
        "hyperparameters": model.hyperparameters,
        "facts": model.facts.header(),
        "history": model.history.to_dict("list"),
        "tensors": _digest(tensors),
    }
    # Both are written before either is renamed: on a full disk the old pair survives.
    with written_aside(folder / TENSORS) as aside, written_aside(folder / NAMES) as names_aside:
        aside.write_bytes(checkpoint.to_bytes(tensors, {}))
        names_aside.write_text(json.dumps(names, indent=1))


class Saved(NamedTuple):
    """What `save` wrote."""

    names: dict[str, Any]
    """The JSON file."""
    facts: Facts
    state: dict[str, Tensor]
    """Of the module."""
    control_basal: BasalPosterior


def read(folder: str | os.PathLike[str]) -> Saved:
    """Return what `save` wrote.

    Raises
    ------
    InputError
        If a file is missing, not whole, of a newer schema, or does not belong to the other.
    """
    path = Path(folder) / NAMES
    if not path.is_file():
        raise InputError(f"no saved model in {str(folder)!r}: it has no {NAMES}")
    try:
        names = json.loads(path.read_text())
        checkpoint.check_schema(path, names)
        tensors, _ = checkpoint.read(Path(folder) / TENSORS)
        facts = Facts.restored(names["facts"], checkpoint.unprefixed("facts", tensors))
        control_basal = BasalPosterior(**checkpoint.unprefixed("control_basal", tensors))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not whole, or not a file of ours: {error}") from error
    if names["tensors"] != _digest(tensors):
        raise InputError(
            f"{NAMES} and {TENSORS} in {str(folder)!r} do not belong together: save the model again"
        )
    return Saved(names, facts, checkpoint.unprefixed("model", tensors), control_basal)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
