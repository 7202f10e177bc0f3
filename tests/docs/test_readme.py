"""Every command of the README runs, on a smaller screen than the demo's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.pages import PYTHON, README, ROOT, blocks, demo_folder, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_folder(tmp_path_factory.mktemp("readme"))


@pytest.mark.slow
def test_python(folder: Path) -> None:
    code = "\n".join(blocks("python", README))
    said = run([*PYTHON, "-c", code], folder)
    assert "G01+G02" in said
    assert "lfsr" in said
    assert (folder / "runs" / "mine" / "model.json").is_file()


@pytest.mark.slow
def test_shell(folder: Path) -> None:
    (code,) = [block for block in blocks("sh", README) if "samsvae train" in block]
    run(["bash", "-e", "-c", code], folder)
    for name in ("model.json", "report.html"):
        assert (folder / "runs" / "x" / name).is_file(), name


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert len(targets) >= 10
    assert [name for name in targets if not (ROOT / name).is_file()] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
