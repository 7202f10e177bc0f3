"""Figures of tables: functions take tables, never models, and return matplotlib Axes or Figures.

Plots with one panel draw on `ax`, if it is given. `condition` selects the rows of a table with
several conditions. The unit of effects is that of the column `scale`. A table without the columns
or rows that a plot needs is an `InputError`.
"""

from samsvae.plotting.effects import (
    combination_bars,
    dose_curve,
    effect_scatter,
    nonadditive_genes,
    top_effects,
    volcano,
)
from samsvae.plotting.maps import cell_map, gene_projection, shift_map
from samsvae.plotting.scores import (
    calibration_curve,
    fraction_curves,
    metric_strip,
    screen_power,
    sgrnas_of_target,
    stability_matrix,
    training_history,
)
from samsvae.plotting.shifts import (
    clustered_shifts,
    grouped_shifts,
    mask_heatmap,
    mechanism_card,
    shift_similarity,
)

__all__ = [
    "calibration_curve",
    "cell_map",
    "clustered_shifts",
    "combination_bars",
    "dose_curve",
    "effect_scatter",
    "fraction_curves",
    "gene_projection",
    "grouped_shifts",
    "mask_heatmap",
    "mechanism_card",
    "metric_strip",
    "nonadditive_genes",
    "screen_power",
    "sgrnas_of_target",
    "shift_map",
    "shift_similarity",
    "stability_matrix",
    "top_effects",
    "training_history",
    "volcano",
]
