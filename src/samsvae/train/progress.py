"""The progress bar of training."""

from __future__ import annotations

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
