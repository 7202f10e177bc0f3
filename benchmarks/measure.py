"""Times as ratios: to a yardstick timed in the same run, and to the products of the work itself."""

from __future__ import annotations

import csv
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.addmm_.default: (1, 2),
}


def seconds(work: Callable[[], object], *, repeats: int, device: str = "cpu") -> list[float]:
    """Return the time of each of some calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[1:]


def yardstick(device: str = "cpu") -> float:
    """Return U: the fastest of several products of two 2048 x 2048 matrices, seconds."""
    a = torch.randn(2048, 2048, device=device)
    return min(seconds(lambda: a @ a, repeats=7, device=device))


class Products(TorchDispatchMode):
    """Notes the matrix products of what runs within it."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            left, right = (args[i] for i in _PRODUCTS[func])
            # Same sizes and the same order in memory, other numbers.
            self.pairs.append((torch.rand_like(left), torch.rand_like(right)))
        return func(*args, **(kwargs or {}))

    def run(self) -> None:
        """Take the same products again."""
        for left, right in self.pairs:
            torch.mm(left, right)


def products(work: Callable[[], object]) -> Products:
    """Return the products of a call."""
    with Products() as noted:
        work()
    return noted


def peak_memory() -> float:
    """Return the largest memory this process has held, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # what `resource` says there counts the parent of a new process as well
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Table:
    """Rows that are printed as they come, and written to a CSV with the machine and versions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, times: list[float], unit: float, **others: Any) -> None:
        """Add a row: median and fastest time, as they are and in U."""
        median = statistics.median(times)
        row = {
            "what": what,
            "median_ms": round(1e3 * median, 2),
            "fastest_ms": round(1e3 * min(times), 2),
            "U_ms": round(1e3 * unit, 2),
            "median_U": round(median / unit, 3),
            **{name: round(v, 3) if isinstance(v, float) else v for name, v in others.items()},
        }
        self.rows.append(row)
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)

    def write(self) -> None:
        """Write the rows."""
        machine = {
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*columns, *machine])
            writer.writeheader()
            writer.writerows(row | machine for row in self.rows)
        print(f"written to {self.path}")
