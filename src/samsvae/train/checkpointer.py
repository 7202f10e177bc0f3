"""Checkpoints: how they are found, and whether they are of the run that is to go on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samsvae.errors import InputError
from samsvae.settings.train import TrainSettings
from samsvae.storage import tensors as files
from samsvae.storage.files import remove_half_written
from samsvae.train.processes import Processes


def read(
    path: str | os.PathLike[str] | None, processes: Processes
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the header of a checkpoint, None without one.

    The first process reads it for all.
    """
    found = None
    if processes.writes and path is not None:
        remove_half_written(path)
        found = files.read(path) if Path(path).exists() else None
    if processes.size > 1:
        content = processes.from_first(None if found is None else files.to_bytes(*found))
        found = None if content is None else files.from_bytes(content)
    return found


def check(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    *,
    ours: Mapping[str, Any],
    model: nn.Module,
) -> None:
    """Raise unless a checkpoint is of this run.

    Parameters
    ----------
    path
        Where it is.
    tensors, header
        What it holds.
    ours
        The header that this run would write.
    model
        That is trained.
    """
    if not header.keys() >= ours.keys():
        raise InputError(f"{str(path)!r} is not a checkpoint of training")
    before = TrainSettings().decisive | header["settings"]  # older ones lack what is new
    for name, value in ours["settings"].items():
        if before[name] != value:
            raise InputError(
                f"the checkpoint {str(path)!r} was trained with {name} {before[name]}, not "
                f"{value}: resume with the settings it was started with"
            )
    files.check_finite(path, {k: v for k, v in tensors.items() if not k.startswith("pending")})
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in files.unprefixed("model", tensors).items()}
    if found != shapes or any(header[what] != ours[what] for what in ("model", "data")):
        raise InputError(f"the checkpoint {str(path)!r} is of another model or other data")
    if header["order"] != ours["order"]:
        raise InputError(
            f"the checkpoint {str(path)!r} took its cells in another order, counts in memory "
            "or in a file: resume with in_memory as it was"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors, by parameter and name."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, slot in state.items() for name, value in slot.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser back the state that `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
