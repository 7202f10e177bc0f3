"""The page: templates filled with tables, everything inlined."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from samsvae._version import __version__
from samsvae.report.cautions import cautions
from samsvae.report.payload import MAPPED, n_genes_of, payload
from samsvae.report.tables import MEANINGS, ReportTables, scoreboards

_SCRIPTS = ("core", "charts", "table", "training", "mechanisms", "conditions", "combinations")
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
    template = _environment().get_template("page.html")
    return template.render(
        report=report,
        cautions=cautions(report),
        boards=scoreboards(report.scores),
        meanings=MEANINGS,
        data=Markup(embedded(data)),
        n_genes=n_genes_of(report),
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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


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
