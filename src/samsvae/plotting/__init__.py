"""Figures of tables: each function takes tables, never models, and returns Axes or a Figure."""

from samsvae.plotting.agreement import effect_scatter
from samsvae.plotting.calibrations import calibration_curve
from samsvae.plotting.cards import mechanism_card
from samsvae.plotting.cells import cell_map
from samsvae.plotting.clusters import clustered_shifts
from samsvae.plotting.combinations import combination_bars
from samsvae.plotting.doses import dose_curve
from samsvae.plotting.fractions import fraction_curves
from samsvae.plotting.masks import mask_heatmap
from samsvae.plotting.nonadditive import nonadditive_genes
from samsvae.plotting.points import shift_map
from samsvae.plotting.powers import screen_power
from samsvae.plotting.projection import gene_projection
from samsvae.plotting.seeds import stability_matrix
from samsvae.plotting.sgrnas import sgrnas_of_target
from samsvae.plotting.shifts import grouped_shifts
from samsvae.plotting.similarity import shift_similarity
from samsvae.plotting.strips import metric_strip
from samsvae.plotting.tops import top_effects
from samsvae.plotting.training import training_history
from samsvae.plotting.volcanoes import volcano

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
