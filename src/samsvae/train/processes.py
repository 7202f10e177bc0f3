"""Processes that train one model together: each takes its share of every batch.

All of them draw the noise of the whole batch, so together they take the steps that one process
alone would take, but for the order in which gradients are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias

import torch
from torch import Tensor, nn

from samsvae.errors import InputError, LostProcessError, first_line
from samsvae.ops.device import started_together

_WAIT = timedelta(minutes=10)
"""How long a process waits for one that says nothing, and is not known to be gone."""


class SingleProcess:
    """The one process that trains a model: nothing has to be exchanged."""

    rank, size = 0, 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files, and shows how training goes."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """Which of a batch's cells are this process's."""
        return slice(self.rank, None, self.size)

    def of_batch(self, n_cells: int) -> float:
        """Return this process's cells of a batch; raise if some process would have none."""
        if n_cells < self.size:
            raise InputError(
                f"{self.size} processes cannot share batches of {n_cells} cells: start at most "
                f"{n_cells}, or take a larger batch_size, on a screen with more training cells"
            )
        return len(range(n_cells)[self.part]) / n_cells

    def sum(self, values: Sequence[Tensor], share: float = 1.0) -> None:
        """Replace tensors by their sum over the processes, each times its own share."""

    def any(self, flag: bool) -> bool:
        """Whether any of the processes says so."""
        return flag

    def same(self, module: nn.Module) -> None:
        """Give a model of all processes the parameters and buffers of the first one's."""

    def from_first(self, content: bytes | None) -> bytes | None:
        """Return what the first process gives; the others may give anything."""
        return content


class ProcessGroup(SingleProcess):
    """One of several processes of torch.distributed: by gloo on the host, by nccl between GPUs."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        on_gpu = torch.distributed.get_backend() == "nccl"
        self.device = device if on_gpu else torch.device("cpu")

    def sum(self, values: Sequence[Tensor], share: float = 1.0) -> None:
        for kind in dict.fromkeys(value.dtype for value in values):  # one message of each
            some = [value for value in values if value.dtype == kind]
            flat = torch.cat([value.flatten() for value in some]).mul_(share).to(self.device)
            with _lost_processes_named():
                torch.distributed.all_reduce(flat)
            for value, summed in zip(some, flat.split([v.numel() for v in some]), strict=True):
                value.copy_(summed.view_as(value))

    def any(self, flag: bool) -> bool:
        count = torch.tensor([float(flag)])
        self.sum([count])
        return bool(count > 0)

    def same(self, module: nn.Module) -> None:
        for value in module.state_dict().values():
            sent = value.detach().to(self.device).contiguous()
            with _lost_processes_named():
                torch.distributed.broadcast(sent, 0)
            value.copy_(sent)

    def from_first(self, content: bytes | None) -> bytes | None:
        size = -1 if content is None else len(content)
        length = torch.tensor([size], device=self.device)
        with _lost_processes_named():
            torch.distributed.broadcast(length, 0)
        if length < 0:
            return None
        sent = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            assert content is not None
            sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        with _lost_processes_named():
            torch.distributed.broadcast(sent, 0)
        return sent.cpu().numpy().tobytes()


Processes: TypeAlias = SingleProcess
"""The processes that train a model, as one of them sees them."""


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Give the processes that train together: those of torchrun or Ray Train, or this one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        yield ProcessGroup(device) if torch.distributed.get_world_size() > 1 else SingleProcess()
        return
    if not started_together():
        yield SingleProcess()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        torch.distributed.init_process_group(backend, timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes that train together do not find each other ({first_line(error)}): "
            "start them by torchrun, see docs/large.md"
        ) from error
    try:
        yield ProcessGroup(device)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _lost_processes_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"another of the processes that train together is gone ({first_line(error)})"
        ) from error
