"""The order of the rows of tables of effects."""

from __future__ import annotations

import numpy as np
import pandas as pd

_DECIMALS = 12
"""Of an lfsr: less is rounding error of the probabilities that it is made of."""
_MIN_SD = 1e-9


def surest_first(table: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Return a table's rows by `keys`, in order of appearance, and for each the surest first.

    By ascending lfsr, if there is one; where it is the same, as 0 is of many, by the size of the
    estimate over its standard deviation.

    >>> table = pd.DataFrame({"gene": ["a", "b"], "estimate": [2.0, -1.0], "sd": [0.5, 0.1]})
    >>> list(surest_first(table.assign(lfsr=0.0))["gene"])
    ['b', 'a']
    """
    size = table["estimate"].abs().fillna(0)
    if "sd" in table:
        size = (size / np.maximum(table["sd"], _MIN_SD)).fillna(0)
    ranks = [-size.to_numpy(float)]
    if "lfsr" in table:
        ranks.append(table["lfsr"].to_numpy(float).round(_DECIMALS))
    codes = [pd.factorize(table[key])[0] for key in reversed(keys)]
    return table.iloc[np.lexsort((*ranks, *codes))].reset_index(drop=True)
