"""What combinations do beyond the sum of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from samsvae.metrics.effects import difference


def interaction(effects: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return what combinations do beyond the sum of their parts, `combination gene`.

    delta_AB - (delta_A + delta_B), in the order of `parts`; NaN where one of them is.

    Parameters
    ----------
    effects
        Conditions x genes.
    parts
        By combination, the conditions that it is made of.

    Raises
    ------
    KeyError
        If a condition is not among the effects.
    """
    expected = [effects.loc[list(names)].to_numpy(float).sum(0) for names in parts.values()]
    combined = effects.loc[list(parts)].to_numpy(float)
    return difference(combined, np.reshape(expected, combined.shape))
