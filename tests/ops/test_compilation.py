"""The C code is compiled where it can be, and where it cannot the plain form serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samsvae.ops import native

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.library() is None, reason="no C compiler"),
]

SERVED = """
import warnings
import torch
from samsvae.ops import native, negative_binomial as nb
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ones = torch.ones(2, 3)
    for _ in range(2):
        value = nb.log_prob_of_hidden(
            ones, ones[None], torch.ones(3, 3), ones[0], ones[:, 0], ones[0]
        )
print(native.library() is not None, len(caught), caught[0].message if caught else "")
"""


def test_without_a_cache_it_is_compiled_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("True 0"), done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "True 0"),
        ({"SAMSVAE_NATIVE": "0"}, "False 0"),
        ({"PATH": "/nowhere"}, "False 1 no C compiler: "),
        ({"CC": "false"}, "False 1 false does not compile samsvae's C code"),
    ],
)
def test_where_it_cannot_be_compiled_the_plain_form_serves(
    tmp_path: Path, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one warning in a process; the cache starts empty here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(said), done.stderr


WITHOUT_OPENMP = """#!/bin/sh
for argument in "$@"; do [ "$argument" = -fopenmp ] && echo "no OpenMP here" >&2 && exit 1; done
exec cc "$@"
"""
CANNOT_BE_LOADED = """#!/bin/sh
case "$*" in *-shared*gomp*) for last in "$@"; do :; done; echo nonsense > "$last"; exit 0; esac
case "$*" in *-shared*-fopenmp*) for last in "$@"; do :; done; echo nonsense > "$last"; exit 0; esac
exec cc "$@"
"""


@pytest.mark.parametrize("script", [WITHOUT_OPENMP, CANNOT_BE_LOADED])
def test_a_compiler_without_openmp_serves_too(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("True 0"), done.stderr
    assert list((tmp_path / "samsvae").glob("native-*.so"))
