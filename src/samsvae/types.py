"""The records that cross files, by shape. Read this first.

Axes are always in the order particle, cell (or perturbation), feature. A *particle* is one Monte
Carlo draw from the posterior. Densities are in nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # settings name a scale, and are told without torch, which is slow to import
    from torch import Tensor

Scale = Literal["log", "normalized", "mean"]
"""On which effects are given: log2(1 + 1e4 x / sum x), 1e4 x / sum x, or x as it is."""

ALL_CONDITIONS = "(all)"
"""In a column of conditions (or of sgRNAs): all of them together."""

SCALE_SIZE = 1e4
"""Counts that a cell's expression is scaled to, on scales "log" and "normalized"."""


class Dosage(NamedTuple):
    """What each cell received, as lists: never a dense cells x perturbations matrix.

    Only the perturbations that occur are named, each once, so the cost of a batch does not grow
    with the number of perturbations in the screen.
    """

    perturbations: Tensor
    """`perturbation`, int64: which of the screen's perturbations occur here."""
    position: Tensor
    """`cell slot`, int64: place in `perturbations` of each perturbation a cell received."""
    dose: Tensor
    """`cell slot`: its dose; an empty slot has dose 0 (and position 0)."""
    reagent: Tensor | None = None
    """`cell slot`, int64: which reagent gave it; None: that is of no account."""
    acting: Tensor | None = None
    """`cell slot`: whether it acts there, or with what probability; None: it does."""


Context: TypeAlias = "Tensor | Dosage"
"""What a cell received, as an encoder or a decoder may see it: its displacement in latent space,
`particle cell latent`, or its dosage."""


class Batch(NamedTuple):
    """The cells of one minibatch."""

    counts: Tensor
    """`cell gene`: counts (or real values, for a Gaussian likelihood)."""
    library_size: Tensor
    """`cell`, counts: total counts of the cell."""
    covariates: Tensor
    """`cell covariate`: one-hot batch covariates; width 0 where there are none."""
    dosage: Dosage
    """What the cells received."""
    cells_per_perturbation: Tensor
    """`perturbation`: n_t, the cells of the whole split that received `dosage.perturbations`."""


class Draw(NamedTuple):
    """Draws of one latent variable from its posterior."""

    value: Tensor
    """`particle cell latent`, or `particle perturbation latent`."""
    log_ratio: Tensor
    """`particle cell`, or `particle perturbation`, nats: log prior - log posterior of the draw."""


class Shifts(NamedTuple):
    """Draws of everything that is shared by all cells: how each perturbation acts."""

    value: Tensor
    """`particle perturbation latent`: mask * embedding, the displacement of the state (of width 0
    for a mechanism that displaces nothing)."""
    log_ratios: dict[str, Tensor]
    """By global variable, `particle perturbation`, nats: log prior - log posterior."""


class LogWeights(NamedTuple):
    """The terms of the objective: the seam between models and everything else."""

    likelihood: Tensor
    """`particle cell`, nats: log p(x | z)."""
    basal: Tensor
    """`particle cell`, nats: log p(z_basal) - log q(z_basal)."""
    shifts: dict[str, Tensor]
    """By global variable, `particle perturbation`, nats: log prior - log posterior."""
    response: Tensor | None = None
    """`particle cell`, nats: log p(w) - log q(w), whether perturbations act in a cell; None: they
    do."""


class Branches(NamedTuple):
    """Cells, with each set of perturbations that may be the one that acts in them."""

    acting: Tensor
    """w in {0, 1}, `branch slot`."""
    likelihood: Tensor
    """`branch particle cell`, nats."""
    basal: Tensor
    """`branch particle cell`, nats."""
    log_prior: Tensor
    """`branch cell`, nats: log p(w)."""


class CountDraw(NamedTuple):
    """Drawn data of cells, and the noise that a second draw with other means can share."""

    counts: Tensor
    """`... gene`."""
    gamma: Tensor | None = None
    """`... gene`: gamma noise of mean 1, where there is any."""
    rate: Tensor | None = None
    """`... gene`: the Poisson rate behind the counts, where there is one."""


class ShiftNoise(NamedTuple):
    """The standardised randomness behind one draw of `Shifts`.

    Draws are pure functions of their noise, so that a plain and a fast step, two arms of an
    effect, or two runs can be given the very same randomness.
    """

    mask: Tensor
    """`particle perturbation ...`: what the mask's `noise` gives."""
    embedding: Tensor
    """`particle perturbation ...`: what the embedding's `noise` gives."""
