"""The demonstration, made small: what it leaves, and what it says in the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from samsvae.data.simulate import simulated_screen
from samsvae.runs import demo as demonstration
from samsvae.runs.run import Run


@pytest.mark.filterwarnings("ignore")
def test_it_ends_by_naming_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"n_perturbations": 5, "n_combinations": 2, "n_genes": 30, "cells_per_condition": 40}
    monkeypatch.setattr(demonstration, "simulated_screen", partial(simulated_screen, **sizes))
    small = {"n_latent": 4, "n_hidden": 8, "max_steps": 20, "batch_size": 64}
    monkeypatch.setattr(demonstration, "CONFIG", {**demonstration.CONFIG, **small})
    monkeypatch.setattr(demonstration, "PARTICLES", 30)
    said: list[str] = []
    demonstration.demonstrate(Run(tmp_path / "demo"), progress=False, say=said.append)
    report = tmp_path / "demo/report.html"
    assert said[-1] == f"The report is {report}: open it in a browser."
    text = report.read_text()
    assert all(f">{name}" in text for name in ("sams-vae", "condition-mean", "technical replicate"))
    assert "G01" in text
    assert (tmp_path / "demo/summary.txt").is_file()
