"""Tables that the command line prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.table import Table

from samsvae.analysis.targets import on_target
from samsvae.benchmark.metrics.registry import HEADLINES
from samsvae.errors import shown

_ERROR_RATE = 0.05
"""Largest q_value or lfsr of what is printed."""
_N_ROWS, _N_NAMES = 15, 6
_MOVERS = "members (candidates), shift"


def _table(title: str, rows: Iterable[Any], columns: Mapping[str, Any]) -> Table:
    """Return a table of rows (tuples).

    `columns` gives, by header, a format of a row, such as "{0.n_cells:,}", or a function of it.
    """
    table = Table(*columns, title=title)
    for row in rows:
        cells = (one(row) if callable(one) else one.format(row) for one in columns.values())
        table.add_row(*(shown(cell, most=500) for cell in cells))
    return table


def _name(column: str) -> Callable[[Any], str]:
    return lambda row: shown(getattr(row, column))


def _interval(row: Any) -> str:
    has_interval = not np.isnan(row.lower)  # the conditional VAE has none
    return f"{row.lower:+.3f} to {row.upper:+.3f}" if has_interval else "-"


def tidy(effects: AnnData) -> pd.DataFrame:
    """Return effects with one row per condition and gene."""
    index = pd.MultiIndex.from_product(
        [effects.obs_names, effects.var_names], names=["condition", "gene"]
    )
    columns = {"ate": effects.X, **effects.layers}
    values = {name: np.asarray(table).ravel() for name, table in columns.items()}
    if "estimable" in effects.obs:
        values["estimable"] = np.repeat(effects.obs["estimable"].to_numpy(), effects.n_vars)
    if "unexpressed" in effects.var:
        values["unexpressed"] = np.tile(effects.var["unexpressed"].to_numpy(), effects.n_obs)
    return pd.DataFrame(values, index).reset_index()


def effect_table(effect: AnnData) -> Table:
    """Return the genes that one condition changes most."""
    table = tidy(effect).sort_values("ate", key=np.abs, ascending=False).head(_N_ROWS)
    n_cells = int(effect.obs["n_train_cells"].iloc[0])
    cells = f"{n_cells:,} training cells" if n_cells else "never seen in training"
    confounded = "" if effect.obs["estimable"].iloc[0] else ", confounded with batches"
    name, scale = shown(effect.obs_names[0]), effect.uns["scale"]
    columns = {"gene": _name("gene"), "ATE": "{0.ate:+.3f}", "mc_se": "{0.mc_se:.3f}"}
    title = f"{name} ({cells}{confounded}): ATE on scale {scale!r}"
    return _table(title, table.itertuples(), {**columns, "90 % interval": _interval})


def discovery_table(table: pd.DataFrame) -> Table:
    """Return a row per condition (and sgRNA): how many genes it changes, and the most certain."""
    keys = [name for name in ("condition", "sgrna") if name in table.columns]
    rows = []
    for names, own in table.groupby(keys, observed=True, sort=False):
        calls = own[own["q_value"] < _ERROR_RATE]
        genes = (f"{shown(row.gene)} {row.estimate:+.2f}" for row in calls.itertuples())
        n_up = int((calls["estimate"] > 0).sum())
        top = ", ".join(next(genes) for _ in range(min(5, len(calls))))
        if not top and "informative" in own and not own["informative"].any():
            top = "not informative: too few cells"
        numbers = f"{int(own['n_cells'].iloc[0]):,}", f"{n_up:,}", f"{len(calls) - n_up:,}"
        rows.append((*map(shown, names), *numbers, _own_genes(own), top or "-"))
    headers = [*keys, "cells", "up", "down", "own gene", "most certain genes"]
    columns = {header: f"{{0[{i}]}}" for i, header in enumerate(headers)}
    return _table(f"discoveries (q_value < {_ERROR_RATE:g})", rows, columns)


def _own_genes(rows: pd.DataFrame) -> str:
    """Return the effects of a condition on the genes that it targets."""
    own = on_target(rows)
    texts = (
        row.change
        if row.change == "not measured"
        else f"{shown(row.gene)} {row.estimate:+.2f}"
        + (" (not clear)" if row.change == "not clear" else "")
        for row in own.itertuples()
    )
    return ", ".join(texts)


def error_rates(table: pd.DataFrame) -> str:
    """Return how many rows are called by their q_value, and how many of those have a larger lfsr.

    >>> print(error_rates(pd.DataFrame({"lfsr": [0.0, 0.08, 0.9], "q_value": [0.0, 0.04, 0.33]})))
    2 of 3 rows at q_value < 0.05: about 5 % of them are wrong at most, on average
    1 of these 2 with lfsr > 0.05: less certain on its own than the list as a whole
    """
    is_call = table["q_value"] < _ERROR_RATE
    n_calls, n_unsure = int(is_call.sum()), int((is_call & (table["lfsr"] > _ERROR_RATE)).sum())
    text = f"{n_calls:,} of {len(table):,} rows at q_value < {_ERROR_RATE:g}"
    if n_calls:
        text += f": about {100 * _ERROR_RATE:.0f} % of them are wrong at most, on average"
    if n_unsure:
        text += (
            f"\n{n_unsure:,} of these {n_calls:,} with lfsr > {_ERROR_RATE:g}: less certain on its "
            "own than the list as a whole"
        )
    return text


def rate_table(rates: pd.DataFrame) -> Table:
    """Return a row per perturbation and sgRNA: the share of cells that respond."""
    columns = {
        "perturbation": _name("perturbation"),
        "sgrna": _name("sgrna"),
        "cells": "{0.n_cells:,}",
        "share": lambda row: f"{row.rate:.2f}" if row.informative else "not informative",
        "90 % interval": lambda row: (
            f"{row.lower:.2f} to {row.upper:.2f}" if row.informative else "-"
        ),
        "log BF": "{0.log_bayes_factor:+.1f}",
    }
    return _table("cells that respond", rates.itertuples(), columns)


def regulator_table(rows: pd.DataFrame, gene: str) -> Table:
    """Return the conditions that change a gene, the most certain first."""
    columns = {
        **{name: _name(name) for name in ("condition", "sgrna") if name in rows},
        "cells": "{0.n_cells:,}",
        "estimate": "{0.estimate:+.3f}",
        "90 % interval": _interval,
        "lfsr": "{0.lfsr:.2g}",
    }
    certain = rows[rows["lfsr"] < _ERROR_RATE].head(_N_ROWS)
    return _table(f"conditions that change {shown(gene)}", certain.itertuples(), columns)


def contrast_table(table: pd.DataFrame) -> Table:
    """Return the genes on which two conditions have different effects, the most certain first."""
    columns = {
        "gene": _name("gene"),
        "difference": "{0.estimate:+.3f}",
        "90 % interval": _interval,
        "lfsr": "{0.lfsr:.2g}",
        "q_value": "{0.q_value:.2g}",
    }
    first = table.iloc[0]
    names = (
        f"{shown(first[name])} ({int(first[cells]):,} cells)"
        for name, cells in (("condition", "n_cells"), ("against", "n_cells_against"))
    )
    certain = table[table["q_value"] < _ERROR_RATE].head(_N_ROWS)
    title = f"effect of {' minus effect of '.join(names)}, on scale {first['scale']!r}"
    return _table(title, certain.itertuples(), columns)


def mechanism_table(mechanisms: pd.DataFrame) -> Table:
    """Return a row per mechanism: perturbations that shift it, and the genes it changes most."""

    def genes(column: str) -> Callable[[Any], str]:
        return lambda row: ", ".join(map(shown, getattr(row, column)[:_N_NAMES]))

    columns = {
        "dimension": _name("Index"),
        "share": "{0.share:.2f}",
        _MOVERS: _movers,
        "a shift that is": "{0.direction}",
        "raises": genes("up"),
        "lowers": genes("down"),
    }
    return _table("mechanisms", mechanisms.itertuples(), columns)


def _movers(row: Any) -> str:
    """Return the members that shift a mechanism most, and by how much; candidates in brackets."""
    members, candidates = (
        ", ".join(f"{shown(name)} {shift:+.1f}" for name, shift in list(pairs)[:_N_NAMES])
        for pairs in (
            zip(row.perturbations, row.shifts, strict=True),
            zip(row.candidates, row.candidate_shifts, strict=True),
        )
    )
    return f"{members} ({candidates})".lstrip() if candidates else members


_OF_SHIFT = {
    "mechanism": _name("mechanism"),
    "probability": "{0.probability:.3f}",
    "shift": "{0.shift:+.2f}",
    "cells": "{0.n_train_cells:,}",
}


def context_table(differences: pd.DataFrame) -> Table:
    """Return a row per perturbation, context and mechanism in which it differs from the others."""
    columns = {name: _name(name) for name in ("perturbation", "context")}
    return _table("differences between contexts", differences.itertuples(), columns | _OF_SHIFT)


def interaction_table(interactions: pd.DataFrame) -> Table:
    """Return a row per pair and mechanism: what it does beyond the sum of its parts."""
    return _table("interactions", interactions.itertuples(), {"pair": _name("pair")} | _OF_SHIFT)


def sgrna_table(sgrnas: pd.DataFrame) -> Table:
    """Return a row per sgRNA: how its effect compares with that of the condition's others."""
    columns = {
        **{name: _name(name) for name in ("condition", "sgrna")},
        "cells": "{0.n_cells:,}",
        "correlation": "{0.correlation:.2f}",
        "strength": "{0.strength:.2f}",
        "q_different": "{0.q_different:.2g}",
        "flag": "{0.flag}",
    }
    return _table("sgRNAs", sgrnas.itertuples(), columns)


