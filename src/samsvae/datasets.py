"""Screens to try things on, and those of the paper."""

from samsvae.data.simulate import SimulatedScreen, Truth, simulated_screen
from samsvae.reproduce.download import locate, norman, replogle

__all__ = ["SimulatedScreen", "Truth", "locate", "norman", "replogle", "simulated_screen"]
