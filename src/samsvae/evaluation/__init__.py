"""Predictors on held-out cells: baselines, scores, checks, what models agree on."""
