"""The classes that docs/extending.md defines, as a reader who copies them would have them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from samsvae.model.likelihood import Likelihood
from samsvae.model.mask import Mask

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def _defined() -> dict[str, Any]:
    """Run the imports and class definitions of the page, and nothing else of it."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    kinds = ast.Import | ast.ImportFrom | ast.ClassDef
    tree = ast.parse(code)
    tree.body = [node for node in tree.body if isinstance(node, kinds)]
    names: dict[str, Any] = {}
    exec(compile(tree, str(PAGE), "exec"), names)
    return names


_CLASSES = {name: value for name, value in _defined().items() if isinstance(value, type)}
DOCUMENTED_MASKS: list[type[Mask]] = [
    kind for name, kind in _CLASSES.items() if name == "EmpiricalMask"
]
DOCUMENTED_LIKELIHOODS: list[type[Likelihood]] = [
    kind for name, kind in _CLASSES.items() if name == "LaplaceLikelihood"
]
