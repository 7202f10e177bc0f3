"""Predictions, cells and data as files that other packages read: to score, and to browse."""

from samsvae.estimators.cellxgene import cellxgene
from samsvae.evaluation.cell_eval import cell_eval

__all__ = ["cell_eval", "cellxgene"]
