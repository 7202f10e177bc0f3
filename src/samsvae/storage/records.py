"""Records as JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samsvae.errors import InputError
from samsvae.storage.files import write_text


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record that a JSON file holds.

    Raises
    ------
    InputError
        If it is not JSON, or holds no record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)!r} is damaged ({error}): remove it") from error
    if not isinstance(record, dict):
        raise InputError(f"{os.fspath(path)!r} is damaged (no record): remove it")
    return record


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a record; aside, then renamed."""
    write_text(path, json.dumps(record, indent=2) + "\n")
