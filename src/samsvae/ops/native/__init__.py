"""The C code of this folder: compiled at first use into a cache, loaded by ctypes.

Where there is no compiler, or `SAMSVAE_NATIVE=0` is set, `library` is None and the plain torch
forms serve.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from samsvae.errors import shown
from samsvae.ops.processes import run_limited

_FOLDER = Path(__file__).parent
_SOURCES = sorted(_FOLDER.glob("*.[ch]"))
_FLAGS = ("-O3", "-ffast-math", "-fno-finite-math-only", "-fPIC")
"""NaN is not assumed away: what is not a number gives what is none."""
_THREADS = ("-fopenmp",), ("-Xclang", "-fopenmp"), ()
"""How loops come to run in threads: as most compilers have it, as Apple's has it, not at all."""
_SECONDS = 120.0
"""Time limit for a compiler; it takes some seconds on a machine that has nothing else to do."""
_WORTH_A_THREAD = 2**14
"""Elements, of a few nanoseconds each, below which another thread costs more than it saves."""


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled C code, or None where it cannot be had."""
    if os.environ.get("SAMSVAE_NATIVE") == "0":
        return None
    compiler = next(filter(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")), None)
    if compiler is None:
        warnings.warn(
            "no C compiler: training and likelihoods are slower than they could be", stacklevel=2
        )
        return None
    try:
        compiled = ctypes.CDLL(str(_cached(compiler)))
        for name, parameters in _SIGNATURES.items():
            function = getattr(compiled, name)
            function.argtypes = [_KINDS[kind] for kind in parameters]  # others are an error
            function.restype = None
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"{compiler} does not compile samsvae's C code ({_said(error)}): training and "
            "likelihoods are slower than they could be",
            stacklevel=2,
        )
        return None
    return compiled


def _said(error: Exception) -> str:
    """Return the last line of what a compiler says that fails."""
    text = str(error)
    if isinstance(error, subprocess.TimeoutExpired):
        text = f"it did not end within {error.timeout:g} s"
    elif isinstance(error, subprocess.CalledProcessError):
        text = error.stderr.strip() or f"exit code {error.returncode}"
    return shown(text.splitlines()[-1], most=300)


def _cached(compiler: str) -> Path:
    """Return the shared library, compiled unless the cache holds it already."""
    key = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES))
    made_with = compiler, _version(compiler), _processor(), *platform.libc_ver()
    key.update(" ".join([*made_with, str(_openmp()), *_FLAGS]).encode())
    path = _folder() / f"native-{key.hexdigest()[:16]}.so"
    if _whole(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        library, digest = _compiled(compiler, Path(aside)), Path(aside) / "digest"
        digest.write_text(_digest(library))
        os.replace(digest, path.with_suffix(".sha256"))
        os.replace(library, path)
    return path


def _folder() -> Path:
    """Return the folder of compiled libraries: code that is run, so nobody else can write to it."""
    with suppress(OSError, RuntimeError):  # no home, or none to write to
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "samsvae"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _ours_alone(folder):
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    folder = Path(tempfile.mkdtemp(prefix="samsvae"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _ours_alone(path: Path) -> bool:
    """Whether a folder or file is this user's, and others may not write to it."""
    status = path.stat()
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _whole(path: Path) -> bool:
    """Whether a library in the cache is complete: a truncated one could crash the process."""
    try:
        return _ours_alone(path) and path.with_suffix(".sha256").read_text() == _digest(path)
    except (OSError, UnicodeDecodeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(compiler: str) -> str:
    try:
        return run_limited([compiler, "--version"], seconds=_SECONDS)
    except subprocess.CalledProcessError:  # one that has no such option
        return ""


def _processor() -> str:
    """Return what the processor is able to do: a cache may be shared by machines of several."""
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {platform.processor()}"


def _compiled(compiler: str, aside: Path) -> Path:
    """Return the shared library, with threads if it can be compiled and loaded that way."""
    for threads in _THREADS:
        try:
            made = _compiled_with(compiler, aside, threads)
            ctypes.CDLL(str(made))
        except (OSError, subprocess.CalledProcessError):
            if not threads:
                raise
        else:
            break
    return made


def _compiled_with(compiler: str, aside: Path, threads: tuple[str, ...]) -> Path:
    sources = [str(source) for source in _SOURCES if source.suffix == ".c"]
    _run(compiler, *_FLAGS, *threads, "-c", *sources, folder=aside)
    objects, made = (str(path) for path in aside.glob("*.o")), aside / f"{len(threads)}.so"
    # Linked without -ffast-math, which would switch denormals off for the whole process.
    runtime, openmp = threads, _openmp()
    if threads and openmp is not None:
        runtime = str(openmp), f"-Wl,-rpath,{openmp.parent}"
    _run(compiler, "-shared", *objects, *runtime, "-lm", "-o", str(made), folder=aside)
    return made


def _openmp() -> Path | None:
    """Return torch's own OpenMP, if it brings one: a second one would compete for the cores."""
    files = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    names = (path for path in files if path.name.startswith(("libgomp", "libomp", "libiomp")))
    return next(names, None)


def _run(*command: str, folder: Path) -> None:
    run_limited(command, seconds=_SECONDS, folder=folder)


def serves(*tensors: Tensor) -> bool:
    """Whether C code takes these tensors: single precision, on a CPU, not while torch compiles."""
    if torch.compiler.is_compiling():
        return False
    alike = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return alike and library() is not None


def threads(n_elements: int) -> int:
    """Return the number of threads for an amount of work: at most torch's own."""
    return max(1, min(torch.get_num_threads(), n_elements // _WORTH_A_THREAD))


_SIGNATURES = {
    "difference_sums": "pppplll",
    "gaussian_draw": "pppppdllllll",
    "gaussian_gradient": "pppppppdllllll",
    "manhattan": "pppllll",
    "nb_constant": "ppppppplll",
    "nb_means": "ppppdlll",
    "nb_rows": "pppppppppppllllll",
    "nb_tables": "pppl",
    "normal_noise": "plll",
    "poisson_coupled": "ppppllll",
    "product_sums": "ppppplll",
    "standardised": "ppppllll",
    "uniform_noise": "plll",
    **{
        f"rows_{values}_{indices}": "ppppplll"
        for values in ("uint8", "uint16", "uint32", "float32")
        for indices in ("int32", "int64")
    },
}
"""Parameters of every C function: p an array, l a whole number, d a real one."""
_KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "d": ctypes.c_double}


Argument: TypeAlias = Tensor | np.ndarray | int | float | None


def call(name: str, *arguments: Argument) -> None:
    """Call a C function: arrays are passed by address, None as a null pointer."""
    getattr(library(), name)(*map(_passed, arguments))


def _passed(argument: Argument) -> int | float | None:
    if isinstance(argument, np.ndarray):
        return int(argument.ctypes.data)
    if isinstance(argument, Tensor):
        assert argument.stride(-1) == 1
        return argument.data_ptr()
    return argument
