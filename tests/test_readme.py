"""Every command of the README and of the docs runs, on a smaller screen than the demo's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import samsvae
from samsvae.storage.h5ad import write_h5ad

ROOT = Path(__file__).parents[1]
DOCS = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python" in page.read_text()]


CHECKS = {
    "plots": "assert len(list(Path('runs/figures').glob('*.png'))) == 6",
    "report": "assert path.is_file() and 'G01+G02' in path.read_text()",
    "discoveries": "assert (table['q_value'] < 0.05).any()",
    "data": "assert (screen.counts.toarray() == x).all()",
    "evaluation": """
scores = pooled[pooled["split"] == "test"].set_index(["predictor", "metric"])["value"].sort_index()
assert {"sams-vae", "condition-mean", "duplicate"} <= set(table["predictor"])
assert scores["condition-mean", "rmse"] < scores["no-change", "rmse"]
assert scores["sams-vae", "iwelbo"] < 0
""",
    "extending": """
mask = model.module.mechanism.mask
assert type(mask) is EmpiricalMask
moved = mask.prior_logits.detach() - torch.tensor(0.1).logit()
assert (moved.abs() > 1e-3).all()  # the prior is learned
table = model.inclusion()
prior = mask.prior_logits.detach().sigmoid().double().numpy()
dimensions = [int(name[1:]) for name in table["dimension"]]
assert np.allclose(table["prior"], prior[dimensions], rtol=1e-5)
laplace = samsvae.CPAVAE(features, n_latent=5, n_hidden=16, likelihood="laplace")
laplace.train(max_steps=200, progress=False)
assert laplace.history["valid_elbo"].iloc[-1] > laplace.history["valid_elbo"].iloc[0]
assert laplace.effects(["G01"], progress=False).uns["scale"] == "mean"
""",
}
"""What holds after the code of a page has run."""

IGNORED = ("no C compiler", "no perturbation is named after a gene")
PYTHON = [sys.executable, "-W", "error", *(a for one in IGNORED for a in ("-W", f"ignore:{one}"))]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks as `make demo` leaves it."""
    folder = tmp_path_factory.mktemp("readme")
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=5, n_combinations=2, n_genes=30, cells_per_condition=60, n_control=100
    )
    (folder / "runs" / "demo").mkdir(parents=True)
    write_h5ad(folder / "runs" / "demo" / "screen.h5ad", screen.to_anndata())
    return folder


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_python(folder: Path) -> None:
    code = "\n".join(blocks("python"))
    said = run([*PYTHON, "-c", code], folder)
    assert "G01+G02" in said
    assert (folder / "runs" / "mine" / "model.json").is_file()


@pytest.mark.slow
def test_shell(folder: Path) -> None:
    (code,) = [block for block in blocks("sh") if "samsvae train" in block]
    run(["bash", "-e", "-c", code], folder)
    for name in ("metrics.json", "effects.csv", "cells.h5ad", "report.html"):
        assert (folder / "runs" / "x" / name).is_file(), name


@pytest.mark.slow
@pytest.mark.parametrize("page", DOCS, ids=[page.stem for page in DOCS])
def test_docs(page: Path, folder: Path) -> None:
    code = "\n".join(blocks("python", page))
    run([*PYTHON, "-c", f"{code}\n{CHECKS[page.stem]}"], folder)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
