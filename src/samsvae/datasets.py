"""Screens to try things on."""

from samsvae.data.simulate import SimulatedScreen, Truth, simulated_screen

__all__ = ["SimulatedScreen", "Truth", "simulated_screen"]
