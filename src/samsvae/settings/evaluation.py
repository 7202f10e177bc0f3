"""How predictors are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samsvae.errors import check_count, unknown


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How predictors are scored on held-out cells.

    Parameters
    ----------
    n_particles
        Particles of the IWELBO.
    effect_particles
        Particles of the models' effects. Each is asked at library size 1e4, for correlations, and
        at the observed ones, for errors and coverage.
    n_draws
        Draws of mask and embedding behind the intervals of effects; 0: no coverage.
    basal
        Basal states of the models' effects: from their "prior" or of "control" cells.
    n_halvings
        How often the cells are halved for the technical duplicate; 0: none, and no dynamic range.
    n_cells
        Most cells of a condition whose distribution is compared (E-distance, MMD); 0: neither.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    """

    n_particles: int = 100
    effect_particles: int = 2500
    n_draws: int = 100
    basal: Literal["prior", "control"] = "prior"
    n_halvings: int = 20
    n_cells: int = 200
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        check_count("n_particles", self.n_particles)
        check_count("effect_particles", self.effect_particles, low=2)
        for name in ("n_draws", "n_halvings", "n_cells", "seed"):
            check_count(name, getattr(self, name), low=0)
        if self.basal not in ("prior", "control"):
            raise unknown("basal", self.basal, ["prior", "control"])
