"""On-target effects: what perturbations do to the genes that they are named after."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samsvae.analysis.gene_sets import need_columns
from samsvae.settings.arguments import checked

_LFSR = 0.05
"""Largest lfsr of a change."""
_COLUMNS = ("estimate", "lower", "upper", "lfsr", "n_cells")


@checked
def on_target(table: pd.DataFrame) -> pd.DataFrame:
    """Return whether each condition changes the genes that it targets.

    CRISPRi should lower its own gene, CRISPRa raise it; a knock-out need not change the mRNA, since
    an edited gene may still be transcribed.

    Parameters
    ----------
    table
        From `samsvae.discoveries`, by condition or by sgRNA.

    Returns
    -------
    One row per condition (and `sgrna`) and target among the genes, in the table's order: gene,
    estimate, lower, upper, lfsr, n_cells, and `change`: "down" or "up" (lfsr below 0.05), or "not
    clear". A condition of which no target is among the genes has one row without a gene, of which
    `change` is "not measured".

    Examples
    --------
    >>> table = samsvae.discoveries(model, screen, n_particles=20, progress=False)
    >>> list(samsvae.on_target(table)["change"])  # no perturbation has the name of a gene
    ['not measured', 'not measured', 'not measured']
    """
    need_columns(table, "condition", "gene", "estimate", "lfsr", "on_target")
    keys = [name for name in ("condition", "sgrna") if name in table]
    columns = [*keys, "gene", *(name for name in _COLUMNS if name in table)]
    own = table.loc[table["on_target"].astype(bool), columns]
    direction = np.where(own["estimate"] > 0, "up", "down")
    own = own.assign(change=np.where(own["lfsr"] < _LFSR, direction, "not clear"))
    n_cells = [name for name in ("n_cells",) if name in table]
    conditions = table[[*keys, *n_cells]].drop_duplicates(keys).reset_index(drop=True)
    order = conditions[keys].assign(place=conditions.index)
    others = conditions.merge(own[keys].drop_duplicates(), how="left", on=keys, indicator=True)
    others = others[others.pop("_merge") == "left_only"].assign(change="not measured")
    rows = pd.concat([own.astype({"gene": object}), others], ignore_index=True)
    place = rows[keys].merge(order, how="left", on=keys)["place"]
    return rows.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)
