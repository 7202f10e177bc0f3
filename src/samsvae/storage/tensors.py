"""Files of tensors with a JSON header: never half-written, never pickle."""

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
from samsvae.storage.files import expanded, written_aside

SCHEMA_VERSION = 7
"""Raised whenever a file written now could not be read by earlier code."""


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return a digest of the name, type, shape and values of every tensor, and of the header.

    >>> import torch
    >>> a = {"a": torch.zeros(2)}
    >>> digest(a, {}) == digest(a, {"seed": 0})
    False
    >>> digest(a, {}) == digest({"a": torch.zeros(2, dtype=torch.int32)}, {})
    False
    """
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()


def to_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return the content of a file: tensors, a header for JSON, and their digest."""
    complete = {"schema_version": SCHEMA_VERSION, **header}
    complete["digest"] = digest(tensors, complete)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, {"samsvae": json.dumps(complete)})  # one entry: the order of several varies


def from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header that `to_bytes` was given, unchecked.

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
    """Write tensors and a header; after a failure the old file is unchanged."""
    with written_aside(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, header))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file, after checking its schema and digest."""
    if not (path := expanded(path)).is_file():
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
        is_unchanged = header.pop("digest", None) == digest(tensors, header)
    except TypeError:  # a type of tensor that we never write
        is_unchanged = False
    if not is_unchanged:
        raise InputError(f"{str(path)!r} is damaged: it is not what was written")
    return tensors, header


def check_finite(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Raise if a parameter is not finite."""
    wrong = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if wrong:
        raise InputError(
            f"{str(path)!r} holds values that are not finite, in {listed(wrong)}: "
            "train the model anew"
        )


def check_schema(path: Path, header: Mapping[str, Any]) -> None:
    """Raise if a header was written by a newer or an older samsvae."""
    version = header.get("schema_version")
    if version == SCHEMA_VERSION:
        return
    reads, advice = f"up to {SCHEMA_VERSION}", "install a newer samsvae"
    if isinstance(version, int) and version < SCHEMA_VERSION:
        reads = f"{SCHEMA_VERSION}"
        advice = "it was written before the first release, train the model anew"
    raise InputError(
        f"{str(path)!r} has schema version {version}, this samsvae reads {reads}: {advice}"
    )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under `prefix.name`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.name`, by name."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
