"""Settings as TOML files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samsvae.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If there is no such file, or it is not TOML.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected a TOML file of settings")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not TOML: {error}") from error


def toml(values: Mapping[str, Any]) -> str:
    """Write settings as TOML. None is the absence of a setting, and is left out.

    >>> print(toml({"n_latent": 20, "batch_key": None, "mask": "bernoulli"}), end="")
    n_latent = 20
    mask = "bernoulli"
    """
    lines = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, float):
            text = repr(value)
        else:  # JSON's strings, integers and booleans are TOML's, but for one character
            text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
            text = text.replace("\x7f", "\\u007f")
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
