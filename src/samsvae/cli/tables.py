"""What the command line prints: tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.table import Table

from samsvae.benchmark.metrics.registry import HEADLINES
from samsvae.errors import shown


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


def effect_table(effect: AnnData, n_genes: int = 15) -> Table:
    """Return the genes that one condition changes most."""
    table = tidy(effect).sort_values("ate", key=np.abs, ascending=False).head(n_genes)
    n_cells = int(effect.obs["n_train_cells"].iloc[0])
    seen = f"{n_cells:,} training cells" if n_cells else "never seen in training"
    confounded = "" if effect.obs["estimable"].iloc[0] else ", not to be told from its batches"
    title = (
        f"{shown(effect.obs_names[0])} ({seen}{confounded}): ATE on scale {effect.uns['scale']!r}"
    )
    printed = Table("gene", "ATE", "mc_se", "90 % interval", title=title)
    for row in table.itertuples():
        known = not np.isnan(row.lower)  # the conditional VAE has none
        interval = f"{row.lower:+.3f} to {row.upper:+.3f}" if known else "-"
        printed.add_row(shown(row.gene), f"{row.ate:+.3f}", f"{row.mc_se:.3f}", interval)
    return printed


def discovery_table(table: pd.DataFrame, *, rate: float = 0.05, n_genes: int = 5) -> Table:
    """Return a row per condition (and sgRNA): how many genes it changes, and the surest of them."""
    kind = "sgrna" if "sgrna" in table.columns else "condition"
    printed = Table(
        kind,
        "cells",
        "up",
        "down",
        "surest genes",
        title=f"discoveries (q_value < {rate:g})",
    )
    for name, rows in table.groupby(kind, observed=True, sort=False):
        calls = rows[rows["q_value"] < rate].sort_values("lfsr", kind="stable")
        rises = calls["estimate"] > 0
        surest = ", ".join(
            f"{shown(row.gene)} {row.estimate:+.2f}" for row in calls.head(n_genes).itertuples()
        )
        n_cells = f"{int(rows['n_cells'].iloc[0]):,}"
        printed.add_row(
            shown(name), n_cells, f"{rises.sum():,}", f"{(~rises).sum():,}", surest or "-"
        )
    return printed


def rate_table(rates: pd.DataFrame) -> Table:
    """Return a row per perturbation and sgRNA: how large the share of cells is that respond."""
    printed = Table(
        "perturbation",
        "sgrna",
        "cells",
        "share",
        "90 % interval",
        "log BF",
        title="cells that respond",
    )
    for row in rates.itertuples():
        printed.add_row(
            shown(row.perturbation),
            shown(row.sgrna),
            f"{row.n_cells:,}",
            f"{row.rate:.2f}",
            f"{row.lower:.2f} to {row.upper:.2f}",
            f"{row.log_bayes_factor:+.1f}",
        )
    return printed


def regulator_table(rows: pd.DataFrame, gene: str, *, rate: float = 0.05, most: int = 15) -> Table:
    """Return the conditions that change a gene, the surest first."""
    printed = Table(
        "condition",
        "cells",
        "estimate",
        "90 % interval",
        "lfsr",
        title=f"what changes {shown(gene)}",
    )
    for row in rows[rows["lfsr"] < rate].head(most).itertuples():
        interval = f"{row.lower:+.3f} to {row.upper:+.3f}"
        cells = f"{row.n_cells:,}"
        printed.add_row(
            shown(row.condition), cells, f"{row.estimate:+.3f}", interval, f"{row.lfsr:.2g}"
        )
    return printed


def program_table(programs: pd.DataFrame, mechanisms: pd.DataFrame, *, most: int = 6) -> Table:
    """Return a row per mechanism: what moves it, and the genes that it moves most."""
    printed = Table("dimension", "share", "moved by", "up", "down", title="programs")
    for name, rows in programs.groupby("dimension", observed=True, sort=False):
        moved = mechanisms.loc[name]
        ordered = rows.sort_values("loading", ascending=False, kind="stable")
        up, down = ordered[ordered["loading"] > 0], ordered[ordered["loading"] < 0][::-1]
        signed = zip(moved["perturbations"], moved["shifts"], strict=True)
        printed.add_row(
            shown(name),
            f"{moved['share']:.2f}",
            ", ".join(f"{shown(one)} {shift:+.1f}" for one, shift in list(signed)[:most]),
            ", ".join(map(shown, up["gene"].head(most))),
            ", ".join(map(shown, down["gene"].head(most))),
        )
    return printed


def summary_table(summary: Mapping[str, Mapping[str, Any]], name: str) -> Table:
    """Return a row per metric and a column per split of what metrics.json holds of a model."""
    labels = [f"{split} cells" for split in summary]
    if "unseen" in summary and "test" in summary:
        labels = ["test cells of conditions seen in training", "test cells of unseen conditions"]
    printed = Table("metric", *labels, title=shown(name))
    for metric in dict.fromkeys(metric for one in summary.values() for metric in one):
        values = [one.get(metric) for one in summary.values()]
        printed.add_row(metric, *(_told(value) for value in values))
    return printed


def _told(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"


def comparison_tables(table: pd.DataFrame, width: int) -> Iterator[Table]:
    """Yield, per split, a row per predictor and a column per headline metric.

    Parameters
    ----------
    table
        As `experiments.compare.table_of` returns it.
    width
        Of the console: what does not fit beside each other comes in further tables.
    """
    together = max(1, (width - 20) // 20)
    apart = "unseen" in set(table["split"])
    labels = {
        "test": "test cells of conditions seen in training" if apart else "test cells",
        "unseen": "unseen: test cells of conditions never seen in training",
    }
    over_seeds = ": mean (sd over seeds)" if table["sd"].notna().any() else ""
    for split, rows in table.groupby("split", sort=False):
        label = labels.get(str(split), f"{split} cells")
        names = [name for name in HEADLINES if name in set(rows["metric"])]
        for start in range(0, len(names), together):
            some = names[start : start + together]
            printed = Table(title=f"{label}{over_seeds}")
            printed.add_column("", no_wrap=True, min_width=17)
            for name in some:
                printed.add_column(name.replace("_", " "), width=17)
            for predictor, of_predictor in rows.groupby("predictor", sort=False):
                scores = of_predictor.set_index("metric").reindex(some)
                printed.add_row(shown(predictor), *map(_score, scores["mean"], scores["sd"]))
            yield printed


def _score(mean: float, sd: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.3f}" if np.isnan(sd) else f"{mean:.3f} ({sd:.3f})"
