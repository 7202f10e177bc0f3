"""Learning rates of wide layers."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from samsvae.model.networks import JointLinear


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
