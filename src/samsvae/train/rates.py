"""Learning rates of wide layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from samsvae.model.networks import JointLinear

_WIDTH = 128
"""Inputs up to which a layer's weights take the learning rate as it is."""


def parameter_groups(
    model: nn.Module, learning_rate: float, *, scaled: bool = True
) -> list[dict[str, Any]]:
    """Return the parameters of a model for Adam, by their learning rate.

    A step of Adam moves every weight by about the learning rate, so a unit that adds up n inputs
    moves by n times as much: with thousands of genes training diverges at a rate that suits
    hundreds. So the weights of n > 128 inputs take learning_rate * 128 / n.

    Parameters
    ----------
    model
        Whose parameters.
    learning_rate
        Of biases, of what is looked up, and of weights of at most 128 inputs.
    scaled
        False: of all parameters.

    References
    ----------
    Yang et al.: Tensor Programs V, 2022, arXiv:2203.03466 (Adam, hidden weights: 1 / fan-in).
    """
    widths = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            widths[module.weight] = module.in_features
        elif isinstance(module, JointLinear):
            # Its first part is multiplied; the others are narrow, or looked up.
            widths[module.weights[0]] = module.in_features[0]
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        share = min(1.0, _WIDTH / widths.get(parameter, 1)) if scaled else 1.0
        groups.setdefault(learning_rate * share, []).append(parameter)
    return [{"params": group, "lr": rate} for rate, group in groups.items()]
