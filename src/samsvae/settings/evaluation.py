"""How models are scored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How a model is scored on held-out cells.

    Parameters
    ----------
    n_particles
        Particles of the IWELBO.
    effect_particles
        Particles of the effects.
    seed
        Same seed, same numbers.
    """

    n_particles: int = 100
    effect_particles: int = 2500
    seed: int = 0
