"""The page of a report: templates filled with tables, everything inlined.

The page's scripts read the tables as lists, with numbers rounded to what can be seen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from samsvae._version import __version__
from samsvae.analysis.ordering import surest_first
from samsvae.analysis.similarity import chance_correlation
from samsvae.benchmark.metrics.effects import pearson
from samsvae.ops.ordering import average_linkage_order
from samsvae.report.tables import (
    MEANINGS,
    PREDICTORS,
    ReportTables,
    cautions,
    context_map,
    directions,
    likely,
    scoreboards,
)

_SCRIPTS = (
    "core",
    "saving",
    "charts",
    "table",
    "training",
    "mechanisms",
    "conditions",
    "combinations",
)
LISTED = 1000
"""Largest number of rows of a list in the page; the complete tables have all."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What would end the element that holds the data, or a line of JavaScript."""


def page(report: ReportTables) -> str:
    """Return the report as one HTML page that loads nothing from elsewhere.

    Names from the data are always text: Jinja2 escapes them in the page, and the scripts write
    text, never HTML. The page's content security policy admits no script but its own.
    """
    script = Markup("\n".join(_asset(f"{name}.js") for name in _SCRIPTS))
    script = Markup('(() => {\n"use strict";\n') + script + Markup("\n})();\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = payload(report)
    n_mechanisms = 0 if report.mechanisms is None else len(report.mechanisms)
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("page.html").render(
        report=report,
        cautions=cautions(report),
        directions=None if report.mechanisms is None else directions(report.mechanisms),
        boards=scoreboards(report.scores),
        meanings=MEANINGS,
        predictors=PREDICTORS,
        context_map=None if report.contexts is None else context_map(report.contexts, LISTED),
        likely=likely,
        data=Markup(embedded(data)),
        n_genes=n_genes_of(report),
        **n_calls(report),
        mapped=MAPPED,
        n_mapped=data["mask"].get("n", 0),
        listed_of_each=max(20, LISTED // max(1, n_mechanisms)),
        listed=LISTED,
        style=Markup(_asset("style.css")),
        script=script,
        policy=f"{_POLICY}; script-src 'sha256-{digest}'",
        version=__version__,
    )


def embedded(record: Any) -> str:
    r"""Return a record as JSON that may stand in a script element; numbers that are not finite are
    null.

    Examples
    --------
    >>> embedded({"gene": "</script>", "lfsr": float("nan")})
    '{"gene":"\\u003c/script\\u003e","lfsr":null}'
    """
    text = json.dumps(_finite(record), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _asset(name: str) -> str:
    return files("samsvae.report").joinpath("assets", name).read_text(encoding="utf-8")


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text; an en dash if it is missing.

    >>> number(12345), number(0.12345), number(float("nan")), number(True)
    ('12,345', '0.123', '–', 'True')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


N_GENES = 50
"""Largest number of genes of a condition in the page; the complete tables have all."""
_ROWS, _MIN_GENES = 100_000, 10
"""Effects of all conditions in the page: with many conditions, fewer genes of each, down to the
second number."""
MAPPED = 2000
"""Largest number of perturbations in the maps of mechanisms, those of the largest shifts."""
_DIGITS = 4
"""Significant digits: what a chart can show, and a tenth of the file."""
_EFFECTS = ("estimate", "lower", "upper", "lfsr", "q_value", "model", "observed")


def payload(report: ReportTables) -> dict[str, Any]:
    """Return all that is drawn or searched on the page."""
    conditions = _conditions(report)
    place = {condition["name"]: i for i, condition in enumerate(conditions)}
    genes: dict[str, int] = {}
    sgrnas: list[list[list[Any]]] = [[] for _ in place]
    if report.sgrnas is not None:
        for row in report.sgrnas.itertuples():
            if row.condition in place:
                strength = _short(row.strength), _short(row.strength_se)
                entry = [str(row.sgrna), int(row.n_cells), *strength, row.flag]
                sgrnas[place[str(row.condition)]].append(entry)
    n_genes = 0 if report.effects is None else report.effects["gene"].nunique()
    similar = [report.similar.get(name, []) for name in place]
    return {
        "scale": report.scale,
        "hasRates": report.has_error_rates,
        "conditions": conditions,
        "effects": _effects(report, genes, place),
        "similar": [[[place[n], _short(r)] for n, r in row if n in place] for row in similar],
        "similarAbove": _short(chance_correlation(len(conditions), n_genes)),
        "sgrnas": sgrnas,
        "combinations": _combinations(report, place, genes),
        "history": {  # of ELBOs the last digits matter
            name: values.tolist() if values.dtype == bool else _numbers(values, digits=7)
            for name, values in report.history.items()
            if len(values)
        },
        "mask": _mask(report),
        "map": _map(report),
        "genes": list(genes),  # filled by the effects and combinations above
    }


def n_genes_of(report: ReportTables) -> int:
    """Return how many genes of each condition the page holds."""
    n = 0 if report.effects is None else report.effects["condition"].nunique()
    return min(N_GENES, max(_MIN_GENES, _ROWS // max(1, n)))


def n_calls(report: ReportTables) -> dict[str, int]:
    """Return how many effects are called at a q below 0.05, and how many with a larger lfsr."""
    if report.effects is None or not report.has_error_rates:
        return {"n_calls": 0, "n_unsure": 0}
    is_call = report.effects["q_value"] < 0.05
    n_unsure = (is_call & (report.effects["lfsr"] > 0.05)).sum()
    return {"n_calls": int(is_call.sum()), "n_unsure": int(n_unsure)}


def _conditions(report: ReportTables) -> list[dict[str, Any]]:
    """Return the conditions of the page: those with effects, in their order."""
    effects = report.effects
    if effects is None:
        return []
    estimate = effects["estimate"]
    is_call = effects["q_value"] < 0.05 if report.has_error_rates else np.zeros(len(effects), bool)
    calls = {"up": is_call & (estimate > 0), "down": is_call & (estimate < 0)}
    groups = effects.assign(**calls).groupby("condition", observed=True, sort=False)
    table = groups.agg({"n_cells": "first", "up": "sum", "down": "sum"})
    has_cells = table["n_cells"].astype(bool)
    trained, estimable = has_cells, pd.Series(True, table.index)
    if report.cells is not None:
        cells = report.cells.reindex(table.index.astype(object))
        trained = cells["is_trained"].where(cells["is_trained"].notna(), has_cells.to_numpy())
        estimable = cells["estimable"].where(cells["estimable"].notna(), True)
    rows = zip(table.itertuples(), trained, estimable, strict=True)
    return [
        {
            "name": str(row.Index),
            "nCells": int(row.n_cells),
            "isTrained": bool(is_trained),
            "isEstimable": bool(is_estimable),
            "nUp": int(row.up),
            "nDown": int(row.down),
        }
        for row, is_trained, is_estimable in rows
    ]


def _effects(
    report: ReportTables, genes: dict[str, int], place: dict[str, int]
) -> list[dict[str, list[Any]]]:
    """Return, by condition, its surest genes; without error rates, those of the largest effects."""
    table = report.effects
    if table is None:
        return [{} for _ in place]
    table = surest_first(table, "condition")
    codes, names = pd.factorize(table["condition"])
    condition = np.asarray([place[str(name)] for name in names], int)[codes]
    starts = np.flatnonzero(np.diff(condition, prepend=-1))
    rank = np.arange(len(condition)) - np.repeat(starts, np.diff([*starts, len(condition)]))
    top = np.flatnonzero(rank < n_genes_of(report))
    breaks = np.flatnonzero(np.diff(condition[top], prepend=-1))[1:]
    chosen = table.iloc[top]
    columns: dict[str, list[Any]] = {
        "gene": [_position(genes, gene) for gene in chosen["gene"]],
        **{column: _numbers(chosen[column]) for column in _EFFECTS if column in table},
    }
    spans = list(pairwise([0, *breaks, len(top)]))
    return [{name: values[i:j] for name, values in columns.items()} for i, j in spans]


def _combinations(
    report: ReportTables, place: dict[str, int], genes: dict[str, int]
) -> list[dict[str, Any]]:
    """Return, by combination, the effects of the model, of the sum of the singles and of the data.

    Of a combination without cells, the estimate stands for the model: it is the sum of its parts
    given the model and their cells. Genes are those in which any of the three is largest.
    """
    if report.effects is None or not report.combinations:
        return []
    groups = report.effects.groupby("condition", observed=True)
    by_condition = {
        str(name): rows.set_index("gene")[["model", "observed", "estimate"]]
        for name, rows in groups
        if str(name) in place
    }
    records = []
    for name, parts in report.combinations.items():
        if name not in by_condition:
            continue
        own = by_condition[name]
        predicted = own["model"].where(own["observed"].notna(), own["estimate"])
        own = own[["observed"]].assign(predicted=predicted)
        unknown = pd.Series(np.nan, own.index)
        singles = [
            by_condition[p]["observed"].reindex(own.index) if p in by_condition else unknown
            for p in parts
        ]
        total = np.sum([single.to_numpy(float) for single in singles], axis=0)
        table = own.assign(sum=total)
        size = table.abs().max(axis=1).fillna(0).sort_values(ascending=False, kind="stable")
        top = size.index[: n_genes_of(report)]
        records.append(
            {
                "condition": place[name],
                "parts": list(parts),
                "gene": [_position(genes, gene) for gene in top],
                **{column: _numbers(table.loc[top, column]) for column in table},
                "singles": [_numbers(single.loc[top]) for single in singles],
                "fit": _fit(table.dropna()),
            }
        )
    return records


def _fit(table: pd.DataFrame) -> dict[str, Any]:
    """Return RMSE and correlation of prediction and of sum with the observed effects."""
    if table.empty:
        return {}
    observed, fit = table["observed"].to_numpy(), {}
    for name in ("predicted", "sum"):
        values = table[name].to_numpy()
        fit[name] = _short(float(np.sqrt(np.square(values - observed).mean())))
        fit[f"{name}_r"] = _short(float(pearson(values, observed)))
    return fit


def _mask(report: ReportTables) -> dict[str, Any]:
    """Return the mask of the dimensions in use, similar perturbations side by side.

    Of many perturbations, those of the largest shifts; `n` is the number of all.
    """
    table = report.inclusion
    if table is None or report.mechanisms is None or report.mechanisms.empty:
        return {}
    probability = table.pivot(index="perturbation", columns="dimension", values="probability")
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    dimensions = list(report.mechanisms.index)
    n, shift = len(shift), shift.iloc[_largest(shift[dimensions])]
    order = average_linkage_order(shift[dimensions].to_numpy(), optimal=len(shift) < 2000)
    shift = shift.iloc[order]

    def rows(table: pd.DataFrame) -> list[list[float | None]]:
        return [_numbers(row, digits=3) for row in table[dimensions].to_numpy(float)]

    return {
        "n": n,
        "dimensions": [str(name) for name in dimensions],
        "perturbations": [str(name) for name in shift.index],
        "probability": rows(probability.loc[shift.index]),
        "shift": rows(shift),
    }


def _map(report: ReportTables) -> dict[str, Any]:
    """Return perturbations in the plane of the two principal components of their shifts."""
    table = report.inclusion
    if table is None or table.empty:
        return {}
    shift = table.pivot(index="perturbation", columns="dimension", values="shift")
    centred = (shift - shift.mean()).to_numpy()
    if min(shift.shape) < 2 or not np.abs(centred).sum():
        return {}
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    share, kept = size**2 / np.square(size).sum(), _largest(shift)
    return {
        "name": [str(name) for name in shift.index[kept]],
        "x": _numbers(left[kept, 0] * size[0]),
        "y": _numbers(left[kept, 1] * size[1]),
        "share": _numbers(share[:2]),
    }


def _largest(shift: pd.DataFrame) -> np.ndarray:
    """Return the positions of the perturbations in the maps: those of the largest shifts."""
    size = np.linalg.norm(shift.to_numpy(), axis=1)
    return np.sort(np.argsort(-size, kind="stable")[:MAPPED])


def _position(genes: dict[str, int], name: object) -> int:
    return genes.setdefault(str(name), len(genes))


def _numbers(values: Iterable[float], digits: int = _DIGITS) -> list[float | None]:
    return [_short(float(value), digits) for value in values]


def _short(value: float, digits: int = _DIGITS) -> float | None:
    """Return a number with a few significant digits; None if it is not finite."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
