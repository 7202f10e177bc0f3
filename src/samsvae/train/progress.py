"""The progress bar of training.

Ctrl-C and SIGTERM, noted instead of obeyed at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """Steps done, the last ELBO and the time left; nothing where `visible` is False."""

    def __init__(self, visible: bool, n_steps: int) -> None:
        self._bar = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[elbo]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            disable=not visible,
        )
        self._task = self._bar.add_task("training", total=n_steps, elbo="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, step: int, history: list[dict[str, float]]) -> None:
        """Move to a step and show the last row of the history."""
        text = ""
        if history:
            text = f"ELBO {history[-1]['elbo']:.2f}, validation {history[-1]['valid_elbo']:.2f}"
        self._bar.update(self._task, completed=step, elbo=text)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function: whether Ctrl-C or SIGTERM was received. A second one ends at once."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        came.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        for number in numbers:
            signal.signal(number, before[number])
