"""Shifts in latent space: masks and embeddings of all perturbations, and single mechanisms."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from samsvae.errors import InputError, unknown
from samsvae.ops.ordering import average_linkage_order
from samsvae.plotting import style

_SHIFT = "shift, latent units"
_LEAF = 10.0
"""Height of a leaf in SciPy's dendrograms."""
_MAX_COMPARED = 3000
"""Perturbations up to which all pairs are compared."""


def mask_heatmap(
    inclusion: pd.DataFrame,
    *,
    groups: pd.Series | None = None,
    effect_size: pd.Series | None = None,
) -> Figure:
    """Draw the shifts of all perturbations, similar ones next to each other.

    Latent dimensions that no perturbation shifts with a probability above 1/2 are left out (unless
    all are); perturbations never are.

    Parameters
    ----------
    inclusion
        As `model.inclusion` returns it: perturbation, dimension, probability, shift, n_train_cells.
    groups
        Pathway by perturbation, drawn as a band of colours.
    effect_size
        By perturbation, such as the root mean square of its effects, drawn as bars.
    """
    style.need(inclusion, ("perturbation", "dimension", "probability", "shift"), "inclusions")
    probability, shift = (
        inclusion.pivot(index="perturbation", columns="dimension", values=name)
        for name in ("probability", "shift")
    )
    used = (probability > 0.5).any()
    shift = shift[shift.columns[used] if used.any() else shift.columns].fillna(0)
    _check_shifts(shift)
    values = shift.to_numpy()
    shift = shift.iloc[average_linkage_order(values), average_linkage_order(values.T)]
    (n, n_dimensions), bars = shift.shape, {}
    if "n_train_cells" in inclusion:
        cells = inclusion.drop_duplicates("perturbation").set_index("perturbation")
        bars["training cells"] = cells["n_train_cells"].reindex(shift.index)
    if effect_size is not None:
        bars[style.with_unit("effect size", effect_size)] = effect_size.reindex(shift.index)
    widths = [0.25] * (groups is not None) + [max(3.0, min(8.0, 0.3 * n_dimensions))]
    widths += [1.1] * len(bars)
    size = (sum(widths) + 3, min(2.2 + 0.17 * n, 16))
    figure, panels = style.row_of_panels(len(widths), size, width_ratios=widths, sharey=True)
    first, place = panels[0], np.arange(n)
    if groups is not None:
        style.band(figure, panels.pop(0), groups, shift.index, place)
    heat = panels.pop(0)
    style.heat_map(heat, shift, _SHIFT, where="top")
    fontsize = 7 if n_dimensions <= 60 else 4
    heat.set_xticks(range(n_dimensions), shift.columns, rotation=90, fontsize=fontsize)
    heat.set_xlabel("latent dimension")
    style.name_rows(first, place, shift.index)
    if n > style.MAX_NAMED:
        first.set_ylabel(f"{n} perturbations")
    for axes, (label, lengths) in zip(panels, bars.items(), strict=True):
        axes.barh(place, lengths, 0.8 if n <= style.MAX_NAMED else 1.0, color="#666666")
        axes.set_xlabel(label)
        axes.tick_params("y", length=0)
        style.bare(axes)
    return figure


def grouped_shifts(mask: pd.DataFrame, embedding: pd.DataFrame, groups: pd.Series) -> Figure:
    """Draw mask probabilities and masked embeddings side by side, perturbations by pathway.

    The paper's Figure 2. `mask` is the posterior probability, `embedding` the mean, perturbations x
    latent dimensions; `groups` is the pathway of each perturbation to draw. Latent dimensions that
    none of these shifts are left out; the others are sorted by how many shift them.
    """
    rows = [name for name in groups.sort_values(kind="stable").index if name in mask.index]
    group = groups.loc[rows]
    n_shifted = (mask.loc[rows] > 0.5).sum().sort_values(ascending=False, kind="stable")
    columns = n_shifted.index[n_shifted > 0]
    columns = columns if len(columns) else mask.columns[:1]
    size = (11, min(2 + 0.14 * len(rows), 14))
    figure, panels = style.row_of_panels(2, size, sharey=True)
    drawn: tuple[tuple[pd.DataFrame, str, dict[str, Any]], ...] = (
        (mask, "mask: posterior probability", {"cmap": "Greys", "vmin": 0, "vmax": 1}),
        (mask * embedding, "shift: mask x embedding", {}),
    )
    ends = np.flatnonzero(group.to_numpy()[1:] != group.to_numpy()[:-1])
    for axes, (table, title, shades) in zip(panels, drawn, strict=True):
        style.heat_map(axes, table.loc[rows, columns], "", **shades)
        axes.set(title=title, xlabel=f"{len(columns)} latent dimensions in use", xticks=[])
        axes.hlines(ends + 0.5, -0.5, len(columns) - 0.5, color="black", linewidth=0.8)
    places = pd.Series(np.arange(len(rows)), group.to_numpy()).groupby(level=0).mean()
    panels[0].set_yticks(places, [f"{name} ({(group == name).sum()})" for name in places.index])
    panels[0].tick_params("y", length=0)
    return figure


