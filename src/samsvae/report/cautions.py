"""Cautions: what the numbers of a run say against its results."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.report.tables import ReportTables

FEW_CELLS = 30
"""Number of cells of a condition below which its effect comes mostly from the model."""
_MAX_NAMES = 8
_DENSE = 1 / 3
"""Share of mask entries in use above which no axes are sparser than others."""
_MAX_MISCOVERAGE = 0.1
"""Largest difference between the coverage of intervals and their level."""
_MIN_PEARSON = 0.9
_MIN_JACCARD = 0.5


class Caution(NamedTuple):
    """One reason to doubt a result."""

    title: str
    text: str
    is_serious: bool = True


def cautions(report: ReportTables) -> list[Caution]:
    """Return every caution that the numbers give, the serious ones first."""
    unsorted = [
        *_of_training(report),
        *_of_cells(report),
        *_of_scores(report),
        *_of_mechanisms(report),
        *_of_seeds(report),
    ]
    return sorted(unsorted, key=lambda caution: not caution.is_serious)


def _of_training(report: ReportTables) -> Iterator[Caution]:
    history = report.history
    if "is_best" not in history or history.empty:
        return
    if history.get("valid_elbo", pd.Series(dtype=float)).isna().all():
        yield Caution(
            "No validation cells",
            "Overfitting cannot be detected, and error rates cannot be learned. Split the screen "
            "with validation cells and train again.",
        )
    elif bool(history["is_best"].iloc[-1]):
        yield Caution(
            "Still improving",
            "The last validation ELBO is the best one: training ended before the model had learned "
            "all it could. Train longer (--max-steps).",
        )


def _of_cells(report: ReportTables) -> Iterator[Caution]:
    if report.cells is not None:
        cells = report.cells.iloc[1:]
        few = cells.index[(cells["total"] < FEW_CELLS) & cells["is_trained"]]
        if len(few):
            yield Caution(
                "Few cells",
                f"{_some(few, len(cells), 'conditions')} fewer than {FEW_CELLS} cells: their "
                "effects come mostly from what the model has learned of the other conditions.",
                is_serious=len(few) > 0.2 * len(cells),
            )
        confounded = cells.index[~cells["estimable"]]
        if len(confounded):
            yield Caution(
                "Confounded with batches",
                f"{_some(confounded, len(cells), 'conditions')} no batch in common with control "
                "cells, directly or through other conditions: their effects may be those of their "
                "batches, and have no interval.",
            )
    if report.unexpressed:
        share = len(report.unexpressed) / max(1, int(report.overview.get("n_genes", 0)))
        yield Caution(
            "Unexpressed genes",
            f"{len(report.unexpressed):,} genes have no count in any training cell: their effects "
            f"are given as 0, but are not known ({_named(report.unexpressed)}).",
            is_serious=share > 0.5,
        )


def _of_scores(report: ReportTables) -> Iterator[Caution]:
    if report.scores is None:
        yield Caution("Not evaluated", report.missing.get("evaluation", ""))
        return
    for split, scores in report.scores.groupby("split", sort=False):
        where = f"{split} cells" if split != "unseen" else "cells of unseen conditions"
        own = scores[scores["kind"] == "model"].drop_duplicates("metric").set_index("metric")
        wins = _wins_of_baselines(own, scores[scores["kind"] == "baseline"], report.model)
        if wins:
            yield Caution(
                "A baseline wins",
                f"On {where} a simple baseline is better than the model in {len(wins)} of the "
                f"scores shown ({'; '.join(wins[:_MAX_NAMES])}). If that score matters most to "
                "you, use the baseline.",
                is_serious=any(text.startswith(("ate_", "pearson")) for text in wins),
            )
        for level in (50, 90):
            if f"coverage_{level}" not in own.index:
                continue
            value = own.loc[f"coverage_{level}", "value"]
            if abs(value - level / 100) > _MAX_MISCOVERAGE:
                yield Caution(
                    "Intervals are off",
                    f"On {where}, {value:.0%} of the observed effects lie in the model's {level} % "
                    f"intervals: they are too {'narrow' if value < level / 100 else 'wide'}.",
                )


def _wins_of_baselines(own: pd.DataFrame, baselines: pd.DataFrame, model: str) -> list[str]:
    """Return the metrics, coverage aside, in which a baseline is closer to the best value."""
    wins = []
    for metric, row in own.iterrows():
        others = baselines[baselines["metric"] == metric].dropna(subset="value")
        if np.isnan(row["value"]) or others.empty or str(metric).startswith("coverage"):
            continue
        distance = (others["value"] - row["best"]).abs()
        if distance.min() < abs(row["value"] - row["best"]):
            best = others.loc[distance.idxmin()]
            scores = f"{best['predictor']} {best['value']:.3f}, {model} {row['value']:.3f}"
            wins.append(f"{metric}: {scores}")
    return wins


def _of_mechanisms(report: ReportTables) -> Iterator[Caution]:
    for text in report.notes:
        if "axes" in text:
            sentence = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
            yield Caution("Axes are not identified", sentence)
    if report.mechanisms is not None and report.mechanisms.empty:
        yield Caution(
            "No mechanism found",
            "No perturbation shifts any latent dimension with a probability above 1/2: there are "
            "no effects, or they are too weak for this number of cells.",
        )
    inclusion = report.inclusion
    if inclusion is None:
        return
    is_used = inclusion["probability"] > 0.5
    among = inclusion["dimension"].isin(inclusion.loc[is_used, "dimension"])
    share = is_used[among].mean()
    if share > _DENSE and inclusion.loc[among, "perturbation"].nunique() > 2:
        yield Caution(
            "Shifts are dense",
            f"{share:.0%} of the pairs of perturbation and mechanism are in use: no axes are much "
            "sparser than others, so do not rely on single mechanisms.",
        )


def _of_seeds(report: ReportTables) -> Iterator[Caution]:
    table = report.stability
    if table is None:
        yield Caution(
            "One seed",
            "The results of a single seed may depend on it: samsvae compare trains several.",
            is_serious=False,
        )
        return
    models = table["model"] if "model" in table else pd.Series(report.model, table.index)
    for name, pairs in table.groupby(models, sort=False):
        is_own = name == report.model
        seeds, mean = f"Seeds{'' if is_own else f' of {name}'}", pairs.mean(numeric_only=True)
        if mean["mask_jaccard"] < _MIN_JACCARD:
            yield Caution(
                f"{seeds} disagree on mechanisms",
                f"Models of different seeds share {mean['mask_jaccard']:.0%} of their mask "
                f"entries (Jaccard index; {mean['mask_jaccard_chance']:.0%} by chance).",
                is_serious=is_own,
            )
        if mean["effect_pearson"] < _MIN_PEARSON:
            yield Caution(
                f"{seeds} disagree on effects",
                f"Effects of models of different seeds correlate at {mean['effect_pearson']:.2f}.",
                is_serious=is_own,
            )


def _some(names: Collection[str], n_all: int, kind: str) -> str:
    verb = "has" if len(names) == 1 else "have"
    return f"{len(names):,} of {n_all:,} {kind} ({_named(names)}) {verb}"


def _named(names: Collection[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(str, [*names][:_MAX_NAMES])) + more
