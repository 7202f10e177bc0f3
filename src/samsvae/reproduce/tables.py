"""The paper's tables out of an experiment's scores: as text, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from samsvae.benchmark.tasks import DUPLICATE
from samsvae.errors import InputError, listed
from samsvae.runs.directory import Made
from samsvae.runs.jobs import Fit, Score
from samsvae.storage.tables import read_csv
from samsvae.types import ALL_CONDITIONS

METRICS = ("iwelbo", "ate_pearson")
PUBLISHED = ("iwelbo", "pathway_accuracy", "ate_pearson")
"""Columns of the paper's Table 1: whoever has it at hand gives its numbers."""


def read_published(path: Path) -> pd.DataFrame:
    """Return the numbers of the paper's Table 1, by label, of a CSV file.

    Its columns are label (as the table made here has them) and any of iwelbo, pathway_accuracy and
    ate_pearson.

    Raises
    ------
    InputError
        If there is no such file, or it is no such table.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected the paper's numbers as CSV")
    table = read_csv(path)
    strange = [name for name in table if name not in ("label", *PUBLISHED)]
    if "label" not in table or strange:
        raise InputError(
            f"{str(path)!r} has the columns {listed(table)}: expected label, and any of "
            f"{listed(PUBLISHED)}"
        )
    wrong = [name for name in PUBLISHED if name in table and table[name].dtype.kind not in "fi"]
    if wrong or not table["label"].is_unique:
        raise InputError(f"{str(path)!r}: expected each label once, and numbers in {listed(wrong)}")
    return table.set_index("label")


def pooled_scores(made: Made) -> pd.DataFrame:
    """Return test scores of all models, baselines and the duplicate.

    Columns label, fraction, seed, iwelbo (nats per cell), ate_pearson, validation_iwelbo.
    """
    tables = []
    for score in made.scores:
        table = score.pooled.rename(columns={"predictor": "label"})
        if score.fit is None:
            table = table[table["label"].isin(score.baselines)]
            table = pd.concat([table, _duplicate(score)], ignore_index=True)
        table.insert(1, "fraction", score.cell.fraction)
        table.insert(2, "seed", score.cell.seed)
        table["validation_iwelbo"] = np.nan if score.fit is None else score.fit.validation
        tables.append(table.astype({"fraction": float}))
    return pd.concat(tables, ignore_index=True)


def _duplicate(score: Score) -> pd.DataFrame:
    """Return the technical duplicate's ate_pearson: of its larger kind of conditions."""
    scores = score.scores
    own = scores[(scores["predictor"] == DUPLICATE) & (scores["metric"] == "ate_pearson")]
    own = own[own["condition"] == ALL_CONDITIONS].sort_values("n_cells").tail(1)
    values = {"label": DUPLICATE, "iwelbo": np.nan, "ate_pearson": own["value"].to_numpy()}
    return pd.DataFrame(values)


def best_fits(made: Made) -> dict[str, Fit]:
    """Return the model of the best validation IWELBO of each label, at its largest fraction."""
    found: dict[str, Fit] = {}
    for (label, cell), fit in made.fits.items():
        rank = (cell.fraction or 0.0, np.nan_to_num(fit.validation, nan=-np.inf))
        known = found.get(label)
        before = (
            (known.cell.fraction or 0.0, np.nan_to_num(known.validation, nan=-np.inf))
            if known is not None
            else (-1.0, -np.inf)
        )
        if rank > before:
            found[label] = fit
    return found


