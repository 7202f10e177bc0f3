"""The C code is compiled where it can be, and where it cannot the plain form serves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


def served(cache: Path, **environment: str) -> str:
    """Return what a process says that finds its compiled code there, or compiles it."""
    command, known = [sys.executable, "-c", SERVED], {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=known | environment
    ).stdout


def test_what_others_can_write_to_is_not_run(tmp_path: Path) -> None:
    assert served(tmp_path).startswith("True 0")
    (library,) = (tmp_path / "samsvae").glob("*.so")
    library.write_bytes(b"of somebody else")
    (tmp_path / "samsvae").chmod(0o777)
    assert served(tmp_path).startswith("True 0")
    assert library.read_bytes() == b"of somebody else"  # neither loaded nor touched


def test_a_library_that_does_not_load_is_made_again(tmp_path: Path) -> None:
    assert served(tmp_path).startswith("True 0")
    (library,) = (tmp_path / "samsvae").glob("*.so")
    whole = library.read_bytes()
    library.write_bytes(whole[:1000])
    assert served(tmp_path).startswith("True 0")
    assert len(library.read_bytes()) == len(whole)


def test_another_version_of_the_compiler_compiles_anew(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    for version in ("1", "2"):
        compiler.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo {version} && exit 0\nexec cc "$@"\n'
        )
        compiler.chmod(0o755)
        assert served(tmp_path, CC=str(compiler)).startswith("True 0")
    assert len(list((tmp_path / "samsvae").glob("*.so"))) == 2


def test_two_processes_at_a_time(tmp_path: Path) -> None:
    command, known = [sys.executable, "-c", SERVED], {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, env=known) for _ in range(2)]
    assert all(process.communicate()[0].startswith(b"True 0") for process in several)


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


SCRIPTS = {
    "hangs": ("sleep 1000", "it did not end within 1.5 s"),
    "hangs in a process of its own": ("sleep 1000 & wait", "it did not end within 1.5 s"),
    "says nothing": ("exit 1", "exit code 1"),
    "says no text": (r"printf '\\377\\376 \\033[31m' >&2; exit 1", "does not compile"),
    "makes another library": (
        'case "$*" in *-shared*) echo "int x;" > x.c; exec cc -shared x.c -o "${@: -1}"; esac',
        "undefined symbol",
    ),
}
LIMITED = "from samsvae.ops import native; native._SECONDS = 1.5" + SERVED


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_compiler_that_is_none(kind: str, tmp_path: Path) -> None:
    script, said = SCRIPTS[kind]
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exit 0\n{script}\n')
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CC": str(compiler)},
    )
    assert done.stdout.startswith("False 1 "), done.stderr
    assert said in done.stdout
    assert done.stdout.strip().isprintable()


def test_a_compiler_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    compiler, number = tmp_path / "compiler", tmp_path / "number"
    compiler.write_text(
        f"#!/bin/sh\nsleep 1000 &\necho $! > {number}.new\nmv {number}.new {number}\nwait\n"
    )
    compiler.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CC": str(compiler)},
    )
    deadline = time.monotonic() + 60
    while not number.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    while Path(f"/proc/{number.read_text().strip()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_code_for_another_processor_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that machines share: the name of the library has what the processor can do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = native._cached("cc")
    monkeypatch.setattr(native, "_processor", lambda: "x86_64 flags: fpu sse2")
    assert native._cached("cc") != ours
