"""The README and the pages of the documentation: their blocks, and a folder to run them in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import samsvae
from samsvae.storage.tables import write_h5ad

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials" and page.stem != "index"]

IGNORED = (
    "no C compiler",
    "layouts are principal components alone",
    "no perturbation is named after a gene",
    "8 sgRNAs (obsm",
)
PYTHON = [sys.executable, "-W", "error", *(a for one in IGNORED for a in ("-W", f"ignore:{one}"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    marks: tuple[str, ...]
    code: str


def blocks_of(page: Path) -> list[Block]:
    """Return all fenced blocks of a page; in a list they are indented."""
    found = re.findall(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", page.read_text(), re.M)
    read = []
    for indent, head, code in found:
        language, *marks = head.split() or [""]
        read.append(Block(language, tuple(marks), re.sub(f"^{indent}", "", code, flags=re.M)))
    return read


def blocks(language: str, page: Path) -> list[str]:
    """Return the code of the blocks of a page that are to be run."""
    return [one.code for one in blocks_of(page) if one[:2] == (language, ())]


class Cell(NamedTuple):
    """A cell of a tutorial."""

    is_shown: bool
    code: str


def cells_of(page: Path) -> list[Cell]:
    """Return the code cells of a tutorial; those that are not shown set up plots, and check."""
    found = re.findall(r"^```\{code-cell\}\n((?:.*\n)*?)```$", page.read_text(), re.M)
    hidden = ":tags: [remove-cell]\n\n"
    return [Cell(hidden not in code, code.removeprefix(hidden).rstrip("\n")) for code in found]


def keeps_outputs(page: Path) -> bool:
    """Return whether a tutorial shows the outputs of an earlier run: on real data."""
    return "execution_mode: cache" in page.read_text()


def demo_folder(folder: Path) -> Path:
    """Make a folder look as `make demo` leaves it, with a smaller screen."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=5, n_combinations=2, n_genes=30, cells_per_condition=60, n_control=100
    )
    (folder / "runs" / "demo").mkdir(parents=True)
    write_h5ad(folder / "runs" / "demo" / "screen.h5ad", screen.to_anndata())
    return folder


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, and return what it says."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
