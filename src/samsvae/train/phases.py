"""Phases of training: with all masks open, then aligned; each with an optimiser without a past."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings
from samsvae.train.rates import parameter_groups


class Phases(NamedTuple):
    """When training goes from one phase to the next."""

    n_steps: int
    """Of all of training."""
    aligned_after: int | None
    """Steps with all masks open; None: there is one phase."""

    def dense(self, step: int) -> bool:
        """Whether all masks are open at a step: the model is aligned later."""
        return self.aligned_after is not None and step < self.aligned_after

    def span(self, step: int) -> tuple[int, int]:
        """Return the step at which a step's phase starts, and how many steps it has."""
        if self.aligned_after is None:
            return 0, self.n_steps
        if self.dense(step):
            return 0, self.aligned_after
        return self.aligned_after, max(1, self.n_steps - self.aligned_after)


class Optimizer:
    """Adam without a past, each group of parameters at its own learning rate.

    Parameters
    ----------
    model
        Whose parameters.
    settings
        How it is trained.
    recorded
        Whether steps are recorded, and read their learning rates where they are.
    """

    def __init__(
        self, model: PerturbationVAE, settings: TrainSettings, *, recorded: bool = False
    ) -> None:
        self.adam = torch.optim.Adam(
            parameter_groups(model, settings.learning_rate, scaled=settings.scale_learning_rate),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=recorded,
        )
        self._rates = [group["lr"] for group in self.adam.param_groups]
        if recorded:
            device = next(model.parameters()).device
            for group in self.adam.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=device)

    def set_share(self, share: float) -> None:
        """Multiply all learning rates by a number."""
        for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(share * rate)
            else:
                group["lr"] = share * rate
