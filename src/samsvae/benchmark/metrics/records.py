"""What is held against what: a prediction of some conditions, and what their cells show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from samsvae.benchmark.metrics.distances import likeness, spread
from samsvae.benchmark.metrics.moments import Observed


@dataclass(frozen=True, eq=False)
class Clouds:
    """Cells of conditions as points in a space of few components."""

    cells: list[np.ndarray | None]
    """By condition, `cell component`; None: there are none, or means alone are predicted."""
    kernel: float
    """Width of a Gaussian kernel in this space; NaN, or 0: there is none."""

    @cached_property
    def spread(self) -> list[float]:
        """By condition: how far its own cells are apart."""
        return self._of_each(spread)

    @cached_property
    def likeness(self) -> list[float]:
        """By condition: how alike its own cells are, by the kernel."""
        return self._of_each(lambda cells: likeness(cells, self.kernel))

    def _of_each(self, value: Callable[[np.ndarray], float]) -> list[float]:
        """Return a value of each condition, taken once of cells that several conditions share."""
        found: list[float] = []
        before = None
        for cells in self.cells:
            if cells is None:
                found.append(float("nan"))
            else:
                found.append(found[-1] if cells is before else value(cells))
            before = cells
        return found


class Intervals(NamedTuple):
    """Central posterior intervals of effects."""

    ate: np.ndarray
    """`condition gene`: the effects they are of."""
    ends: dict[float, tuple[np.ndarray, np.ndarray]]
    """By level, lower and upper ends, `condition gene`."""


class Observation(NamedTuple):
    """What cells of some conditions show."""

    observed: Observed
    combinations: np.ndarray
    """`combination`: which of the conditions are combinations whose parts have cells, too."""
    interaction: np.ndarray
    """`combination gene`: what these do beyond the sum of their parts."""
    clouds: Clouds | None
    """None: distributions of cells are not compared."""


class Prediction(NamedTuple):
    """What is predicted of the same conditions; effects are NaN where there is no prediction."""

    effects: dict[str, np.ndarray]
    """`condition gene`: by library size, "fixed" (1e4) or "observed"."""
    interactions: dict[str, np.ndarray]
    """`combination gene`: alike."""
    intervals: Intervals | None
    """At observed library sizes; None without a posterior."""
    clouds: Clouds | None
    likelihood: np.ndarray | None = None
    """`condition 2`: sum of the IWELBO over the condition's cells, nats, and how many these are;
    control may come last. None without a likelihood."""
