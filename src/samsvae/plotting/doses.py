"""Effects against the dose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from samsvae.errors import InputError, unknown
from samsvae.plotting.style import COLOURS, MARKERS, UNITS, axes_of, bare, short


def dose_curve(
    effects: AnnData,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 6,
    unit: str = "units of the screen",
    ax: Axes | None = None,
) -> Axes:
    """Draw the effect of a perturbation on some genes, dose by dose, with its 90 % interval.

    Parameters
    ----------
    effects
        As `model.dose_response` returns them.
    genes
        Which; by default those with the largest effect at any dose.
    n_genes
        How many of these.
    unit
        Of the dose.
    ax
        Where to draw.

    Raises
    ------
    InputError
        If the effects have no doses, or a gene is unknown.
    """
    if "dose" not in effects.obs:
        raise InputError("the effects have no doses: expected those of model.dose_response")
    size = np.abs(np.asarray(effects.X, float)).max(0)
    if genes is None:
        genes = list(effects.var_names[np.argsort(-size, kind="stable")[:n_genes]])
    for gene in genes:
        if gene not in effects.var_names:
            raise unknown("gene", gene, list(effects.var_names))
    ax = axes_of(ax, (5.2, 3.8))
    dose = effects.obs["dose"].to_numpy(float)
    for i, gene in enumerate(genes):
        at = effects.var_names.get_loc(gene)
        colour = COLOURS[i % len(COLOURS)]
        lower, upper = (np.asarray(effects.layers[end])[:, at] for end in ("lower", "upper"))
        ax.fill_between(dose, lower, upper, color=colour, alpha=0.18, linewidth=0)
        ate = np.asarray(effects.X)[:, at]
        ax.plot(dose, ate, color=colour, marker=MARKERS[i % len(MARKERS)], ms=4, label=short(gene))
    ax.axhline(0, color="black", linewidth=0.5)
    scale = UNITS.get(str(effects.uns.get("scale", "log")), "")
    ax.set(xlabel=f"dose, {unit}", ylabel=f"effect, {scale}")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    bare(ax)
    return ax
