"""Devices by name, and which of several processes this one is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from samsvae.errors import InputError

if TYPE_CHECKING:
    import torch


def started_together() -> bool:
    """Whether several processes were started to work together (by torchrun)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def rank() -> int:
    """Return the rank of this process; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if started_together() else 0


def resolve_device(device: str) -> torch.device:
    """Return a device by name; "auto" is a GPU where there is one."""
    import torch  # slow: the command line asks for ranks alone

    if device == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not gpus:
            return torch.device("cpu")
        if not started_together():
            return torch.device("cuda")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used ({reason}): expected 'auto', 'cpu' or 'cuda'"
        ) from error
    return resolved
