"""What the scripts of the page read: the tables as lists, numbers cut to what can be seen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from samsvae.benchmark.metrics.effects import pearson
from samsvae.ops.ordering import average_linkage_order
from samsvae.report.findings import Findings

N_GENES = 50
"""Most genes of a condition that the page holds; all are in the tables beside it."""
_ROWS, _FEWEST = 100_000, 10
"""Effects that the page holds of all conditions together: of many conditions fewer genes each, but
not below so many."""
MAPPED = 2000
"""Most perturbations in the maps of mechanisms, those of the largest shifts."""
_DIGITS = 4
"""Significant digits: what a chart can show, and a tenth of the file."""
_EFFECTS = ("estimate", "lower", "upper", "lfsr", "q_value", "model", "observed")


def payload(findings: Findings) -> dict[str, Any]:
    """Return all that is drawn or searched on the page."""
    conditions = _conditions(findings)
    place = {one["name"]: i for i, one in enumerate(conditions)}
    genes: dict[str, int] = {}
    effects = _effects(findings, genes, place)
    record = {
        "model": findings.model,
        "scale": findings.scale,
        "hasRates": findings.has_rates,
        "conditions": conditions,
        "effects": effects,
        "alike": _alike(findings, place),
        "sgrnas": _sgrnas(findings, place),
        "combinations": _combinations(findings, place, genes),
        "history": _history(findings.history),
        "mask": _mask(findings),
        "map": _map(findings),
    }
    return {**record, "genes": list(genes)}


def n_genes_of(findings: Findings) -> int:
    """Return how many genes of each condition the page holds."""
    n = 0 if findings.effects is None else findings.effects["condition"].nunique()
    return min(N_GENES, max(_FEWEST, _ROWS // max(1, n)))


def _conditions(findings: Findings) -> list[dict[str, Any]]:
    """Return the conditions of the page: those with effects, in their order."""
    if findings.effects is None:
        return []
    table, estimate = findings.effects, findings.effects["estimate"]
    called = table["q_value"] < 0.05 if findings.has_rates else np.zeros(len(table), bool)
    told = pd.DataFrame(
        {
            "condition": table["condition"],
            "n_cells": table["n_cells"],
            "up": called & (estimate > 0),
            "down": called & (estimate < 0),
            "square": np.square(estimate),
        }
    )
    groups = told.groupby("condition", observed=True, sort=False)
    each = groups.agg({"n_cells": "first", "up": "sum", "down": "sum", "square": "mean"})
    has_cells = each["n_cells"].astype(bool)
    trained, estimable = has_cells, pd.Series(True, each.index)
    if findings.cells is not None:
        seen = findings.cells.reindex(each.index.astype(object))
        trained = seen["is_trained"].where(seen["is_trained"].notna(), has_cells.to_numpy())
        estimable = seen["estimable"].where(seen["estimable"].notna(), True)
    columns = (each.index, *(each[name] for name in each), trained, estimable)
    return [
        {
            "name": str(name),
            "nCells": int(n_cells),
            "isTrained": bool(is_trained),
            "isIdentified": bool(is_estimable),
            "nUp": int(up),
            "nDown": int(down),
            "size": _short(float(np.sqrt(square))),
        }
        for name, n_cells, up, down, square, is_trained, is_estimable in zip(*columns, strict=True)
    ]


def _effects(
    findings: Findings, genes: dict[str, int], place: dict[str, int]
) -> list[dict[str, list[Any]]]:
    """Return, by condition, its surest genes, the largest effects first where none is surer."""
    table = findings.effects
    if table is None:
        return [{} for _ in place]
    columns, n_genes = [name for name in _EFFECTS if name in table], n_genes_of(findings)
    codes, names = pd.factorize(table["condition"])
    condition = np.asarray([place[str(name)] for name in names], int)[codes]
    order = np.lexsort((*_surest(table), condition))
    starts = np.flatnonzero(np.diff(condition[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    top = order[rank < n_genes]
    parts = np.flatnonzero(np.diff(condition[top], prepend=-1))[1:]
    chosen = table.iloc[top]
    whole: dict[str, list[Any]] = {
        "gene": [_position(genes, gene) for gene in chosen["gene"]],
        **{column: _numbers(chosen[column]) for column in columns},
    }
    spans = list(pairwise([0, *parts, len(top)]))
    return [{name: values[i:j] for name, values in whole.items()} for i, j in spans]


def _surest(rows: pd.DataFrame) -> list[np.ndarray]:
    """Return by what rows are sorted, the last first."""
    size = -np.nan_to_num(rows["estimate"].abs().to_numpy(float))
    return [size, rows["lfsr"].to_numpy(float).round(6)] if "lfsr" in rows else [size]


def _alike(findings: Findings, place: dict[str, int]) -> list[list[list[Any]]]:
    return [
        [[place[other], _short(r)] for other, r in findings.alike.get(name, []) if other in place]
        for name in place
    ]


def _sgrnas(findings: Findings, place: dict[str, int]) -> list[list[list[Any]]]:
    found: list[list[list[Any]]] = [[] for _ in place]
    if findings.sgrnas is not None:
        for row in findings.sgrnas.itertuples():
            if row.condition in place:
                strength = _short(row.strength), _short(row.strength_se)
                told = [str(row.sgrna), int(row.n_cells), *strength, row.flag]
                found[place[str(row.condition)]].append(told)
    return found


def _combinations(
    findings: Findings, place: dict[str, int], genes: dict[str, int]
) -> list[dict[str, Any]]:
    """Return, by combination, its genes as the model, the sum of the singles and the data see them.

    Those in which model or data are furthest from the sum or from 0.
    """
    if findings.effects is None or not findings.combinations:
        return []
    groups = findings.effects.groupby("condition", observed=True)
    wide = {
        str(name): rows.set_index("gene")[["model", "lower", "upper", "observed"]]
        for name, rows in groups
        if str(name) in place
    }
    found = []
    for name, parts in findings.combinations.items():
        if name not in wide:
            continue
        own = wide[name]
        unknown = pd.Series(np.nan, own.index)
        singles = [wide[part]["observed"] if part in wide else unknown for part in parts]
        table = pd.DataFrame(
            {
                "predicted": own["model"],
                "sum": np.sum([one.to_numpy(float) for one in singles], axis=0),
                "observed": own["observed"],
            }
        )
        top = table.abs().max(axis=1).fillna(0).sort_values(ascending=False, kind="stable").index
        top = top[: n_genes_of(findings)]
        found.append(
            {
                "condition": place[name],
                "parts": list(parts),
                "gene": [_position(genes, gene) for gene in top],
                **{column: _numbers(table.loc[top, column]) for column in table},
                "singles": [_numbers(one.loc[top]) for one in singles],
                "fit": _fit(table),
            }
        )
    return found


def _fit(table: pd.DataFrame) -> dict[str, Any]:
    """Return how far prediction and sum are from what is observed, over all genes."""
    known = table.dropna()
    if known.empty:
        return {}
    beyond = {
        name: _short(float(np.sqrt(np.square(known[name] - known["observed"]).mean())))
        for name in ("predicted", "sum")
    }
    observed = known["observed"].to_numpy()
    correlations = {
        f"{name}_r": float(pearson(known[name].to_numpy(), observed))
        for name in ("predicted", "sum")
    }
    return beyond | {name: _short(r) for name, r in correlations.items() if not np.isnan(r)}


def _history(history: pd.DataFrame) -> dict[str, Any]:
    if history.empty:
        return {}
    return {
        name: [bool(v) for v in history[name]] if history[name].dtype == bool
        else _numbers(history[name], digits=7)  # of ELBOs the last digits are what is looked at
        for name in history
    }  # fmt: skip


def _mask(findings: Findings) -> dict[str, Any]:
    """Return the mask of the dimensions in use; perturbations that act alike side by side.

    Of many perturbations, those of the largest shifts: `n` tells how many there are.
    """
    table = findings.inclusion
    if table is None or findings.mechanisms is None or findings.mechanisms.empty:
        return {}
    probability = table.pivot(index="perturbation", columns="dimension", values="probability")
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    dimensions = list(findings.mechanisms.index)
    n, shift = len(shift), shift.iloc[_largest(np.linalg.norm(shift[dimensions], axis=1))]
    order = average_linkage_order(shift[dimensions].to_numpy(), optimal=len(shift) < 2000)
    names = [str(shift.index[i]) for i in order]
    return {
        "n": n,
        "dimensions": [str(name) for name in dimensions],
        "perturbations": names,
        "probability": _rows(probability.loc[shift.index], dimensions, order),
        "shift": _rows(shift, dimensions, order),
    }


def _rows(table: pd.DataFrame, columns: list[Any], order: np.ndarray) -> list[list[float | None]]:
    return [_numbers(row, digits=3) for row in table[columns].to_numpy(float)[order]]


def _map(findings: Findings) -> dict[str, Any]:
    """Return perturbations in the plane of the two principal components of their shifts."""
    table = findings.inclusion
    if table is None or table.empty:
        return {}
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    centred = shift - shift.mean()
    if min(shift.shape) < 2 or not np.abs(centred.to_numpy()).sum():
        return {}
    left, size, _ = np.linalg.svd(centred.to_numpy(), full_matrices=False)
    share, length = size**2 / np.square(size).sum(), np.linalg.norm(shift.to_numpy(), axis=1)
    kept = _largest(length)
    return {
        "name": [str(name) for name in shift.index[kept]],
        "x": _numbers(left[kept, 0] * size[0]),
        "y": _numbers(left[kept, 1] * size[1]),
        "share": _numbers(share[:2]),
        "size": _numbers(length[kept]),
    }


def _largest(size: np.ndarray) -> np.ndarray:
    """Return which perturbations are mapped, by position: those of the largest shifts."""
    return np.sort(np.argsort(-size, kind="stable")[:MAPPED])


def _position(genes: dict[str, int], name: object) -> int:
    return genes.setdefault(str(name), len(genes))


def _numbers(values: Iterable[float], digits: int = _DIGITS) -> list[float | None]:
    return [_short(float(value), digits) for value in values]


def _short(value: float, digits: int = _DIGITS) -> float | None:
    """Return a number with so many significant digits; None for what is no number."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
