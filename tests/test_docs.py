"""Every block of the documentation is run (tests/docs), and the reference has every public name."""

from __future__ import annotations

import importlib
import json
import re

import samsvae
import samsvae.plotting
from helpers.pages import PAGES, README, ROOT, TUTORIALS, blocks_of, cells_of, keeps_outputs

MARKS = {"network", "cluster", "gpu", "long"}
"""Words after the language of a block that say why the tests do not run it."""
NOT_CODE = {"text", "{eval-rst}", "{glossary}", "{toctree}", "{code-cell}"}
"""Cells of tutorials are run by the build of the documentation, and by tests/docs."""

NOT_RUN = {
    ("README.md", "sh", "long"): ["make demo "],
    ("docs/evaluation.md", "sh", "long"): ["samsvae compare papalexi2021.h5ad"],
    ("docs/index.md", "sh", "network"): ["pip install ."],
    ("docs/performance.md", "sh", "long"): ["make bench "],
    ("docs/reliability.md", "sh", "long"): ["make soak"],
    ("docs/large.md", "sh", "cluster"): ["torchrun --nproc-per-node 2", "srun --nodes 2"],
    ("docs/large.md", "python", "cluster"): ["import ray.train.torch"],
    ("docs/reproduce.md", "sh", "long"): [
        "samsvae datasets stand-in replogle",
        "samsvae reproduce norman-ood --data norman2019.h5ad",
    ],
    ("docs/reproduce.md", "sh", "network"): ["samsvae datasets fetch norman"],
    ("docs/reproduce.md", "sh", "cluster"): ["ray start --head"],
    ("docs/tutorials/first-screen.md", "sh", "long"): ["samsvae inspect screen.h5ad"],
}
"""How each block begins that is not run, by page, language and mark."""


def test_every_block_is_run_or_says_why_not() -> None:
    marked: dict[tuple[str, ...], list[str]] = {}
    for page in (README, *PAGES):
        fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(), re.M)
        assert len(fences) == 2 * len(blocks_of(page)), f"{page.name}: a block that is not read"
        for language, marks, code in blocks_of(page):
            name = str(page.relative_to(ROOT))
            if language in NOT_CODE:
                assert not marks, (name, marks)
            elif marks:
                assert set(marks) <= MARKS, (name, marks)
                marked.setdefault((name, language, *marks), []).append(code)
            else:
                assert language in ("python", "sh"), f"{name}: {language!r} is not run"
    assert marked.keys() == NOT_RUN.keys()
    for key, begin in NOT_RUN.items():
        assert len(marked[key]) == len(begin), key
        for code, start in zip(marked[key], begin, strict=True):
            assert code.startswith(start), code


def test_kept_outputs_are_of_the_code_that_tutorials_show() -> None:
    kept = {path.stem: path for path in (ROOT / "docs" / "tutorials" / "kept").glob("*.ipynb")}
    assert kept.keys() == {page.stem for page in TUTORIALS if keeps_outputs(page)}
    for page in TUTORIALS:
        if keeps_outputs(page):
            cells = json.loads(kept[page.stem].read_text(encoding="utf-8"))["cells"]
            run = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            assert run == [cell.code for cell in cells_of(page)], f"make tutorials: {page.name}"


def test_the_gallery_shows_every_plot() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(r"^!\[.{20,}\]\(_gallery/(\w+)\.png\)$", page, re.M)
    assert sorted(shown) == sorted(samsvae.plotting.__all__)


def test_every_public_name_is_in_the_reference() -> None:
    told = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    modules = ("baselines", "datasets", "export", "plotting", "splits")
    names = [f"samsvae.{name}" for name in samsvae.__all__ if name not in (*modules, "__version__")]
    for module in modules:
        home = "data.splits" if module == "splits" else module
        found = importlib.import_module(f"samsvae.{home}")
        names += [f"samsvae.{module}.{name}" for name in found.__all__]
    assert [name for name in names if not re.search(rf":: {re.escape(name)}$", told, re.M)] == []
