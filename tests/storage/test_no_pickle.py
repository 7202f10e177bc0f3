"""Files are data, never code."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError
from samsvae.estimators import saving

FILES = sorted(Path(samsvae.__file__).parent.rglob("*.py"))
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "run_path", "run_module"),
    *("unsafe_load", "joblib.load", "torch.load", "torch.save", "np.load", "read_pickle"),
    *("pickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"),
}
"""What makes code of data, by name, or by the module it is taken from."""
ALLOWED = {("torch", "compile"), ("re", "compile"), ("dist", "compile")}


def names(tree: ast.AST) -> set[str]:
    """Return what a file calls, takes from modules, or imports."""
    found: set[str] = set()
    harmless = {part for node in ast.walk(tree) if refuses_pickle(node) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if node in harmless:
            continue
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (owner, node.attr) not in ALLOWED:
                found |= {node.attr, f"{owner}.{node.attr}"}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            modules.append(getattr(node, "module", None) or "")
            found |= {part for module in modules for part in module.split(".")}
        elif isinstance(node, ast.keyword):
            found.add(str(node.arg))
    return found


def refuses_pickle(node: ast.AST) -> bool:
    """Whether this is a call np.load(name, allow_pickle=False), which raises on pickled arrays."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "np.load"
        and all(isinstance(value, ast.Name) for value in node.args)
        and [ast.unparse(keyword) for keyword in node.keywords] == ["allow_pickle=False"]
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_of_the_package_makes_code_of_data(path: Path) -> None:
    found = names(ast.parse(path.read_text())) & (RUNS_CODE | {"allow_pickle"})
    assert not found, path


@pytest.mark.parametrize(
    "code",
    [
        *("eval('1')", "import pickle", "np.load('x', allow_pickle=True)", "torch.load(path)"),
        *("np.load(path)", "np.load(eval('1'), allow_pickle=False)"),
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert names(ast.parse(code)) & (RUNS_CODE | {"allow_pickle"})


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [saving.TENSORS, saving.NAMES])
@pytest.mark.parametrize("how", ["pickle", "torch", "numpy"])
def test_a_hostile_file_is_refused_and_runs_nothing(name: str, how: str, tmp_path: Path) -> None:
    model = samsvae.SAMSVAE(read(make_adata()), **SMALL).train(max_steps=1, progress=False)
    model.save(tmp_path)
    mark, path = tmp_path / "mark", tmp_path / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(Hostile(mark)))
    elif how == "torch":
        torch.save({"a": Hostile(mark)}, path)
    else:
        with path.open("wb") as file:
            np.save(file, np.array([Hostile(mark)], object), allow_pickle=True)
    with pytest.raises(InputError):
        samsvae.load(tmp_path)
    assert not mark.exists()
