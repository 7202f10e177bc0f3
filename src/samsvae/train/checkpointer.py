"""Checkpoints: written while a model is trained, read and checked when training is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from samsvae.errors import InputError, got, listed
from samsvae.settings.arguments import Natural
from samsvae.settings.train import TrainSettings
from samsvae.storage import tensors as files
from samsvae.storage.files import expanded, remove_half_written
from samsvae.train.processes import Processes

_NEWER = {"risen_elbo", "since_rise", "latest_alignment"}
"""Entries of a header that older checkpoints lack."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors of one part: "model", "optimizer" or "best"."""
        return files.unprefixed(prefix, self.tensors)


class Checkpointer:
    """Writes and reads the checkpoint of one training run (none without a path), for all processes.

    `saved` is called after every checkpoint.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        processes: Processes,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.processes, self.saved = path, processes, saved
        self.exists = False
        """Whether this run has written or read it."""

    def write(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Write tensors by name, and a header of JSON, if this run and process write any."""
        if self.path is None or not self.processes.writes:
            return
        files.write(self.path, tensors, header)
        self.exists = True
        self.saved()

    def read(self) -> Checkpoint | None:
        """Return the checkpoint, None where there is none: the first process reads it for all."""
        content = None
        if self.processes.writes and self.path is not None:
            remove_half_written(self.path)
            content = files.read(self.path) if expanded(self.path).exists() else None
        if self.processes.size > 1:
            sent = self.processes.from_first(None if content is None else files.to_bytes(*content))
            content = None if sent is None else files.from_bytes(sent)
        self.exists = content is not None
        return None if content is None else Checkpoint(*content)

    def check(self, checkpoint: Checkpoint, *, header: Mapping[str, Any], model: nn.Module) -> None:
        """Raise unless a checkpoint is of this model and has the header that it would write."""
        path, theirs = str(self.path), checkpoint.header
        if not theirs.keys() >= header.keys() - _NEWER:
            raise InputError(f"{path!r} is not a checkpoint of training")
        try:
            _Header.model_validate(theirs)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{path!r} is damaged: its {where} is {got(first['input'])}; start another run"
            ) from error
        before = TrainSettings().decisive | theirs["settings"]  # older ones lack newer settings
        for name, value in header["settings"].items():
            if before[name] != value:
                raise InputError(
                    f"the checkpoint {path!r} was trained with {name} {before[name]}, not "
                    f"{value}: resume with the settings it was started with"
                )
        finite = {k: v for k, v in checkpoint.tensors.items() if not k.startswith("pending")}
        files.check_finite(path, finite)
        ours = _shapes(model.state_dict())
        if _shapes(checkpoint.part("model")) != ours or any(
            theirs[what] != header[what] for what in ("model", "data")
        ):
            raise InputError(f"the checkpoint {path!r} is of another model or other data")
        best = _shapes(checkpoint.part("best"))
        if best not in ({}, ours) or bool(best) != (theirs["best_elbo"] is not None):
            raise InputError(f"{path!r} is damaged: its best model is not whole; start another run")
        if theirs["order"] != header["order"]:
            raise InputError(
                f"the checkpoint {path!r} took its cells in another order, counts in memory "
                "or in a file: resume with in_memory as it was"
            )


class _Header(BaseModel):
    """What is read of a checkpoint's header, which nothing is converted of."""

    model_config = ConfigDict(strict=True)
    step: Natural
    history: list[dict[str, float | bool]]
    metric_names: list[str]
    best_elbo: float | None
    since_best: Natural
    aligned_after: Natural | None
    settings: dict[str, Any]
    # Of `_NEWER`, which may be missing.
    risen_elbo: float | None = None
    since_rise: Natural = 0
    latest_alignment: Natural | None = None


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


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
        index, _, name = key.partition(".")
        state.setdefault(int(index) if index.isdecimal() else -1, {})[name] = value
    of_group = (group["params"] for group in optimizer.param_groups)
    parameters: dict[int, Tensor] = dict(enumerate(one for group in of_group for one in group))
    for number, slot in state.items():  # of parameters that never had a gradient there is none
        like = parameters.get(number, torch.empty(0, dtype=torch.int8))
        expected = {"step": torch.zeros(()), "exp_avg": like, "exp_avg_sq": like}
        if _shapes(slot) != _shapes(expected):
            raise InputError(
                f"the checkpoint is damaged: of parameter {number} its optimiser holds "
                f"{listed(slot)}, of {listed(tuple(x.shape) for x in slot.values())}; start "
                "another run"
            )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
