"""Files of tensors with a JSON header: whole or not there, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from samsvae.errors import InputError, listed
from samsvae.storage.files import written_aside

SCHEMA_VERSION = 7
"""Raised whenever a file written now could not be read by the code of before."""


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return a digest of the name, type, shape and values of every tensor, and of the header.

    Examples
    --------
    >>> import torch
    >>> a = {"a": torch.zeros(2)}
    >>> digest(a, {}) == digest(a, {"seed": 0})
    False
    >>> digest(a, {}) == digest({"a": torch.zeros(2, dtype=torch.int32)}, {})
    False
    """
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def to_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return tensors and a header that JSON can hold, with their digest, as the bytes of a file."""
    whole = {"schema_version": SCHEMA_VERSION, **header}
    whole["digest"] = digest(tensors, whole)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, {"samsvae": json.dumps(whole)})  # one entry: several come in any order


def from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header that `to_bytes` was given; for files there is `read`.

    >>> import torch
    >>> from_bytes(to_bytes({"a": torch.zeros(1)}, {"step": 3}))[1]["step"]
    3
    """
    n_bytes = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + n_bytes])["__metadata__"]
    return load(content), json.loads(metadata["samsvae"])


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header; the old file survives a failure."""
    with written_aside(path) as aside:
        aside.write_bytes(to_bytes(tensors, header))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["samsvae"]) if "samsvae" in metadata else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not whole, or not a file of ours: {error}") from error
    if not isinstance(header, dict):
        raise InputError(f"{str(path)!r} was not written by samsvae")
    check_schema(path, header)
    try:
        whole = header.pop("digest", None) == digest(tensors, header)
    except TypeError:  # a type that we never write
        whole = False
    if not whole:
        raise InputError(f"{str(path)!r} is damaged: it is not what was written")
    return tensors, header


def check_finite(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Raise if a parameter is not a finite number."""
    wrong = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if wrong:
        raise InputError(
            f"{str(path)!r} holds values that are not finite, in {listed(wrong)}: "
            "train the model anew"
        )


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
