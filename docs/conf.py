"""How the documentation is built: `make docs`."""

import inspect
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

import samsvae

project = "samsvae"
author = "The samsvae developers"
copyright = author  # noqa: A001  the name that Sphinx asks for
version = release = samsvae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_math_renderer = "mathml"
html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}  # they lie outside of all landmarks
html_title = f"samsvae {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
exclude_patterns = ["_build", "_gallery", "tutorials/kept"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Tutorials on simulated screens are executed by every build. Those on real data say in their first
# lines `execution_mode: cache`: their outputs are those of docs/tutorials/kept, which `make
# tutorials` writes. The build fails if the code of a tutorial is no longer that of its outputs.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress and notes
nb_merge_streams = True
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

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
    (
        "py:class",
        r"(np|sp|pd|torch)\..*|InitVar|NameRegistry|PerturbationVAE|StoredCounts|TrainingMetadata",
    ),
    (
        "py:class",
        r"samsvae\.(analysis|benchmark|data|estimators|inference|model|settings|storage)\..*",
    ),
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


def without_bounds(app: Any, obj: Any, is_bound: bool) -> None:
    """Leave the bounds of arguments out of signatures: int, not Annotated[int, Ge(ge=1)]."""
    obj = getattr(obj, "__func__", obj)  # of a class method
    known = dict(vars(sys.modules[inspect.unwrap(obj).__module__]))
    owner = known.get(obj.__qualname__.partition(".")[0])
    for base in getattr(owner, "__mro__", ()):  # fields of a dataclass may be those of its bases
        known = vars(sys.modules[base.__module__]) | known

    def without(annotation: Any) -> Any:
        def stripped() -> None: ...

        stripped.__annotations__ = {"annotation": annotation}
        try:
            return get_type_hints(stripped, known)["annotation"]
        except NameError:  # of what only type checkers import
            return annotation

    with suppress(TypeError, ValueError):  # there is no signature
        signature = inspect.signature(obj)
        types = {name: without(p.annotation) for name, p in signature.parameters.items()}
        parameters = signature.parameters.values()
        obj.__signature__ = signature.replace(
            parameters=[p.replace(annotation=types[p.name]) for p in parameters]
        )
        if not inspect.isclass(obj):  # what Sphinx reads where there are annotations
            obj.__annotations__ = {**getattr(obj, "__annotations__", {}), **types}


def inline_math(translator: Any, node: Any) -> None:
    """Write MathML, which browsers show by themselves: no script, no network."""
    translator.body.append(tex2mathml(node.astext()))
    raise SkipNode


def block_math(translator: Any, node: Any) -> None:
    """The same, on lines of its own; a wide equation scrolls."""
    equation = tex2mathml(node.astext(), as_block=True)
    style = "overflow-x: auto; margin: 1em 0; padding: 0.3em 0"
    translator.body.append(f'<div class="math" tabindex="0" style="{style}">{equation}</div>')
    raise SkipNode


def gallery(app: Any) -> None:
    """Make the figures of the gallery, by the code of that page."""
    page = Path(app.srcdir) / "gallery.md"
    folder = page.with_name("_gallery")
    folder.mkdir(exist_ok=True)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S))
    warned = ("-W", "ignore:no C compiler", "-W", "ignore:no perturbation is named after a gene")
    command = [sys.executable, *warned, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExtensionError(f"the code of the gallery fails:\n{done.stderr}")


def kept_outputs(app: Any) -> None:
    """Fill the cache from which myst-nb takes the outputs of tutorials on real data."""
    from jupyter_cache import get_cache

    cache = get_cache(app.env.mystnb_config.execution_cache_path)
    cache.clear_cache()
    for path in sorted(Path(app.srcdir).glob("tutorials/kept/*.ipynb")):
        cache.cache_notebook_file(path, check_validity=False, overwrite=True)


ACCESSIBLE = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    "<th></th>": "<td></td>",  # of the index, in tables of pandas
    '<th class="head"><p></p></th>': '<td class="head"></td>',
    "<pre>": '<pre tabindex="0">',  # wide code and tables scroll by keyboard, too
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<div class="output text_html': '<div tabindex="0" class="output text_html',
}
"""What screen readers and keyboards need, and the theme, pandas and Pygments leave out."""


def signature_lines(match: re.Match[str]) -> str:
    """Return arguments as lines, not as definitions."""
    lines = match[1].replace("<dd>", "<div>").replace("</dd>", "</div>")
    return f'<div class="sig-lines">{lines}</div>'


def accessible(app: Any, exception: Exception | None) -> None:
    """Write what is accessible in place of what is not, in every page."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            for old, new in ACCESSIBLE.items():
                text = text.replace(old, new)
            # Arguments on lines of their own: definitions without a term.
            text = re.sub(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>", signature_lines, text)
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", gallery)
    app.connect("build-finished", accessible)
    app.connect("builder-inited", kept_outputs, priority=900)  # after myst-nb names the path
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-before-process-signature", without_bounds)
    app.connect("autodoc-process-docstring", plain, priority=400)
