"""How a trained model is asked: effects and simulated cells.

How predictors are scored.
"""

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
        How often the cells are split into random halves for the technical replicate; 0: none, and
        no dynamic range.
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


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings:
    """How discoveries are made.

    Parameters
    ----------
    by
        "condition", or "sgrna": a row for each sgRNA of a condition, from the cells of that sgRNA
        alone (read the screen with `sgrna_key`), with the prior of the condition.
        `samsvae.sgrnas` tests whether they agree.
    cells
        "all": the effect on the cells that received a condition; "responders": on those in which it
        acts, each cell weighted by the probability that it responds (`model.responders`; for
        models with `response="learned"`). `n_cells` is then the expected number of responders.
    scale
        "log", "normalized" (counts per 10,000) or "mean", as in `model.effects`; at the cells' own
        library sizes.
    n_particles
        Of the model's effects. Their Monte Carlo error is part of the model's uncertainty, and
        small beside the standard errors of cells.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.
    """

    by: Literal["condition", "sgrna"] = "condition"
    cells: Literal["all", "responders"] = "all"
    scale: Scale = "log"
    n_particles: int = 1000
    seed: int = 0
    progress: bool = True
