"""How the documentation is built: `make docs`."""

import re
from typing import Any

import samsvae

project = "samsvae"
author = "The samsvae developers"
copyright = author  # noqa: A001  the name that Sphinx asks for
version = release = samsvae.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"samsvae {version}"
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # what stands between single backticks in a docstring
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_custom_sections = ["Returns", "Yields"]  # these are sentences, not a list of types

nitpicky = True
# Other packages' names are not looked up: the build needs no network. What is asked for in single
# backticks may be an argument, a column or a command, and is then only set in another type. Types
# of signatures may be records that have no page.
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"(anndata|collections|dataclasses|matplotlib|numpy|os|pathlib|pandas|scipy)\..*"),
    ("py:class", r"(np|sp|pd|torch)\..*|Facts|InitVar|PerturbationVAE"),
    ("py:class", r"samsvae\.(data|estimators|evaluation|inference|model|settings)\..*"),
]


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring, before napoleon reads its sections."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            # A bar is one, and begins no substitution; code keeps its bars.
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[i] = "".join(parts)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # else what stands before a colon is taken for a type


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain, priority=400)
