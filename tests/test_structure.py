"""The order of imports, what the numeric core needs, and what `import samsvae` brings along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "samsvae"

ORDER = [
    ["types", "errors", "signature", "_version", "_threads"],
    ["files", "ops", "parallel"],
    ["model"],
    ["objective"],
    ["data"],  # needs types only, and errors, signature and ops
    ["train"],
    ["evaluation", "facts", "datasets"],
    ["saving"],
    ["answers"],
    ["estimator"],
    ["estimators", "baselines"],
    ["scoring", "export"],
    ["options"],
    ["run"],
    ["demo", "compare", "printed"],
    ["cli"],
    ["__main__"],
]
"""What stands on a line may import what stands above it (and its own folder)."""

RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
CORE = {"types", "ops", "model", "objective", "train.step"}
DATA_NEEDS = {"types", "errors", "signature", "ops", "data"}


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def place(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path) -> set[str]:
    """Return the modules a file imports at run time, `from a import b` as both a and a.b."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("samsvae.")}


@pytest.mark.parametrize("path", modules(), ids=place)
def test_imports_go_one_way(path: Path) -> None:
    here = place(path).split(".")[0]
    for name in own(imported(path)):
        assert name == here or RANK[name] < RANK[here], f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if place(p).startswith("data")], ids=place)
def test_data_needs_types_only(path: Path) -> None:
    assert own(imported(path)) <= DATA_NEEDS


@pytest.mark.parametrize(
    "path", [p for p in modules() if place(p) in CORE or place(p).split(".")[0] in CORE], ids=place
)
def test_the_numeric_core_needs_torch_and_numpy_only(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "numpy", "samsvae"}


def test_import_is_light() -> None:
    heavy = [
        "sklearn",
        "matplotlib",
        "cyclopts",
        "samsvae.cli",
        "samsvae.plotting",
        "samsvae.report",
    ]
    code = f"import sys, samsvae; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_has_a_docstring() -> None:
    import samsvae

    bare = [
        name for name in samsvae.__all__ if name[0] != "_" and not getattr(samsvae, name).__doc__
    ]
    assert bare == []


def test_the_step_benchmark_needs_torch_and_numpy_only() -> None:
    absent = ["anndata", "pandas", "scipy", "sklearn", "cyclopts", "rich", "safetensors"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "from step import *; shape = SHAPES['replogle']._replace(n_genes=40, n_perturbations=30);"
        "batch_of = shape.resident(600, torch.device('cpu')).batch;"
        "batch = batch_of(torch.arange(64)); model = shape.model();"
        "take = PlainStep(model, torch.optim.Adam(model.parameters()));"
        "print(take(batch, *draw_noise(model, batch, 1, torch.Generator()))['elbo'].item())"
    )
    folder = SOURCE.parents[1] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0
