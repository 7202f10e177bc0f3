"""Files are data, never code."""

from __future__ import annotations

import ast
from pathlib import Path

import samsvae


def test_nothing_is_pickled() -> None:
    files = list(Path(samsvae.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = {
                getattr(node, field, None) for field in ("name", "attr", "id", "arg", "module")
            }
            assert not any("pickle" in str(name) for name in names), file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, (
                    file
                )