def program_table(programs: pd.DataFrame, mechanisms: pd.DataFrame) -> Table:
    """Return a row per mechanism: the perturbations that shift it, and the genes that change."""
    rows = []
    for name, own in programs.groupby("dimension", observed=True, sort=False):
        shifted = mechanisms.loc[name]
        up, down = own[own["loading"] > 0], own[own["loading"] < 0]
        rows.append(
            (
                shown(name),
                f"{shifted['share']:.2f}",
                _movers(shifted),
                shifted["direction"],
                *(", ".join(map(shown, genes["gene"].head(_N_NAMES))) for genes in (up, down)),
            )
        )
    headers = ("dimension", "share", _MOVERS, "a shift that is", "raises", "lowers")
    columns = {header: f"{{0[{i}]}}" for i, header in enumerate(headers)}
    return _table("programs", rows, columns)


def summary_table(summary: Mapping[str, Mapping[str, Any]], name: str) -> Table:
    """Return a row per metric and a column per split, of a model's scores in metrics.json."""
    labels = [f"{split} cells" for split in summary]
    if "unseen" in summary and "test" in summary:
        labels = ["test cells of conditions seen in training", "test cells of unseen conditions"]
    table = Table("metric", *labels, title=shown(name))
    for metric in dict.fromkeys(metric for one in summary.values() for metric in one):
        values = ("-" if (v := one.get(metric)) is None else v for one in summary.values())
        table.add_row(metric, *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values))
    return table


