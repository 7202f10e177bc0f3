"""How a model is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from samsvae.errors import InputError, check_count, check_range, listed, unknown

OBJECTIVES = ("elbo", "iwelbo")
PRECISIONS = ("float32", "bfloat16")
ALIGNMENTS = ("rotate", "none")
SCHEDULES = ("cosine", "constant")
_WARM_UP = 50
"""Steps over which a learning rate with a schedule rises."""
STEPS = ("auto", "plain", "compiled", "graph")
MAY_DIFFER = (
    "device",
    "step",
    "progress",
    "max_steps",
    "max_epochs",
    "patience",
    "checkpoint",
    "checkpoint_every",
    "resume",
)
"""Settings with which a run may be resumed that was started with others."""
VARIABLES = ("basal", "mask", "mask_prob", "embedding")
"""Latent variables whose terms can be weighted."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What a run's training is made of, wherever it is saved.

    The defaults reach a given validation ELBO soonest on real screens: with KL terms in closed form
    one particle per cell is enough, and bears a larger learning rate than the paper's
    (docs/performance.md has the measurements). `configs/papalexi.toml` keeps the paper's choices.

    Parameters
    ----------
    max_steps
        Steps of the optimiser; by default 10,000.
    max_epochs
        Passes over the training cells, instead of `max_steps`.
    batch_size
        Cells per step.
    n_particles
        Draws from the posterior per cell and step: more make the gradient less noisy, and a step
        dearer.
    learning_rate
        Of Adam.
    schedule
        Of the learning rate in each phase of training: "cosine", from nothing to its value over 50
        steps and then along a cosine to 0 at the phase's end; "constant".
    scale_learning_rate
        Lower it for the weights of wide layers: those of n inputs take at most 1 / (sqrt(3) n), so
        that no step moves a unit by more than it varies at the start. At 3e-3 these are layers of
        more than 192 inputs: what suits hundreds of genes would diverge with thousands. False: the
        same for all parameters.
    weight_decay
        Of Adam, on every parameter.
    clip_norm
        Largest norm of the gradient; by default it is not clipped.
    objective
        "elbo", or "iwelbo": importance weighted over the particles of each cell. With masks and
        embeddings shared by cells, and minibatches, the latter is a surrogate, not a bound.
    closed_form_kl
        Take KL terms in closed form, where there is one (Gaussian, Bernoulli, Beta), instead of by
        draws: less noisy gradients. By default for "elbo", and not for "iwelbo", whose weights
        need the draws.
    basal_weight
        Factor of the basal state's KL term in the objective: below 1 it may leave its prior more
        cheaply. The validation ELBO is never weighted.
    mask_weight
        The same of the mask.
    mask_prob_weight
        The same of the mask's probability, for Beta-Bernoulli masks.
    embedding_weight
        The same of the embedding.
    warmup_steps
        Steps over which all these factors rise from 0 to their value, in proportion to the step.
    alignment
        "rotate": half of the steps are taken with all masks open; then latent space is rotated to
        the axes in which perturbations shift fewest dimensions, and the masks start from the
        evidence (docs/identifiability.md). "none": masks are inferred from the first step, in
        whatever axes training finds (the paper). Of account for models that infer masks.
    validate_every
        Steps between two evaluations of the validation cells' ELBO; the model of the best is kept.
    patience
        Evaluations without a new best after which training stops; by default it goes on. Those
        with open masks do not count.
    checkpoint_every
        Steps between two saves of the checkpoint.
    seed
        Same seed, same machine, same numbers.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    precision
        "float32", or "bfloat16": matrix products in half precision, everything else in single.
        Faster only where the machine multiplies bfloat16 faster (docs/performance.md).
    step
        How a step is run, the numbers being the same but for rounding: "plain"; "compiled" by
        torch, which takes half a minute at first and pays on few machines; "graph", recorded once
        and replayed without the host, on a CUDA device; "auto": graph there, plain on a CPU.
    progress
        Show a progress bar.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    batch_size: int = 512
    n_particles: int = 1
    learning_rate: float = 3e-3
    schedule: str = "constant"
    scale_learning_rate: bool = True
    weight_decay: float = 1e-6
    clip_norm: float | None = None
    objective: str = "elbo"
    closed_form_kl: bool | None = None
    basal_weight: float = 1.0
    mask_weight: float = 1.0
    mask_prob_weight: float = 1.0
    embedding_weight: float = 1.0
    warmup_steps: int = 0
    alignment: str = "rotate"
    validate_every: int = 100
    patience: int | None = None
    checkpoint_every: int = 500
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    step: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_particles", "validate_every", "checkpoint_every"):
            check_count(name, getattr(self, name))
        for name in ("max_steps", "max_epochs", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("seed", self.seed, low=0)
        check_range("learning_rate", self.learning_rate, low=0, high=1, open_=True)
        check_range("weight_decay", self.weight_decay, low=0, high=1)
        if self.clip_norm is not None:
            check_range("clip_norm", self.clip_norm, low=0, high=math.inf, open_=True)
        choices = {
            "objective": OBJECTIVES,
            "alignment": ALIGNMENTS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "step": STEPS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.closed_form_kl and self.objective == "iwelbo":
            raise InputError(
                "closed_form_kl is for the ELBO: importance weights need the draws themselves"
            )
        for name in self.weights:
            check_range(f"{name}_weight", self.weights[name], low=0, high=math.inf)
        check_count("warmup_steps", self.warmup_steps, low=0)
        if self.max_steps is not None and self.max_epochs is not None:
            raise InputError("max_steps and max_epochs are both given: expected one of them")
        self._check_device()

    def _check_device(self) -> None:
        from samsvae.ops.device import resolve_device  # torch: not for printing what settings are

        self.step_on(resolve_device(self.device).type)

    def step_on(self, device: str, *, recorded: bool = True) -> str:
        """Return how steps are run on a type of device: "plain", "compiled" or "graph".

        A step can be recorded where its counts lie on the device, and no other process has a part
        in it: `recorded`.
        """
        if self.step == "graph" and not recorded:
            raise InputError(
                "step 'graph' needs counts in memory, and one process that trains: take 'auto'"
            )
        if self.step == "graph" and device != "cuda":
            raise InputError(
                f"step 'graph' needs a CUDA device, not {device!r}: take 'auto' or 'plain'"
            )
        if self.step == "auto":
            return "graph" if device == "cuda" and recorded else "plain"
        return self.step

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that a run's numbers depend on, and that a resumed run must share."""
        return {name: value for name, value in asdict(self).items() if name not in MAY_DIFFER}

    @property
    def takes_closed_form(self) -> bool:
        """Whether KL terms are taken in closed form."""
        return self.objective == "elbo" if self.closed_form_kl is None else self.closed_form_kl

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each latent variable's term in the objective."""
        return {name: getattr(self, f"{name}_weight") for name in VARIABLES}

    def check_variables(self, variables: Collection[str]) -> None:
        """Raise if a latent variable is weighted that a model does not have."""
        for name, weight in self.weights.items():
            if weight != 1 and name not in variables:
                raise InputError(
                    f"{name}_weight is {weight:g}, but this model has no such latent variable: it "
                    f"has {listed(variables)}"
                )

    def factors(self, step: int) -> dict[str, float]:
        """Return the factor of every latent variable at a step (from 0); none if all stay 1."""
        if self.warmup_steps == 0 and all(weight == 1 for weight in self.weights.values()):
            return {}
        warmth = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return {name: warmth * weight for name, weight in self.weights.items()}

    def share_of_rate(self, step: int, n_steps: int) -> float:
        """Return by what the learning rate is multiplied at a step (from 0) of a phase."""
        if self.schedule == "constant":
            return 1.0
        return min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / n_steps)) / 2

    def n_steps(self, n_cells: int) -> int:
        """Return how many steps training takes on so many cells."""
        if self.max_epochs is None:
            return self.max_steps or 10_000
        return math.ceil(self.max_epochs * n_cells / min(self.batch_size, n_cells))


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainPlan):
    """How a model is trained, and the file it is saved to on the way.

    Beside the parameters below it takes all of `samsvae.settings.train.TrainPlan`.

    Parameters
    ----------
    checkpoint
        File to which training is saved, so that it can be resumed; by default none.
    resume
        Go on from the checkpoint, where there is one: to the numbers of an uninterrupted run, or
        on another kind of device to those of its own random numbers.
    """

    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
