"""How often the data fall into the intervals of predicted effects."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from samsvae.metrics.observed import Observed


def coverage(
    lower: np.ndarray,
    upper: np.ndarray,
    ate: np.ndarray,
    observed: Observed,
    level: float = 0.9,
) -> np.ndarray:
    """Return the share of genes whose observed effect lies in the widened interval, `condition`.

    The posterior interval holds the true effect, to which the data add their sampling error: so it
    reaches sqrt((ate - lower)^2 + (z se)^2) below the ATE, and above alike, with the standard
    error se of the observed effect and z the normal quantile of the level (for an interval that
    does not hold the ATE: below and above the end that is next to it). Of a calibrated model that
    share is the level, whatever the number of cells.

    Genes without a standard error (or with 0: nothing was seen of them) are left out. NaN for a
    condition without an interval, or without such genes.

    Parameters
    ----------
    lower, upper
        `condition gene`: ends of the central posterior interval of that level.
    ate
        `condition gene`: predicted effects.
    observed
        What the cells show.
    level
        Of the interval, such as 0.9.
    """
    seen = observed.standard_error > 0
    error = ndtri((1 + level) / 2) * observed.standard_error
    within = np.clip(ate, lower, upper)
    below, above = np.hypot(within - lower, error), np.hypot(upper - within, error)
    distance = observed.effect - within
    inside = (-below <= distance) & (distance <= above)
    n_seen, n_inside = seen.sum(1), (seen & inside).sum(1)
    unknown = (seen & np.isnan(below + above + distance)).any(1) | (n_seen == 0)
    return np.where(unknown, np.nan, n_inside / np.maximum(n_seen, 1))
