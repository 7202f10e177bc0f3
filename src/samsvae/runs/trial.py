"""Try a command out: whether it trains, and how long it takes."""

from __future__ import annotations

import time
import warnings

from samsvae.data.screen import Screen
from samsvae.estimators.models import SAMSVAE
from samsvae.runs.run import with_own_split
from samsvae.settings.train import TrainPlan

_STEPS = 1, 1, 13
"""Of the runs that are timed; the first is for what happens once in a process."""


def seconds_of_training(screen: Screen, plan: TrainPlan) -> float:
    """Return how many seconds the default model takes by a plan, from a few steps of it.

    Steps, and a validation every so many of them. It is an error if the screen cannot be trained
    on, as it is when the run is started.
    """
    screen = with_own_split(screen, seed=0)
    seconds = []
    with warnings.catch_warnings(action="ignore"):  # the run says it again
        for steps in _STEPS:
            model = SAMSVAE(screen)
            start = time.perf_counter()
            model.train(max_steps=steps, alignment="none", progress=False)
            seconds.append(time.perf_counter() - start)
    _, short, long = seconds
    step = max(0.0, long - short) / (_STEPS[2] - _STEPS[1])
    n_steps = plan.n_steps(len(screen.train))
    return n_steps * step + n_steps / plan.validate_every * max(0.0, short - step)
