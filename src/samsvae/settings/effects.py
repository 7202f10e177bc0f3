"""How a trained model is asked: effects and simulated cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samsvae.errors import check_count, check_range, unknown
from samsvae.types import Scale


@dataclass(frozen=True, kw_only=True)
class EffectSettings:
    """How effects are estimated.

    Parameters
    ----------
    scale
        "log": drawn counts as log2(1 + 1e4 x / sum x), what the paper scores; "normalized":
        1e4 times the expected share of a gene, without drawing counts; "mean": the mean of the
        data, for likelihoods without a library size (Poisson, Gaussian). By default "log", or
        "mean" for those.
    library_size
        Expected counts of both arms over the screen's genes; "observed" draws library sizes from
        the training cells of the condition (of all conditions, for one without cells) and of
        control. The log scale depends on it strongly, the others do not.
    n_particles
        K, draws of basal state, mask and embedding.
    n_count_draws
        Draws of counts per particle, for scale "log".
    n_draws
        Draws of mask and embedding behind the posterior interval, each averaged over the
        same basal draws; 0: no interval.
    basal
        Where basal states come from: their "prior" N(0, I) (the paper), or the posterior of
        the "control" training cells (at most 2,000 of them), in their own batches.
    batch
        Batch of both arms; by default drawn as in the training cells, for "observed" as in those of
        the condition.
    seed
        Same seed, same numbers.
    progress
        Show a progress bar.
    """

    scale: Scale | None = None
    library_size: float | Literal["observed"] = 1e4
    n_particles: int = 2500
    n_count_draws: int = 1
    n_draws: int = 100
    basal: Literal["prior", "control"] = "prior"
    batch: str | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        check_count("n_particles", self.n_particles, low=2)
        check_count("n_count_draws", self.n_count_draws)
        check_count("n_draws", self.n_draws, low=0)
        check_count("seed", self.seed, low=0)
        _check_library_size(self.library_size)
        if self.basal not in ("prior", "control"):
            raise unknown("basal", self.basal, ["prior", "control"])


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """How cells are drawn.

    Parameters
    ----------
    n_cells
        New cells per condition: each draws its own basal state, mask and embedding.
    library_size
        Of new cells: expected counts over the screen's genes, or drawn from those "observed"
        in the condition's training cells (of all conditions, for one without cells). Of no
        account for likelihoods without a library size.
    seed
        Same seed, same counts.
    """

    n_cells: int = 1000
    library_size: float | Literal["observed"] = "observed"
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_cells", self.n_cells)
        check_count("seed", self.seed, low=0)
        _check_library_size(self.library_size)


def _check_library_size(library_size: float | str) -> None:
    if isinstance(library_size, str):
        if library_size != "observed":
            raise unknown("library_size", library_size, ["observed"])
    else:
        check_range("library_size", library_size, low=0, high=2.0**31, open_=True)
