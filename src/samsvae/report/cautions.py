"""When not to trust a result: what the numbers of a run say against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.report.findings import Findings

FEW_CELLS = 30
"""Below so many cells of a condition its effect is mostly the model's guess."""
_MOST = 8
"""Names that are told."""
_DENSE = 1 / 3
"""A share of mask entries in use above which no axes are sparser than others."""
_OFF = 0.1
"""How far the coverage of intervals may be from what it should be."""
_UNSTABLE = 0.5


class Caution(NamedTuple):
    """One reason for doubt."""

    title: str
    text: str
    is_serious: bool = True


def cautions(findings: Findings) -> list[Caution]:
    """Return every reason for doubt that the numbers give, the serious ones first."""
    found = [
        *_of_training(findings),
        *_of_cells(findings),
        *_of_scores(findings),
        *_of_mechanisms(findings),
        *_of_seeds(findings),
    ]
    return sorted(found, key=lambda one: not one.is_serious)


def _of_training(findings: Findings) -> Iterator[Caution]:
    history = findings.history
    if "is_best" not in history or history.empty:
        return
    if history.get("valid_elbo", pd.Series(dtype=float)).isna().all():
        yield Caution(
            "No validation cells",
            "Nothing tells whether training went on for too long, and error rates cannot be "
            "learned. Split the screen with validation cells and train anew.",
        )
    elif bool(history["is_best"].iloc[-1]):
        yield Caution(
            "Still improving",
            "The last validation ELBO is the best one: training ended before the model had learned "
            "all it could. Train longer (--max-steps).",
        )


def _of_cells(findings: Findings) -> Iterator[Caution]:
    if findings.cells is not None:
        cells = findings.cells.iloc[1:]
        few = cells.index[(cells["total"] < FEW_CELLS) & cells["is_trained"]]
        if len(few):
            yield Caution(
                "Few cells",
                f"{_some(few, len(cells), 'conditions')} fewer than {FEW_CELLS} cells: what is "
                "said of them is mostly what the model makes of the others.",
                is_serious=len(few) > 0.2 * len(cells),
            )
        confounded = cells.index[~cells["estimable"]]
        if len(confounded):
            yield Caution(
                "Not to be told from batches",
                f"{_some(confounded, len(cells), 'conditions')} no batch in common with control "
                "cells, nor a link to one: their effects may be those of their batches, and have "
                "no interval.",
            )
    if findings.unexpressed:
        share = len(findings.unexpressed) / max(1, int(findings.overview.get("n_genes", 0)))
        yield Caution(
            "Unexpressed genes",
            f"{len(findings.unexpressed):,} genes have no count in any training cell: their "
            f"effects are given as 0, which is not known ({_named(findings.unexpressed)}).",
            is_serious=share > 0.5,
        )


def _of_scores(findings: Findings) -> Iterator[Caution]:
    if findings.scores is None:
        yield Caution("Not evaluated", findings.missing.get("evaluation", ""))
        return
    scores = findings.scores
    for split, rows in scores.groupby("split", sort=False):
        where = f"{split} cells" if split != "unseen" else "cells of unseen conditions"
        own = rows[rows["kind"] == "model"].drop_duplicates("metric").set_index("metric")
        simple = rows[rows["kind"] == "baseline"]
        beaten = []
        for metric, row in own.iterrows():
            others = simple[simple["metric"] == metric].dropna(subset="value")
            if np.isnan(row["value"]) or others.empty or str(metric).startswith("coverage"):
                continue
            distance = (others["value"] - row["best"]).abs()
            best = others.loc[distance.idxmin()]
            if distance.min() < abs(row["value"] - row["best"]):
                told = f"{metric}: {best['predictor']} {best['value']:.3f}, {findings.model} "
                beaten.append(told + f"{row['value']:.3f}")
        if beaten:
            yield Caution(
                "A baseline wins",
                f"On {where} a simple baseline is better than the model in {len(beaten)} of the "
                f"scores shown ({'; '.join(beaten[:_MOST])}). Where that is the score you care "
                "for, take the baseline.",
                is_serious=any(one.startswith(("ate_", "pearson")) for one in beaten),
            )
        for level in (50, 90):
            if f"coverage_{level}" not in own.index:
                continue
            value = own.loc[f"coverage_{level}", "value"]
            if abs(value - level / 100) > _OFF:
                too = "narrow" if value < level / 100 else "wide"
                yield Caution(
                    "Intervals are off",
                    f"Of the effects that {where} show, {value:.0%} lie in the model's intervals "
                    f"of {level} %: they are too {too}.",
                )


def _of_mechanisms(findings: Findings) -> Iterator[Caution]:
    for text in findings.notes:
        if "axes" in text:
            yield Caution("Axes are not identified", f"{_sentence(text)}")
    if findings.mechanisms is not None and findings.mechanisms.empty:
        yield Caution(
            "No mechanism found",
            "No perturbation shifts any latent dimension with a probability above 1/2: the effects "
            "are too weak for these cells, or there are none.",
        )
    if findings.inclusion is not None and len(findings.inclusion):
        in_use = findings.inclusion
        used = in_use[in_use["probability"] > 0.5]["dimension"].unique()
        among = in_use[in_use["dimension"].isin(used)]
        share = float((among["probability"] > 0.5).mean()) if len(among) else 0.0
        if share > _DENSE and among["perturbation"].nunique() > 2:
            yield Caution(
                "Shifts are dense",
                f"{share:.0%} of the pairs of perturbation and mechanism are in use: no axes are "
                "much sparser than others, so that single mechanisms are to be distrusted.",
            )


def _of_seeds(findings: Findings) -> Iterator[Caution]:
    table = findings.stability
    if table is None:
        yield Caution(
            "One seed",
            "Whether another seed finds the same is not known: samsvae compare trains several.",
            is_serious=False,
        )
        return
    models = table["model"] if "model" in table else pd.Series(findings.model, table.index)
    for name, rows in table.groupby(models, sort=False):
        of, own = ("", True) if name == findings.model else (f" of {name}", False)
        if rows["mask_jaccard"].mean() < _UNSTABLE:
            yield Caution(
                f"Seeds{of} disagree on mechanisms",
                f"Models of different seeds share {rows['mask_jaccard'].mean():.0%} of their mask "
                f"entries (Jaccard; by chance {rows['mask_jaccard_chance'].mean():.0%}).",
                is_serious=own,
            )
        if rows["effect_pearson"].mean() < 1 - _OFF:
            yield Caution(
                f"Seeds{of} disagree on effects",
                f"Effects of models of different seeds correlate at "
                f"{rows['effect_pearson'].mean():.2f}.",
                is_serious=own,
            )


def _some(names: pd.Index, of: int, what: str) -> str:
    verb = "has" if len(names) == 1 else "have"
    return f"{len(names):,} of {of:,} {what} ({_named(names)}) {verb}"


def _named(names: object) -> str:
    every = [str(name) for name in names]  # type: ignore[attr-defined]
    more = f" and {len(every) - _MOST:,} more" if len(every) > _MOST else ""
    return ", ".join(every[:_MOST]) + more


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
