"""Devices by name."""

from __future__ import annotations

import torch

from samsvae.errors import InputError


def resolve_device(device: str) -> torch.device:
    """Return a device by name; "auto" is a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used ({reason}): expected 'auto', 'cpu' or 'cuda'"
        ) from error
    return resolved
