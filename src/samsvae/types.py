"""The records that cross files, by shape. Read this first.

Axes are always in the order particle, cell (or perturbation), feature. A *particle* is one Monte
Carlo draw from the posterior. Densities are in nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # settings name a scale, and must not wait for torch to be imported
    from torch import Tensor

Scale = Literal["lfc", "log", "normalized", "mean"]
"""The scale of effects.

"lfc": log2 fold change of expected expression; differences of means of "log": log2(1 + 1e4 x / sum
x); "normalized": 1e4 x / sum x (counts per 10,000); "mean": x itself.
"""

Reference = Literal["typical gene", "library"]
"""What log2 fold changes are relative to: genes that do not change, or the sum over all genes."""

SgrnaRule: TypeAlias = Literal["dominant", "mixture", "calls"] | int
"""How sgRNAs are assigned to cells: by a rule, or those with at least so many UMIs."""

ALL_CONDITIONS = "(all)"
"""In a column of conditions (or of sgRNAs): all of them together."""

SCALE_SIZE = 1e4


class Dosage(NamedTuple):
    """What each cell received, as lists: never a dense cells x columns matrix.

    A column of dosage is a perturbation of the screen, or whatever else the model has parameters
    for (a combination, for SVAE+). Only columns that occur are listed, each once, so the cost of a
    batch does not grow with the number of perturbations in the screen.
    """

    columns: Tensor
    """`column`, int64: which columns of dosage occur in these cells."""
    position: Tensor
    """`cell slot`, int64: place in `columns` of everything that a cell received."""
    dose: Tensor
    """`cell slot`: its dose; an empty slot has dose 0 (and position 0)."""
    reagent: Tensor | None = None
    """`cell slot`, int64: the reagent (sgRNA) that delivered it; None: not used."""
    presence: Tensor | None = None
    """`cell slot`: the prior probability that the cell received it at all, where sgRNAs are
    uncertain; None: it did."""
    acting: Tensor | None = None
    """`cell slot`: whether it acts in the cell, or with what probability; None: it does."""


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
    """`... cell covariate`: one-hot batch covariates; width 0 where there are none."""
    dosage: Dosage
    """What the cells received."""
    cells_per_column: Tensor
    """`column`: n_t, the cells of the whole split that received each of `dosage.columns`."""

    @classmethod
    def without_data(cls, dosage: Dosage, covariates: Tensor) -> Batch:
        """Return cells of which only the dosage and the covariates are known: to predict them."""
        nothing = covariates.new_empty(0)
        return cls(nothing, nothing, covariates, dosage, nothing)


class Draw(NamedTuple):
    """Draws of one latent variable from its posterior."""

    value: Tensor
    """`particle cell latent`, or `particle column latent`."""
    log_ratio: Tensor
    """`particle cell`, or `particle column`, nats: log prior - log posterior of the draw."""


class Shifts(NamedTuple):
    """Draws of everything that is shared by all cells: how each column of dosage acts."""

    value: Tensor
    """`particle column latent`: mask * embedding, the displacement of the state (of width 0 for a
    mechanism that displaces nothing)."""
    log_ratios: dict[str, Tensor]
    """By global variable, `particle column`, nats: log prior - log posterior."""


class LogWeights(NamedTuple):
    """The terms of the objective: the seam between models and everything else."""

    likelihood: Tensor
    """`particle cell`, nats: log p(x | z)."""
    basal: Tensor
    """`particle cell`, nats: log p(z_basal) - log q(z_basal)."""
    shifts: dict[str, Tensor]
    """By global variable, `particle column`, nats: log prior - log posterior."""
    response: Tensor | None = None
    """`particle cell`, nats: log p(w) - log q(w) of whether perturbations act in a cell; None: they
    act in every cell."""


class Branches(NamedTuple):
    """Likelihoods of cells, given each subset of their perturbations that may act in them."""

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
    """`particle column ...`: what the mask's `noise` gives."""
    embedding: Tensor
    """`particle column ...`: what the embedding's `noise` gives."""
