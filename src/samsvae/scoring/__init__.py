"""How good predictors are: models and baselines against held-out cells."""
