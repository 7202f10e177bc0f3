"""Held-out combinations gene by gene: data, model, and the sum of the singles."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.types import Scale


def combination_effects(ate: pd.DataFrame, screen: Screen, scale: Scale) -> pd.DataFrame:
    """Return effects of tested combinations whose parts were trained on, gene by gene.

    Parameters
    ----------
    ate
        Conditions x genes, of a model.
    screen
        With its split.
    scale
        Of the effects.

    Returns
    -------
    condition, gene; observed, DE of test cells; predicted, the model's; additive, the sum of the
    DE of the parts' training cells.
    """
    control = np.asarray(screen.is_control)
    test = np.asarray(screen.split) == "test"
    train = np.asarray(screen.split) == "train"
    notation = screen.vocabulary.notation
    parts = {
        name: notation.parts(name)
        for name in screen[test].conditions
        if name in ate.index and len(notation.parts(name)) > 1
    }
    trained = set(screen[train].conditions)
    parts = {name: some for name, some in parts.items() if trained.issuperset(some)}
    if not parts:
        return pd.DataFrame(columns=["condition", "gene", "observed", "predicted", "additive"])
    observed = differential_expression(screen[test | control], list(parts), scale=scale)
    names = sorted({part for some in parts.values() for part in some})
    singles = differential_expression(screen[train | control], names, scale=scale)
    genes = list(screen.genes)
    tables = [
        pd.DataFrame(
            {
                "condition": name,
                "gene": genes,
                "observed": observed.loc[name].to_numpy(),
                "predicted": ate.loc[name, genes].to_numpy(),
                "additive": singles.loc[some].sum().to_numpy(),
            }
        )
        for name, some in parts.items()
    ]
    return pd.concat(tables, ignore_index=True).dropna()


def errors_of_combinations(effects: pd.DataFrame) -> pd.DataFrame:
    """Return, by condition, the root mean squared errors of model and sum, and how non-additive.

    Parameters
    ----------
    effects
        As `combination_effects` returns them.
    """

    def rmse(first: str, second: str) -> pd.Series:
        square = (effects[first] - effects[second]) ** 2
        found: pd.Series = square.groupby(effects["condition"], sort=False).mean() ** 0.5
        return found

    table = pd.DataFrame(
        {
            "model": rmse("predicted", "observed"),
            "sum": rmse("additive", "observed"),
        }
    )
    return table.assign(better=table["model"] < table["sum"])


def by_kind(errors: pd.DataFrame, kinds: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Return, by kind of interaction, how many pairs are predicted better than their sum.

    Parameters
    ----------
    errors
        As `errors_of_combinations` returns them; conditions "A+B", sorted.
    kinds
        Pairs by kind, in any order.
    """
    rows = []
    for kind, pairs in kinds.items():
        names = {"+".join(sorted(pair.split("+"))) for pair in pairs}
        some = errors[errors.index.isin(names)]
        rows.append(
            {
                "kind": kind,
                "n_pairs": len(some),
                "n_better": int(some["better"].sum()),
                "share_better": some["better"].mean() if len(some) else np.nan,
                "rmse_model": some["model"].mean() if len(some) else np.nan,
                "rmse_sum": some["sum"].mean() if len(some) else np.nan,
            }
        )
    return pd.DataFrame(rows)
