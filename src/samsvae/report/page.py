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
from samsvae.report.findings import Findings
from samsvae.report.payload import MAPPED, n_genes_of, payload
from samsvae.report.scoreboard import MEANINGS, scoreboards

_SCRIPTS = ("core", "charts", "table", "training", "mechanisms", "conditions", "combinations")
LISTED = 1000
"""Most rows of a list that stands in the page itself; all are in the tables beside it."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What would end the element that the data stand in, or a line of JavaScript."""


def page(findings: Findings) -> str:
    """Return the report as HTML, in which nothing is loaded from elsewhere.

    Every name is data: Jinja2 escapes what it writes into the page, and the scripts write text,
    never HTML. The policy of the page admits no script but its own.
    """
    script = Markup("\n".join(_asset(f"{name}.js") for name in _SCRIPTS))
    script = Markup('(() => {\n"use strict";\n') + script + Markup("\n})();\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    record = payload(findings)
    n_mechanisms = 0 if findings.mechanisms is None else len(findings.mechanisms)
    return (
        _environment()
        .get_template("page.html")
        .render(
            findings=findings,
            cautions=cautions(findings),
            boards=scoreboards(findings.scores),
            meanings=MEANINGS,
            data=Markup(embedded(record)),
            n_genes=n_genes_of(findings),
            mapped=MAPPED,
            n_mapped=record["mask"].get("n", 0),
            listed_of_each=max(20, LISTED // max(1, n_mechanisms)),
            listed=LISTED,
            style=Markup(_asset("style.css")),
            script=script,
            policy=f"{_POLICY}; script-src 'sha256-{digest}'",
            version=__version__,
        )
    )


def embedded(record: Any) -> str:
    r"""Return a record as JSON that may stand in a script element; what is no number is null.

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
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
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
    """Return a number as it is shown; an en dash for what is not known.

    >>> number(12345), number(0.12345), number(float("nan")), number(True)
    ('12,345', '0.123', '–', 'True')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
