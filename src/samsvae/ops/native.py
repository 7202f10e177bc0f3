"""The C code of this folder: compiled at first use into a cache, loaded by ctypes, run by threads.

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
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-ffast-math", "-fPIC")
_WORTH_A_THREAD = 2**17
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
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"{compiler} does not compile samsvae's C code ({said.strip().splitlines()[-1]}): "
            "training and likelihoods are slower than they could be",
            stacklevel=2,
        )
        return None


def _compiled(compiler: str) -> Path:
    """Return the shared library, compiled unless the cache holds it already."""
    key = hashlib.sha256(_SOURCE.read_bytes())
    key.update(" ".join((compiler, platform.machine(), *platform.libc_ver(), *_FLAGS)).encode())
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "samsvae"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # no home, or none to write to: for this process alone
        folder = Path(tempfile.mkdtemp(prefix="samsvae"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"native-{key.hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            parts = str(Path(aside) / "native.o"), str(Path(aside) / "native.so")
            # Linked without -ffast-math, which would switch denormals off for the whole process.
            _run(compiler, *_FLAGS, "-c", str(_SOURCE), "-o", parts[0])
            _run(compiler, "-shared", parts[0], "-o", parts[1], "-lm")
            os.replace(parts[1], path)
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def serves(*tensors: Tensor) -> bool:
    """Whether the C code can take these tensors: single precision on a CPU.

    While torch compiles it cannot: what it compiles is the plain form.
    """
    if torch.compiler.is_compiling():
        return False
    alike = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return alike and library() is not None


def threads(n_elements: int) -> int:
    """Return how many threads so much work is split among: at most torch's own number."""
    return max(1, min(torch.get_num_threads(), n_elements // _WORTH_A_THREAD))


def call(
    name: str,
    inputs: Sequence[Tensor],
    sizes: Sequence[int],
    n_items: int,
    n_threads: int,
    *,
    of_threads: Sequence[Tensor] = (),
) -> None:
    """Call a C function for equal shares of some items, side by side.

    It takes the inputs, the thread's own row of each tensor `of_threads`, the sizes, and the first
    and last item. ctypes lets go of the interpreter's lock, so that threads do run side by side.
    """
    function = getattr(library(), name)
    fixed = [_pointer(tensor) for tensor in inputs]
    longs = [ctypes.c_long(size) for size in sizes]

    def work(thread: int) -> None:
        own = [_pointer(tensor[thread]) for tensor in of_threads]
        first, last = (ctypes.c_long(n_items * i // n_threads) for i in (thread, thread + 1))
        function(*fixed, *own, *longs, first, last)

    others = [_pool(n_threads).submit(work, thread) for thread in range(1, n_threads)]
    work(0)
    for other in others:
        other.result()


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="samsvae")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())
