"""Densities and gradients that the model is made of: plain definitions and their fast forms."""
