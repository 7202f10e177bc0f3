"""Lets samsvae's numeric core be imported where torch and numpy are all there is."""

from __future__ import annotations

import sys
import types
from pathlib import Path

try:
    import samsvae  # noqa: F401
except ImportError:
    package = types.ModuleType("samsvae")
    package.__path__ = [str(Path(__file__).parents[1] / "src" / "samsvae")]
    sys.modules["samsvae"] = package
