"""How training went: the ELBO, its terms, and the masks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samsvae.plotting.style import COLOURS, MARKERS, bare, need

_TERMS = ("likelihood", "basal", "mask_prob", "mask", "embedding", "dose_response")


def training_history(history: pd.DataFrame) -> Figure:
    """Draw the history of a training: ELBOs, terms of the ELBO, mask sparsity, against the step.

    A broken line marks the alignment, where training goes on with masks: validation ELBOs before
    and after are of different models. A ring marks the model that was kept.

    Parameters
    ----------
    history
        As `model.history`: step, elbo, valid_elbo, and what else there is.

    Returns
    -------
    A panel for the ELBOs, one for each term that is not 0 throughout, and one for the share of mask
    entries that are not in use.
    """
    need(history, ("step", "elbo"), "the history")
    terms = [name for name in _TERMS if name in history and history[name].fillna(0).any()]
    sparse = "mask_sparsity" in history and bool(history["mask_sparsity"].notna().any())
    n = 1 + len(terms) + sparse
    n_columns = min(3, n)
    n_rows = -(-n // n_columns)
    figure, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(4.2 * n_columns, 2.9 * n_rows),
        layout="constrained",
        squeeze=False,
    )
    panels = list(grid.ravel())
    _elbos(panels[0], history)
    for axes, name, colour in zip(panels[1:], terms, COLOURS[2:], strict=False):
        axes.plot(history["step"], history[name], color=colour, marker="o", markersize=3)
        axes.set(title=name.replace("_", " "), ylabel="nats per cell")
    if sparse:
        axes = panels[n - 1]
        known = history.dropna(subset="mask_sparsity")
        axes.plot(known["step"], known["mask_sparsity"], color="black", marker="o", markersize=3)
        low, high = axes.get_ylim()
        axes.set(title="mask entries not in use", ylabel="share", ylim=(low, min(high, 1.005)))
    turn = _alignment(history)
    for axes in panels[:n]:
        axes.set_xlabel("step")
        bare(axes)
        if turn is not None:
            axes.axvline(turn, color="#666666", linestyle="--", linewidth=1, label="masks begin")
    panels[0].legend(fontsize=8, frameon=False)
    for axes in panels[n:]:
        axes.remove()
    return figure


def _elbos(axes: Axes, history: pd.DataFrame) -> None:
    shown = [("elbo", "training cells", COLOURS[0])]
    if "valid_elbo" in history and history["valid_elbo"].notna().any():
        shown.append(("valid_elbo", "validation cells", COLOURS[1]))
    for i, (name, label, colour) in enumerate(shown):
        axes.plot(
            history["step"],
            history[name],
            color=colour,
            label=label,
            marker=MARKERS[i],
            markersize=3,
        )
    if "is_best" in history and history["is_best"].any() and len(shown) > 1:
        best = history[history["is_best"]].iloc[-1]
        axes.plot(
            best["step"], best["valid_elbo"], "o", mfc="none", mec="black", ms=9, label="kept"
        )
    # The first steps lie far below: what is looked at is how it ends.
    later = history[history["step"] >= 0.15 * history["step"].max()]
    values = later[[name for name, _, _ in shown]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    room = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set(title="ELBO", ylabel="nats per cell")


def _alignment(history: pd.DataFrame) -> float | None:
    """Return the step at which masks were found; None: not at all, or before the first row."""
    if "is_aligned" not in history:
        return None
    aligned = history["is_aligned"].to_numpy(bool)
    if aligned.all() or not aligned.any():
        return None
    first = int(np.argmax(aligned))
    return float(history["step"].iloc[first - 1 : first + 1].mean())