def _check_shifts(shift: pd.DataFrame) -> None:
    if shift.empty:
        raise InputError(f"the table of shifts is {shift.shape[0]} x {shift.shape[1]}: it is empty")
    if len(shift) > _MAX_COMPARED:
        raise InputError(
            f"there are {len(shift):,} perturbations, and a figure compares at most "
            f"{_MAX_COMPARED:,} with each other: give it some of them, such as those with the "
            "largest shifts"
        )


def _tree(axes: Axes, links: np.ndarray | None) -> list[int]:
    """Draw a tree of rows, and return their order; None stands for a single row."""
    if links is None:
        axes.axis("off")
        return [0]
    shades: dict[str, Any] = {"color_threshold": 0, "above_threshold_color": "black"}
    drawn = dendrogram(links, orientation="left", no_labels=True, ax=axes, **shades)
    leaves: list[int] = drawn["leaves"]
    return leaves


def clustered_shifts(shift: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw a hierarchical clustering of perturbations by their shifts (average linkage, Euclidean).

    The paper's Figure 5. `shift` is mask * embedding, perturbations x latent dimensions; missing
    values are taken as 0, and dimensions with small shifts only are left out. `groups` is the
    pathway by perturbation, drawn as a band of colours.
    """
    _check_shifts(shift)
    complete = shift.fillna(0)
    length = np.abs(complete.to_numpy())
    shifted = complete.loc[:, length.max(0) > 0.05 * length.max()]
    n, n_dimensions = len(shift), shifted.shape[1]
    size = (9, min(3 + 0.16 * n, 14))
    figure, (left, side, heat) = style.row_of_panels(3, size, width_ratios=(2, 0.3, 6))
    order = _tree(left, linkage(complete.to_numpy(), "average") if n > 1 else None)
    left.axis("off")
    names, place = shift.index[order], _LEAF * (np.arange(n) + 0.5)
    if groups is None:
        side.axis("off")
    else:
        style.band(figure, side, groups, names, place)
        side.set_yticks([])
    values = shifted.to_numpy()[order][:, average_linkage_order(shifted.to_numpy().T)]
    style.heat_map(
        heat, values, _SHIFT, origin="lower", extent=(0, max(n_dimensions, 1), 0, _LEAF * n)
    )
    for axes in (left, side, heat):
        axes.set_ylim(0, _LEAF * n)
    heat.set(xlabel=f"{n_dimensions} latent dimensions", xticks=[])
    heat.yaxis.tick_right()
    style.name_rows(heat, place, names)
    if n > style.MAX_NAMED:
        heat.set_title(f"{n} perturbations")
    return figure


def shift_similarity(shift: pd.DataFrame, groups: pd.Series | None = None) -> Figure:
    """Draw the cosine of the shifts of all pairs of perturbations, with a tree.

    1: the same direction, -1: the opposite, 0: orthogonal. The tree is by average linkage of
    1 - cosine. `shift` is mask * embedding, perturbations x latent dimensions (or genes).
    Perturbations with a zero or missing shift have no direction: they come last, in grey. `groups`
    is the pathway by perturbation, drawn as a band of colours.
    """
    _check_shifts(shift)
    values, n = shift.to_numpy(float), len(shift)
    length = np.linalg.norm(values, axis=1)
    has_direction = np.isfinite(length) & (length > 0)
    n_lost = int((~has_direction).sum())
    unit = values[has_direction] / length[has_direction, None]
    similarity = (unit @ unit.T).clip(-1, 1)
    np.fill_diagonal(similarity, 1)
    distance = 1 - similarity
    links = None if len(distance) < 2 else linkage(squareform(distance, checks=False), "average")
    cosine = np.full((n, n), np.nan)
    cosine[np.ix_(has_direction, has_direction)] = similarity
    height = min(2.6 + 0.16 * n, 15)
    widths = [1.3, *([0.22] if groups is not None else []), height - 2]
    size = (sum(widths) + 2, height)
    figure, (branches, *bands, heat) = style.row_of_panels(len(widths), size, width_ratios=widths)
    leaves = np.flatnonzero(has_direction)[_tree(branches, links)[: len(distance)]]
    if links is not None:
        branches.set_xlabel("1 - cosine")
        branches.spines["left"].set_visible(False)
        style.bare(branches)
    order = np.concatenate([leaves, np.flatnonzero(~has_direction)])
    names, place = shift.index[order], _LEAF * (np.arange(n) + 0.5)
    if groups is not None:
        style.band(figure, bands[0], groups, names, place)
    style.heat_map(
        heat,
        np.ma.masked_invalid(cosine[np.ix_(order, order)]),
        "cosine of the shifts",
        vmin=-1,
        vmax=1,
        where="top",
        cmap=plt.get_cmap("RdBu_r").with_extremes(bad=style.OTHER),
        origin="lower",
        extent=(0, _LEAF * n, 0, _LEAF * n),
    )
    for axes in (branches, *bands, heat):
        axes.set_ylim(_LEAF * n, 0)
        axes.set_yticks([])
    heat.yaxis.tick_right()
    heat.set_xticks([])
    style.name_rows(heat, place, names)
    lost = f"; {n_lost} without a direction" if n_lost else ""
    heat.set_xlabel(f"{n} perturbation{'s' if n > 1 else ''}, in the same order{lost}")
    return figure


_MAX_BARS = 25
"""Perturbations that are drawn on a card."""


def mechanism_card(
    mechanisms: pd.DataFrame,
    dimension: str,
    *,
    gene_sets: pd.DataFrame | None = None,
) -> Figure:
    """Draw a mechanism: its perturbations with their shifts, its genes, and enriched gene sets.

    `mechanisms` is as `model.mechanisms` returns it, and `dimension` a name of its index; its
    candidates (probabilities from 0.5 to 0.9) are grey, below its members. Of
    `gene_sets`, as `samsvae.enrichment` returns it of this mechanism (gene_set, direction, q_rank),
    the five most certain are listed.
    """
    style.need(mechanisms, ("perturbations", "shifts", "probabilities", "up", "down"), "mechanisms")
    if dimension not in mechanisms.index:
        raise unknown("mechanism", dimension, list(map(str, mechanisms.index)))
    row = mechanisms.loc[dimension]
    names, shifts, probabilities = (
        [*row[column], *row.get(of_candidates, [])]
        for column, of_candidates in (
            ("perturbations", "candidates"),
            ("shifts", "candidate_shifts"),
            ("probabilities", "candidate_probabilities"),
        )
    )
    n_more = max(0, len(names) - _MAX_BARS)
    n = len(names) - n_more
    is_member = np.arange(n) < len(row["perturbations"])
    size = (8.5, max(3.2, 1.3 + 0.22 * n))
    figure, (bars, words) = style.row_of_panels(2, size, width_ratios=(3, 4))
    shift, place = np.asarray(shifts[:n], float), np.arange(n)
    shade = np.where(shift > 0, style.GAIN, style.LOSS)
    bars.barh(place, shift, 0.75, color=np.where(is_member, shade, style.OTHER))
    at_right: dict[str, Any] = {"transform": bars.get_yaxis_transform(), "va": "center"}
    for y, probability in zip(place, probabilities[:n], strict=True):
        bars.text(1.01, float(y), f"{probability:.2f}", **at_right)
    bars.text(1.01, -0.9, "P", fontsize=8, **at_right)
    bars.set_yticks(place, [style.short(name) for name in names[:n]], fontsize=8)
    bars.set_ylim(n - 0.4, -1.3)
    bars.axvline(0, color="black", linewidth=0.6)
    bars.set_xlabel(_SHIFT + (f" ({n_more} more perturbations)" if n_more else ""))
    style.bare(bars)
    sign = f" with {style.short(row['direction'])} shifts" if "direction" in row else ""
    paragraphs = [
        (f"genes that rise{sign}", style.GAIN, _wrapped(row["up"])),
        (f"genes that fall{sign}", style.LOSS, _wrapped(row["down"])),
    ]
    if gene_sets is not None:
        style.need(gene_sets, ("gene_set", "direction", "q_rank"), "gene sets")
        top = gene_sets.sort_values("q_rank", kind="stable").head(5)
        sets = [
            f"{style.short(name, 40)} ({'+' if direction > 0 else '-'}, q = {q:.2g})"
            for name, direction, q in zip(
                top["gene_set"], top["direction"], top["q_rank"], strict=True
            )
        ]
        paragraphs.append(("gene sets", "black", "\n".join(sets)))
    _write(words, paragraphs)
    share = f": {row['share']:.0%} of the squared shifts" if "share" in row else ""
    figure.suptitle(f"mechanism {dimension}{share}", fontsize=11)
    return figure


def _wrapped(names: list[str]) -> str:
    text = ", ".join(map(style.short, names))
    return textwrap.fill(text, 46, break_long_words=False, break_on_hyphens=False) or "none"


def _write(axes: Axes, paragraphs: list[tuple[str, str, str]]) -> None:
    """Write paragraphs of a title, its colour and a text below each other."""
    axes.axis("off")
    n_lines = sum(2.6 + text.count("\n") for _, _, text in paragraphs)
    step, y = min(0.085, 1 / n_lines), 1.0
    for title, colour, text in paragraphs:
        axes.text(0, y, title, color=colour, va="top", weight="bold", fontsize=9)
        axes.text(0, y - step, text or "none", va="top", fontsize=8.5, linespacing=1.25)
        y -= step * (2.6 + text.count("\n"))
