"""Features of perturbations, see `samsvae.data.features`."""

from samsvae.data.features import Features, FeatureSource, expression_profile, read

__all__ = ["FeatureSource", "Features", "expression_profile", "read"]
