"""What is around the code: workflows, templates, targets, the lowest versions."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from samsvae import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has no workflows")


def jobs_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def targets_of(job: dict[str, Any]) -> list[str]:
    """Return what a job makes, with the values of its matrix filled in."""
    lines = " ".join(step.get("run", "") for step in job["steps"])
    matrix = job.get("strategy", {}).get("matrix", {})
    if "${{ matrix.target }}" in lines:
        return [str(name) for name in matrix["target"]]
    return re.findall(r"\bmake ([a-z-]+)", lines)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_makes_what_there_is(path: Path) -> None:
    read = yaml.safe_load(path.read_text())
    assert {"name", "jobs", "permissions"} <= set(read)
    assert True in read  # "on", which YAML takes for a truth
    for name, job in jobs_of(path).items():
        assert job["timeout-minutes"] <= 90, name
        assert targets_of(job), name
        assert set(targets_of(job)) <= TARGETS, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), name
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1")), name


def test_everything_that_is_checked_here_is_checked_there() -> None:
    made = {
        name for path in WORKFLOWS for job in jobs_of(path).values() for name in targets_of(job)
    }
    here = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.M))
    assert here <= made
    assert {"lint", "test", "test-lowest", "docs", "build"} <= made


def test_tests_run_on_every_python_that_is_named() -> None:
    (matrix,) = (
        job["strategy"]["matrix"]["python"]
        for path in WORKFLOWS
        for name, job in jobs_of(path).items()
        if name == "test"
    )
    named = [
        one.rpartition(" ")[2]
        for one in PROJECT["project"]["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", one)
    ]
    assert matrix == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_are_forms(path: Path) -> None:
    read = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert read["contact_links"]
        return
    assert {"name", "description", "body"} <= set(read)
    names = [part["id"] for part in read["body"]]
    assert len(set(names)) == len(names)
    assert all(part["attributes"]["label"] for part in read["body"])


def test_the_release_is_cited_as_it_is() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__


def test_versions_that_are_lowest() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))
    stated = script["lowest"]((ROOT / "pyproject.toml").read_text())
    names = [re.split("[>=]", one)[0] for one in PROJECT["project"]["dependencies"]]
    assert list(stated)[: len(names)] == names
    assert script["main"]("torch") == f"torch=={stated['torch']}"
    assert script["main"]("").splitlines() == [
        f"{name}=={version}" for name, version in stated.items() if name != "torch"
    ]
    assert script["same"]("4.0", "4.0.0")
    assert not script["same"]("4.0", "4.0.1")
    with pytest.raises(SystemExit, match="'numpy' states no lowest version"):
        script["lowest"]('[project]\ndependencies=["numpy"]\n[dependency-groups]\ntest=[]')


def test_pins_are_at_least_the_lowest() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    groups = PROJECT["dependency-groups"].values()
    stated = [*PROJECT["project"]["dependencies"], *(one for some in groups for one in some)]
    for requirement in stated:
        name, lowest = requirement.split(">=")
        pin = pins[name.lower().replace("_", "-")]
        assert [*map(int, pin.split(".")[:2])] >= [*map(int, lowest.split(".")[:2])], requirement
