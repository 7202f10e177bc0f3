"""Phases of training: when one ends, and what the progress bar says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

History = list[dict[str, float]]
"""One row per evaluation of the validation cells."""


class Phases(NamedTuple):
    """When training goes from one phase to the next."""

    n_steps: int
    """Steps of all phases, at most."""
    aligned_after: int | None
    """Steps with masks fixed at one, at most until they have ended; None: there is one phase."""

    def masks_fixed(self, step: int) -> bool:
        """Whether all masks are fixed at one at a step: the model is aligned later."""
        return self.aligned_after is not None and step < self.aligned_after

    def span(self, step: int) -> tuple[int, int]:
        """Return the step at which a step's phase starts, and how many steps it has."""
        if self.aligned_after is None:
            return 0, self.n_steps
        if self.masks_fixed(step):
            return 0, self.aligned_after
        return self.aligned_after, max(1, self.n_steps - self.aligned_after)

    def _ended_alike(self, aligned_after: int | None, latest: int | None) -> bool:
        """Whether patience ended the first phase of another run, as it would have ended ours."""
        if aligned_after is None or latest is None or self.aligned_after is None:
            return False
        return aligned_after < latest and aligned_after <= self.aligned_after

    def resumed(
        self, step: int, aligned_after: int | None, latest: int | None
    ) -> tuple[Phases, str]:
        """Return the phases from a checkpoint on, and how they differ from those of a new run.

        `aligned_after`, and the step until which alignment had to be, `latest`, are of the run that
        wrote it, which may have had another number of steps.
        """
        phases, new = self, self.aligned_after
        if new is not None and aligned_after is not None:
            if step >= aligned_after:  # the axes are chosen
                phases = self._replace(aligned_after=aligned_after)
            elif step >= new:
                phases = self._replace(aligned_after=step + 1)
        if step > self.n_steps:
            return phases, (
                f"the checkpoint is of step {step:,}, beyond the {self.n_steps:,} steps that are "
                "asked for: no step is taken, and the result is that of the longer run"
            )
        if self._ended_alike(aligned_after, latest):
            return phases, ""
        if phases.aligned_after is not None and phases.aligned_after != new:
            at = min(phases.aligned_after, self.n_steps)
            return phases, (
                f"latent space is aligned after step {at:,}; a new run of "
                f"{self.n_steps:,} steps aligns after step {new:,}, so its result would differ"
            )
        return phases, ""


class ProgressBar:
    """Phase, steps done, the last ELBO, steps since the best one, and the time left at most.

    Nothing where `visible` is False.
    """

    def __init__(self, visible: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=6),
            MofNCompleteColumn(),
            TextColumn("{task.fields[elbo]}"),
            TextColumn("≤"),
            TimeRemainingColumn(),
            disable=not visible,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, n_steps: int) -> None:
        """Show a line of training."""
        self._task = self._bar.add_task("", total=n_steps, elbo="")

    def end(self, step: int) -> None:
        """Show that no step is left."""
        self._bar.update(self._task, total=step)

    def follow(self, batches: Sequence[int]) -> Iterator[int]:
        """Yield what the pass over the cells takes that ends training, in a line of its own."""
        task = self._bar.add_task("", total=len(batches), elbo="inclusion probabilities")
        for batch in batches:
            yield batch
            self._bar.advance(task)

    def show(self, step: int, phases: Phases, history: History) -> None:
        """Move to a step and show the last row of the history."""
        text = ""
        if history:
            last = history[-1]
            text = f"ELBO {last['elbo']:.2f}"
            if not math.isnan(last["valid_elbo"]):
                text = f"validation ELBO {last['valid_elbo']:.2f}"
            since_best = last["step"] - next(
                (row["step"] for row in reversed(history) if row["is_best"]), last["step"]
            )
            text += f", best {since_best:,} ago" if since_best else ""
        phase = ""
        if phases.aligned_after is not None:
            phase = f"phase {1 if phases.masks_fixed(step) else 2}/2"
        self._bar.update(self._task, completed=step, description=phase, elbo=text)
