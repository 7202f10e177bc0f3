"""Predictions, tables and cells for other packages: scanpy, pertpy, CELLxGENE, cell-eval."""

from samsvae.export.annotation import annotate, cellxgene, perturbation_space
from samsvae.export.cell_eval import cell_eval
from samsvae.export.tables import as_anndata

__all__ = ["annotate", "as_anndata", "cell_eval", "cellxgene", "perturbation_space"]
