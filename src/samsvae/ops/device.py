"""Devices by name."""

from __future__ import annotations

import torch

from samsvae.errors import InputError
from samsvae.ops.ranks import local_rank, started_together


def resolve_device(device: str) -> torch.device:
    """Return a device by name; "auto" is a GPU where there is one."""
    if device == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not gpus:
            return torch.device("cpu")
        return (
            torch.device("cuda", local_rank() % gpus)
            if started_together()
            else torch.device("cuda")
        )
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used ({reason}): expected 'auto', 'cpu' or 'cuda'"
        ) from error
    return resolved
