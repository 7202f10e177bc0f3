"""How long is the first answer? `benchmarks/first_answer.py [FILE ...] [--whole] [--quick]`.

From the command to the report, with the defaults: the demonstration, and for each FILE the command
that `samsvae inspect` prints. Seconds of wall clock and of processor, the steps taken, the step
that is kept and its validation ELBO. With --whole beside each the same with all steps (`--patience
0`), which says what ending early costs. With --quick a small screen alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import samsvae

DEMO = ("samsvae", "demo")


def small_screen(folder: Path) -> Path:
    """Write a screen that trains in some seconds."""
    screen = samsvae.datasets.simulated_screen(
        n_perturbations=8, n_combinations=0, cells_per_condition=60, n_control=200, n_genes=60
    )
    path = folder / "small.h5ad"
    screen.to_anndata().write_h5ad(path)
    return path


def inspected(path: Path) -> tuple[str, ...]:
    """Return the command that `samsvae inspect` prints."""
    said = subprocess.run(
        [sys.executable, "-m", "samsvae", "inspect", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not said[-1].startswith("samsvae train"):
        raise SystemExit(f"{path}: no command for it: {said[-1]}")
    return tuple(shlex.split(said[-1]))


def measured(command: Sequence[str], out: Path) -> dict[str, Any]:
    """Run a command that ends with a report, and say what it took and what it reached."""
    words = list(command)
    if "--out" in words:
        words[words.index("--out") + 1] = str(out)
    else:
        words += ["--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{shlex.join(words)}: {said}")
    history = pd.read_csv(out / "history.csv")
    kept = history[history["is_aligned"]] if "is_aligned" in history else history
    best = kept.loc[kept["valid_elbo"].idxmax()]
    return {
        "wall": time.perf_counter() - start,
        "processor": used.ru_utime + used.ru_stime,
        "steps": int(history["step"].max()),
        "kept": int(best["step"]),
        "valid_elbo": best["valid_elbo"],
        "report": (out / "report.html").exists(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--whole", action="store_true", help="also with all steps")
    parser.add_argument("--quick", action="store_true", help="a small screen alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="first_answer.csv")
    chosen = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [small_screen(folder)] if chosen.quick else chosen.files
        commands = {path.stem: inspected(path) for path in files}
        if not chosen.quick:
            commands = {"demo": DEMO, **commands}
        for screen, command in commands.items():
            ways: dict[str, tuple[str, ...]] = {"default": ()}
            if chosen.whole and command != DEMO:
                ways["all steps"] = ("--patience", "0")
            for seed in range(chosen.seeds):
                for way, more in ways.items():  # alternating, since times drift
                    out = folder / f"{screen}-{way}-{seed}"
                    took = measured((*command, *more, "--seed", str(seed)), out)
                    lines.append({"screen": screen, "length": way, "seed": seed, **took})
                    print(lines[-1], flush=True)
    table = pd.DataFrame(lines)
    table.to_csv(chosen.out, index=False)
    print(table.round(2).to_string(index=False))
    if not table["report"].all():
        raise SystemExit("a command ended without a report")


if __name__ == "__main__":
    main()
