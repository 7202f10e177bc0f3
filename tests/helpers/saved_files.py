"""Names of saved files, and how a crash or a newer version may leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from samsvae.storage import tensors as files

Spoil = Callable[[Path], object]
MODEL, NAMES, CHECKPOINT = "model.safetensors", "model.json", "checkpoint.safetensors"
TIMES = "cells_per_second"


def newer(path: Path) -> None:
    tensors, header = files.read(path)
    files.write(path, tensors, header | {"schema_version": files.SCHEMA_VERSION + 1})


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: min(len(data) - 1, int(share * len(data)))])
