"""Predictions, tables and cells as other packages read them: to score, and to browse."""

from samsvae.estimators.cellxgene import cellxgene
from samsvae.evaluation.cell_eval import cell_eval
from samsvae.evaluation.wide import as_anndata

__all__ = ["as_anndata", "cell_eval", "cellxgene"]
