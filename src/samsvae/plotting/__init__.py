"""Figures of tables: each function takes tables, never models, and returns a Figure."""

from samsvae.plotting.clusters import clustered_shifts
from samsvae.plotting.fractions import fraction_curves
from samsvae.plotting.nonadditive import nonadditive_genes
from samsvae.plotting.points import shift_map
from samsvae.plotting.projection import gene_projection
from samsvae.plotting.shifts import grouped_shifts

__all__ = [
    "clustered_shifts",
    "fraction_curves",
    "gene_projection",
    "grouped_shifts",
    "nonadditive_genes",
    "shift_map",
]
