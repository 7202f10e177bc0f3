"""From Cell Ranger's counts of sgRNAs to a trained model, at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.command_line import Call
from helpers.sgrna_files import reference, sequenced, write_10x

FAST = "--max-steps 4 --n-latent 3 --n-hidden 6 --alignment none --no-report"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_inspect_train_and_ask(folder: Path, call: Call) -> None:
    write_10x(folder / "x.h5", sequenced())
    done = call("inspect x.h5")
    assert (done.code, done.errors) == (0, [])
    assert "  sgRNA counts; cells by rule of assignment:" in done.out
    assert "    dominant: one sgRNA 216, no sgRNA above 80% 24" in done.out
    assert "    threshold 5: one sgRNA 216, several sgRNAs 24" in done.out
    command = done.out.splitlines()[-1]
    assert command.endswith("train x.h5 --out runs/x --sgrna-assignment dominant")
    done = call(f"{command.removeprefix('samsvae ')} {FAST}")
    assert (done.code, done.errors) == (0, [])
    assert "24 cells are left out" in done.notes[0]
    done = call("report runs/x x.h5 --n-particles 10")  # reads its data as the run was trained
    assert (done.code, done.errors) == (0, [])
    text = Path("runs/x/report.html").read_text()
    assert all(part in text for part in ("Assignment of sgRNAs", "threshold 5", "first sgRNA"))
    assert "Ag1,A,2" in Path("runs/x/report/sgrna_assignment.csv").read_text()
    done = call("sgrnas x.h5 --n-permutations 19 --out s.csv --sgrna-assignment mixture")
    assert (done.code, done.errors) == (0, [])
    assert "216 of 240 cells have one" in done.notes[0]
    assert "A,Ag1," in Path("s.csv").read_text()


def test_a_number_of_umis_and_a_feature_reference(folder: Path, call: Call) -> None:
    write_10x(folder / "matrix", sequenced(), "Custom")
    reference().to_csv(folder / "features.csv", index=False)
    given = "--feature-reference features.csv --sgrna-assignment 5"
    done = call(f"train matrix {given} {FAST} --out runs/matrix")
    assert (done.code, done.errors) == (0, [])
    done = call("evaluate runs/matrix matrix")
    assert done.code == 2
    assert (
        "trained with feature_reference from 'features.csv': give --feature-ref" in done.errors[0]
    )
    done = call("sgrnas matrix --sgrna-assignment best")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "best" in done.errors[0]