def first_table(
    pooled: pd.DataFrame,
    ours: Sequence[str],
    pathways: Mapping[str, float],
    published: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the paper's Table 1: a row per label, the paper's rows first, then `ours`.

    Test IWELBO is the mean and the standard deviation over seeds; pathway accuracy and ATE-Pearson
    are of the model with the best validation IWELBO (of baselines, means over seeds).

    Parameters
    ----------
    pooled
        As `pooled_scores` returns them.
    ours
        Labels that are none of the paper's.
    pathways
        Accuracy by label.
    published
        The paper's numbers by label, to stand beside; None: their columns are empty.
    """
    rows = []
    for label, some in pooled.groupby("label", sort=False):
        best = some.loc[some["validation_iwelbo"].fillna(-np.inf).idxmax()]
        is_model = some["validation_iwelbo"].notna().any()
        rows.append(
            {
                "label": label,
                "ours": label in ours or not is_model,
                "iwelbo": some["iwelbo"].mean(),
                "iwelbo_sd": some["iwelbo"].std(),
                "n_seeds": len(some),
                "pathway_accuracy": pathways.get(str(label), np.nan),
                "ate_pearson": best["ate_pearson"] if is_model else some["ate_pearson"].mean(),
            }
        )
    table = pd.DataFrame(rows).sort_values("ours", kind="stable", ignore_index=True)
    known = pd.DataFrame() if published is None else published
    known = known.reindex(index=table["label"], columns=list(PUBLISHED)).astype(float)
    return table.assign(**{f"paper_{name}": known[name].to_numpy() for name in PUBLISHED})


def fraction_table(pooled: pd.DataFrame, ours: Sequence[str]) -> pd.DataFrame:
    """Return mean and standard deviation over splits, by label and fraction."""
    grouped = pooled.groupby(["label", "fraction"], sort=False)
    table = grouped[list(METRICS)].agg(["mean", "std", "count"])
    columns = {
        "iwelbo": table["iwelbo", "mean"],
        "iwelbo_sd": table["iwelbo", "std"],
        "ate_pearson": table["ate_pearson", "mean"],
        "ate_pearson_sd": table["ate_pearson", "std"],
        "n_seeds": grouped.size(),
    }
    found = pd.DataFrame(columns).reset_index()
    models = set(pooled.loc[pooled["validation_iwelbo"].notna(), "label"])
    below = found["label"].isin(ours) | ~found["label"].isin(models)
    return found.assign(ours=below).sort_values("ours", kind="stable", ignore_index=True)


def as_text(table: pd.DataFrame) -> str:
    """Return a table as aligned text, a line between the paper's rows and ours."""
    shown = _shown(table)
    widths = [max(map(len, [name, *shown[name]])) for name in shown]
    first = "  ".join(name.ljust(width) for name, width in zip(shown, widths, strict=True))
    lines = [first.rstrip(), "-" * len(first)]
    before = False
    for (_, row), ours in zip(shown.iterrows(), table["ours"], strict=True):
        if ours and not before:
            lines.append("-" * len(first))
        before = bool(ours)
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def as_latex(table: pd.DataFrame) -> str:
    """Return a table for LaTeX (booktabs), a line between the paper's rows and ours."""
    shown = _shown(table)
    lines = [f"\\begin{{tabular}}{{l{'r' * (shown.shape[1] - 1)}}}", "\\toprule"]
    lines += [" & ".join(map(_escaped, shown)) + " \\\\", "\\midrule"]
    before = False
    for (_, row), ours in zip(shown.iterrows(), table["ours"], strict=True):
        if ours and not before:
            lines.append("\\midrule")
        before = bool(ours)
        lines.append(" & ".join(map(_escaped, row)) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    for sign in "\\_&%#$":
        text = text.replace(sign, f"\\{sign}")
    return text


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is printed: means with their sd, nothing where there is no number."""
    columns = {"model": table["label"].astype(str)}
    for name in table.columns.difference(["label", "ours"], sort=False):
        if str(name).endswith("_sd"):
            continue
        spread = table.get(f"{name}_sd", pd.Series(np.nan, table.index))
        columns[str(name)] = pd.Series(
            [_number(value, sd) for value, sd in zip(table[name], spread, strict=True)]
        )
    return pd.DataFrame(columns)


def _number(value: float, sd: float) -> str:
    if pd.isna(value):
        return ""
    if float(value).is_integer():
        return f"{value:g}"
    return f"{value:.3f}" if pd.isna(sd) else f"{value:.3f} ({sd:.3f})"
