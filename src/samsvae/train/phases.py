"""Learning rates of wide layers.

Phases of training: with all masks open, then aligned; each with an optimiser without a past.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from samsvae.model.networks import JointLinear
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings


def parameter_groups(
    model: nn.Module, learning_rate: float, *, scaled: bool = True
) -> list[dict[str, Any]]:
    """Return the parameters of a model for Adam, by their learning rate.

    No step is to move a unit by more than it varies at the start. A step of Adam moves every weight
    by about the learning rate, so a unit that adds up n inputs of size 1 by up to n times as much;
    at the start its weights are uniform within 1 / sqrt(n), of variance 1 / 3n each, so that it
    varies by 1 / sqrt(3) whatever n is. Weights of n inputs therefore take

    rate = min(learning_rate, 1 / (sqrt(3) n)),

    part by part in a first layer; of one-hot inputs n counts the one that is not 0. With thousands
    of genes training diverges at a rate that suits hundreds (docs/performance.md measures both).

    Parameters
    ----------
    model
        Whose parameters.
    learning_rate
        Of biases, of what is looked up, and of weights of few inputs: up to 192 at 3e-3.
    scaled
        False: of all parameters.

    References
    ----------
    Yang et al.: Tensor Programs V, 2022, arXiv:2203.03466 (Adam, hidden weights: 1 / fan-in).
    """
    fan_in: dict[Tensor, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fan_in[module.weight] = module.in_features
        elif isinstance(module, JointLinear):
            fan_in |= zip(module.weights, module.fan_in, strict=True)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        n = fan_in.get(parameter) if scaled else None
        rate = learning_rate if n is None else min(learning_rate, 1 / (math.sqrt(3) * n))
        groups.setdefault(rate, []).append(parameter)
    return [{"params": group, "lr": rate} for rate, group in groups.items()]


class Phases(NamedTuple):
    """When training goes from one phase to the next."""

    n_steps: int
    """Of all of training."""
    aligned_after: int | None
    """Steps with all masks open; None: there is one phase."""

    def masks_fixed(self, step: int) -> bool:
        """Whether all masks are open at a step: the model is aligned later."""
        return self.aligned_after is not None and step < self.aligned_after

    def span(self, step: int) -> tuple[int, int]:
        """Return the step at which a step's phase starts, and how many steps it has."""
        if self.aligned_after is None:
            return 0, self.n_steps
        if self.masks_fixed(step):
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
