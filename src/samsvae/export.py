"""Predictions and data as files that other packages score: a check of our numbers from outside."""

from samsvae.evaluation.cell_eval import cell_eval

__all__ = ["cell_eval"]