def comparison_tables(scores: pd.DataFrame, width: int) -> Iterator[Table]:
    """Yield, by split, a row per predictor and a column per headline metric.

    Metrics that do not fit next to each other in a console of this width are in further tables.
    `scores` are as `samsvae.runs.compare.table_of` returns them.
    """
    name_width = max(scores["predictor"].astype(str).map(len))
    metric_width = 16
    n_columns = max(1, (width - name_width - 4) // (metric_width + 3))
    has_unseen = "unseen" in set(scores["split"])
    labels = {
        "test": "test cells of conditions seen in training" if has_unseen else "test cells",
        "unseen": "unseen: test cells of conditions never seen in training",
    }
    over_seeds = ": mean (sd over seeds)" if scores["sd"].notna().any() else ""
    sds = scores["sd"].map(" ({:.3f})".format).where(scores["sd"].notna(), "")
    cells = (scores["mean"].map("{:.3f}".format) + sds).where(scores["mean"].notna(), "-")
    for split, rows in scores.assign(cell=cells).groupby("split", sort=False):
        wide = rows.pivot(index="predictor", columns="metric", values="cell").fillna("-")
        wide = wide.loc[rows["predictor"].unique(), [name for name in HEADLINES if name in wide]]
        for start in range(0, wide.shape[1], n_columns):
            some = wide.iloc[:, start : start + n_columns]
            table = Table(title=labels.get(str(split), f"{split} cells") + over_seeds)
            table.add_column("", no_wrap=True, min_width=name_width)
            for name in some:
                table.add_column(name.replace("_", " "), width=metric_width)
            for predictor, *values in some.itertuples():
                table.add_row(shown(predictor), *values)
            yield table
