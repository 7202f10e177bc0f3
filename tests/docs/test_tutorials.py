"""The code of every tutorial runs, in a short form: training takes few steps.

Without what the cells check that are not shown: this holds of the full form, which the build of the
documentation takes (simulated screens), or `make tutorials` (real data).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from helpers.pages import PYTHON, ROOT, TUTORIALS, cells_of, keeps_outputs, run

DATA = Path(os.environ.get("SAMSVAE_TEST_DATA", ROOT.parent / "shared" / "data"))
STEPS = 60
READY = f"""
import functools, os, subprocess, warnings
import matplotlib
matplotlib.use("agg")
matplotlib.rcParams["figure.max_open_warning"] = 0
import samsvae
warnings.simplefilter("ignore")
train = samsvae.SAMSVAE.train
samsvae.SAMSVAE.train = lambda self, **settings: train(self, **settings | {{"max_steps": {STEPS}}})
"""


def short(code: str) -> str:
    """Return the code of a cell as Python: commands become calls, and train for few steps."""
    command = re.match(r"(?:!|%%bash\n)((?:.*\n)*.*)$", code)
    if command is None:
        return code
    text = command[1].replace("samsvae train", f"samsvae train --max-steps {STEPS}")
    return f"subprocess.run({text!r}, shell=True, check=True)"


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=[page.stem for page in TUTORIALS])
def test_tutorials(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if keeps_outputs(page):
        monkeypatch.setenv("SAMSVAE_DATA", str(DATA.resolve()))
        names = re.findall(r'locate\("([\w.]+)"\)', page.read_text())
        if missing := [name for name in names if not (DATA / name).is_file()]:
            pytest.skip(f"no {missing[0]} in {DATA}: set SAMSVAE_TEST_DATA")
    cells = [short(cell.code) for cell in cells_of(page) if "\nassert " not in f"\n{cell.code}"]
    code = "\n".join([READY, *cells, "print('end of the tutorial')"])
    said = run([*PYTHON, "-c", code], tmp_path)
    assert said.rstrip().endswith("end of the tutorial")
