"""The order of imports, what the numeric core needs, and what `import samsvae` brings along."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "samsvae"

ORDER = [
    ["types", "errors", "_version", "_threads"],
    ["ops", "storage", "_deprecated"],
    ["settings", "model", "objective"],
    ["data"],
    ["train", "inference"],
    ["estimators"],
    ["benchmark"],
    ["analysis"],
    ["export", "plotting", "report"],
    ["runs"],
    ["reproduce"],
    ["baselines", "datasets", "features"],
    ["cli"],
    ["__main__"],
]
"""What stands on a line may import what stands above it (and its own folder)."""

RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
TOP = {
    "types",
    "errors",
    "objective",
    "_version",
    "_threads",
    "_deprecated",
    "__main__",
    "__init__",
}
THIN = {"baselines", "datasets", "features"}
"""Public modules that only hand on what other folders define."""
CORE = {"types", "ops", "model", "objective", "train.step"}
DATA_NEEDS = {"storage", "types", "errors", "_deprecated", "settings", "ops", "data"}


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def place(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """Return what a file imports, `from a import b` as both a and a.b.

    What it imports for types alone counts, too, unless it is left out.
    """
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only and not for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("samsvae.")}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; none if there is no such."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("path", modules(), ids=place)
def test_imports_go_one_way(path: Path) -> None:
    here = place(path).split(".")[0]
    for name in rooms(imported(path)):
        assert name == here or RANK[name] < RANK[here], f"{place(path)} imports {name}"


def test_there_is_no_circle() -> None:
    files = {f"samsvae.{place(path)}": path for path in modules()}
    graph = {}
    for name, path in files.items():
        found = imported(path) & files.keys() - {name}
        # `from folder import file` is of the file: the folder comes with everything in it.
        graph[name] = {one for one in found if not any(o.startswith(f"{one}.") for o in found)}
    assert circle(graph) == []


def test_a_circle_would_be_seen() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_the_top_level_holds_records_and_thin_modules() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")}
    assert files == TOP | THIN
    for name in THIN:
        body = ast.parse((SOURCE / f"{name}.py").read_text()).body[1:]
        assert all(isinstance(node, ast.ImportFrom | ast.Assign) for node in body), name


def test_every_room_has_a_place_in_the_order() -> None:
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert folders | TOP | THIN == {*RANK, "__init__"}
    assert len(ORDER) <= 14


@pytest.mark.parametrize("path", [p for p in modules() if place(p).startswith("data")], ids=place)
def test_data_needs_neither_models_nor_networks(path: Path) -> None:
    assert rooms(imported(path)) <= DATA_NEEDS or place(path) == "datasets"


@pytest.mark.parametrize(
    "path", [p for p in modules() if place(p) in CORE or place(p).split(".")[0] in CORE], ids=place
)
def test_the_numeric_core_needs_torch_and_numpy_only(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    others = {"scipy"} if place(path) == "ops.ordering" else set()
    assert roots - set(sys.stdlib_module_names) <= {"torch", "numpy", "samsvae", *others}


def loaded(code: str, names: list[str]) -> str:
    """Return which of some modules a line of Python brings along."""
    code = f"import sys; {code}; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_import_is_light() -> None:
    heavy = ["torch", "anndata", "pandas", "sklearn", "matplotlib", "cyclopts", "samsvae.cli"]
    assert loaded("import samsvae", heavy) == "[]"
    assert loaded("import samsvae; samsvae.plotting.volcano", ["matplotlib"]) == "['matplotlib']"
    every = (
        "import samsvae; [getattr(samsvae, name) for name in samsvae.__all__ if name != 'plotting']"
    )
    assert loaded(every, ["sklearn", "matplotlib", "cyclopts", "samsvae.cli"]) == "[]"


HEAVY = ["torch", "anndata", "pandas", "scipy", "numpy", "pydantic", "matplotlib"]


@pytest.mark.parametrize("line", ["--help", "train --help", "compare --help", "train --nonsense"])
def test_help_and_mistakes_need_neither_torch_nor_anndata(line: str) -> None:
    code = (
        f"sys.argv = ['samsvae', *{line.split()}]; import samsvae.__main__ as m\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_public_name_is_found_and_has_a_docstring() -> None:
    import samsvae

    assert {*samsvae.__all__} <= {*dir(samsvae)}
    bare = [
        name for name in samsvae.__all__ if name[0] != "_" and not getattr(samsvae, name).__doc__
    ]
    assert bare == []
    with pytest.raises(AttributeError, match="nonsense"):
        samsvae.nonsense  # noqa: B018


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
