"""Files of tensors with a JSON header: whole or not there, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from samsvae.errors import InputError
from samsvae.storage.files import written_aside

SCHEMA_VERSION = 4
"""Raised whenever a file written now could not be read by the code of before."""


def to_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return tensors and a header that JSON can hold, as the bytes of a file."""
    metadata = {"samsvae": json.dumps({"schema_version": SCHEMA_VERSION, **header})}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, metadata)


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header; the old file survives a failure."""
    with written_aside(path) as aside:
        aside.write_bytes(to_bytes(tensors, header))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file.

    Raises
    ------
    InputError
        If the file is not there, not whole, or of a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is not whole, or not a file of ours: {error}") from error
    if "samsvae" not in metadata:
        raise InputError(f"{str(path)!r} was not written by samsvae")
    header = json.loads(metadata["samsvae"])
    check_schema(path, header)
    return tensors, header


def check_schema(path: Path, header: Mapping[str, Any]) -> None:
    """Raise if a header was written by a newer or by an older samsvae."""
    version = header.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(
            f"{str(path)!r} has schema version {version}, this samsvae reads up to "
            f"{SCHEMA_VERSION}: install a newer samsvae"
        )
    if version < SCHEMA_VERSION:
        raise InputError(
            f"{str(path)!r} has schema version {version}, this samsvae reads {SCHEMA_VERSION}: it "
            "was written before the first release, train the model anew"
        )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under `prefix.name`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.name`, by name."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
