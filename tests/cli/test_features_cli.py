"""`samsvae features`: a run with features answers for perturbations that it has no cells of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.command_line import Call

SETS = "first\t\tA\tB\tNEW\nsecond\t\tC\tOTHER\n"


@pytest.fixture
def sets(run: Path) -> Path:
    (run.parent / "sets.gmt").write_text(SETS)
    return run.parent / "sets.gmt"


def test_a_run_with_features_is_asked_as_others_are(run: Path, sets: Path, call: Call) -> None:
    done = call("features run data.h5ad sets.gmt --expression --out told")
    assert done.code == 0, done.errors
    assert "sets: explains" in done.out
    assert "control expression: explains" in done.out
    assert "2 perturbations without cells" in done.out
    done = call("effects told NEW --n-particles 20 --no-progress --out told.csv")
    assert done.code == 0, done.errors
    rows = Path("told.csv").read_text().splitlines()
    assert len(rows) == 13
    done = call("discoveries told data.h5ad NEW --n-particles 20 --no-progress --out called.csv")
    assert done.code == 0, done.errors
    assert {"support", "closest"} <= set(Path("called.csv").read_text().split("\n")[0].split(","))
    again = call("features told data.h5ad sets.gmt --out twice")
    assert again.code == 2
    assert "has features already" in again.errors[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("features run data.h5ad --out new", "no features"),
        ("features run data.h5ad nowhere.gmt --out new", "there is no file"),
        ("features run data.h5ad data.h5ad --out run", "'.*run' exists"),
        ("features run data.h5ad other.gmt --out new", "0 of the . perturbations"),
    ],
)
def test_mistakes_say_what_to_do_and_leave_nothing(
    run: Path, sets: Path, call: Call, line: str, message: str
) -> None:
    Path("other.gmt").write_text("one\t\tX\tY\n")
    done = call(line)
    assert done.code == 2
    assert len(done.errors) == 1
    assert re.search(message, done.errors[0]), done.errors
    assert not Path("new").exists()
