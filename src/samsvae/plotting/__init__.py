"""Figures of tables: each function takes tables, never models, and returns Axes or a Figure."""

from samsvae.plotting.effects import (
    calibration_curve,
    combination_bars,
    dose_curve,
    effect_scatter,
    nonadditive_genes,
    screen_power,
    top_effects,
    volcano,
)
from samsvae.plotting.maps import cell_map, gene_projection, shift_map
from samsvae.plotting.mechanisms import mechanism_card, sgrnas_of_target
from samsvae.plotting.scores import (
    fraction_curves,
    metric_strip,
    stability_matrix,
    training_history,
)
from samsvae.plotting.shifts import clustered_shifts, grouped_shifts, mask_heatmap, shift_similarity

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
