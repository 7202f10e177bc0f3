"""Predictors on held-out cells: evaluation, baselines, metrics."""
