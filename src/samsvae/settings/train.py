"""How a model is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from samsvae.errors import InputError, listed
from samsvae.settings.arguments import Count, Natural, NonNegative, Positive, Probability, Share
from samsvae.settings.questions import DeviceSettings, ProgressSettings, SeedSettings

_WARM_UP = 50
"""Steps over which a learning rate with a schedule rises."""
_LEAST_EVALUATIONS = 5
"""Without a rise, before a phase ends: small screens have epochs of few steps."""
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
"""Settings that may change when a run is resumed."""
MAX_EVALUATIONS = 50_000
"""Rows of a history, each of which is saved with the model."""
VARIABLES = ("basal", "mask", "mask_prob", "embedding")
"""Latent variables whose KL terms can be weighted."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan(ProgressSettings, DeviceSettings, SeedSettings):
    """How a model is trained, wherever it is saved.

    The defaults reach a given validation ELBO soonest on real screens: with KL terms in closed form
    one particle per cell is enough, and allows a larger learning rate than the paper's
    (docs/performance.md has the measurements). `configs/papalexi.toml` has the paper's choices.

    Parameters
    ----------
    max_steps
        Steps of the optimiser, at most (see `patience`); by default 10,000.
    max_epochs
        Passes over the training cells, instead of `max_steps`.
    batch_size
        Cells per step.
    n_particles
        Draws from the posterior per cell and step: more make the gradient less noisy, and a step
        slower.
    learning_rate
        Adam's learning rate.
    schedule
        How the learning rate changes in each phase of training: "cosine", rising from 0 over 50
        steps and then following a cosine to 0 at the phase's end; "constant".
    scale_learning_rate
        Lower it for the weights of wide layers: those of n inputs take at most 1 / (sqrt(3) n), so
        that no step moves a unit by more than it varies at the start (with 3e-3: above 192 inputs).
        What suits hundreds of genes would otherwise diverge with thousands.
    weight_decay
        Adam's weight decay, on every parameter.
    clip_norm
        Largest norm of the gradient; by default gradients are not clipped.
    objective
        "elbo", or "iwelbo": importance weighted over the particles of each cell, a surrogate
        rather than a bound on minibatches, as cells share masks and embeddings.
    closed_form_kl
        Use closed forms of KL terms, where they exist (Gaussian, Bernoulli, Beta): gradients are
        less noisy. The default for "elbo"; not possible for "iwelbo", whose weights need draws.
    basal_weight
        Factor of the basal state's KL term in the objective: below 1, it may move further from its
        prior. The predictive ELBO of validation cells is never weighted.
    mask_weight
        The same factor for the mask.
    mask_prob_weight
        The same factor for the mask's probability, with Beta-Bernoulli masks.
    embedding_weight
        The same factor for the embedding.
    warmup_steps
        Steps over which all these factors rise from 0 to their value, in proportion to the step.
    alignment
        "rotate": a first phase, of at most half of the steps, is taken with all masks fixed at
        one; then latent space is rotated to the axes in which perturbations shift fewest
        dimensions, and masks start from their Bayes factors (docs/identifiability.md). "none":
        masks are inferred from the first step, in whatever axes training finds (the paper). Used by
        models that infer masks.
    validate_every
        Steps between two evaluations of the validation cells; the model with the best predictive
        ELBO is kept (masks and embeddings drawn from their posterior, their KL not counted).
    patience
        Epochs (passes over the training cells) in which the predictive ELBO of validation cells has
        not risen by more than its Monte Carlo standard error, after which a phase ends; at least
        five evaluations. 0 (or None): each phase takes all of its steps, as it does without
        validation cells.
    checkpoint_every
        Steps between two saves of the checkpoint.
    precision
        "float32"; "tf32": on GPUs that have it, factors of matrix products are rounded to 10 bits
        (on other devices as float32); or "bfloat16": matrix products in half precision, everything
        else in single. Faster only on machines that multiply these faster (docs/performance.md).
    step
        How a step is run; results agree up to rounding. "plain"; "compiled" by torch, which takes
        half a minute at first and is faster on few machines; "graph", recorded once and replayed
        without the host, on a CUDA device; "auto": graph there, plain on a CPU.
    """

    max_steps: Count | None = None
    max_epochs: Count | None = None
    batch_size: Count = 512
    n_particles: Count = 1
    learning_rate: Probability = 3e-3
    schedule: Literal["cosine", "constant"] = "constant"
    scale_learning_rate: bool = True
    weight_decay: Share = 1e-6
    clip_norm: Positive | None = None
    objective: Literal["elbo", "iwelbo"] = "elbo"
    closed_form_kl: bool | None = None
    basal_weight: NonNegative = 1.0
    mask_weight: NonNegative = 1.0
    mask_prob_weight: NonNegative = 1.0
    embedding_weight: NonNegative = 1.0
    warmup_steps: Natural = 0
    alignment: Literal["rotate", "none"] = "rotate"
    validate_every: Count = 100
    patience: NonNegative | None = field(default=10.0, metadata={"as_text": float})
    checkpoint_every: Count = 500
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    step: Literal["auto", "plain", "compiled", "graph"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is None:  # a file of settings has no None
            object.__setattr__(self, "patience", 0.0)
        if self.closed_form_kl and self.objective == "iwelbo":
            raise InputError(
                "closed_form_kl is for the ELBO: importance weights need the draws themselves"
            )
        if self.max_steps is not None and self.max_epochs is not None:
            raise InputError("max_steps and max_epochs are both given: expected one of them")
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
        """Return the factor of the learning rate at a step (from 0) of a phase."""
        if self.schedule == "constant":
            return 1.0
        return min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / n_steps)) / 2

    def patient_evaluations(self, n_cells: int) -> float:
        """Return how many evaluations without a rise end a phase, for a number of cells."""
        if not self.patience:
            return math.inf
        n_steps = self.patience * n_cells / min(self.batch_size, n_cells)
        return max(_LEAST_EVALUATIONS, math.ceil(n_steps / self.validate_every))

    def check_evaluations(self, n_cells: int) -> None:
        """Raise if validation cells were evaluated more often than a history can be kept of."""
        n = self.n_steps(n_cells) // self.validate_every
        if n > MAX_EVALUATIONS:
            raise InputError(
                f"validate_every {self.validate_every} evaluates validation cells {n:,} times: "
                f"expected at most {MAX_EVALUATIONS:,} times; raise it"
            )

    def n_steps(self, n_cells: int) -> int:
        """Return the number of training steps for a number of cells."""
        if self.max_epochs is None:
            return self.max_steps or 10_000
        return math.ceil(self.max_epochs * n_cells / min(self.batch_size, n_cells))


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainPlan):
    """How a model is trained, and the file it is saved to on the way.

    It takes the parameters below and all of `samsvae.settings.train.TrainPlan`.

    Parameters
    ----------
    checkpoint
        File to which training is saved, so that it can be resumed; by default none.
    resume
        Continue from the checkpoint, if it exists. The result equals that of an uninterrupted run;
        on another kind of device, up to that device's random numbers. With another number of steps
        it need not: the alignment stays where it was, a note says so, and a "cosine" schedule was
        that of the first number until then.
    """

    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
