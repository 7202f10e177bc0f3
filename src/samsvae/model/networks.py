"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from samsvae.ops.precision import single
from samsvae.types import Context, Dosage


class JointLinear(nn.Module):
    """Affine map of a concatenation, computed part by part: W [x1, x2, ...] + b.

    The parts are never concatenated, so they may differ in their leading axes: counts (`cell
    gene`) are multiplied once, however many particles the shift (`particle cell latent`) has. A
    part of integers stands for its one-hot encoding, and a `Dosage` for its rows (`cell
    perturbation`): both are looked up, not multiplied.

    Parameters
    ----------
    in_features
        Width of each part. A part of width 0 is skipped.
    out_features
        Width of the result.
    """

    def __init__(self, in_features: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        bound = 1 / math.sqrt(max(1, sum(self.in_features)))
        self.weight = nn.Parameter(torch.empty(out_features, sum(self.in_features)))
        self.bias = nn.Parameter(torch.empty(out_features))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, *parts: Context) -> Tensor:
        out: Tensor = self.bias
        for part, weight in zip(parts, self.weight.split(self.in_features, dim=1), strict=True):
            if weight.shape[1] == 0:
                continue
            if isinstance(part, Dosage):
                received = F.embedding(part.perturbations[part.position], weight.T)
                out = out + (received * part.dose.unsqueeze(-1)).sum(-2)
            elif part.is_floating_point() and out is self.bias:
                out = F.linear(part, weight, self.bias)
            elif part.is_floating_point():
                out = out + F.linear(part, weight)
            else:
                out = out + F.embedding(part, weight.T)
        return out


class MLP(nn.Module):
    """Hidden layers with leaky ReLU (0.01) and residual connections.

    h_1 = act(W_1 [x1, x2, ...] + b_1),  h_{j+1} = act(W_{j+1} h_j + b_{j+1}) + h_j.

    Parameters
    ----------
    in_features
        Width of each part of the input.
    width
        Width of every hidden layer.
    n_layers
        Number of hidden layers, at least 1: 1 gives no residual connection.
    """

    def __init__(self, in_features: Sequence[int], width: int, n_layers: int) -> None:
        super().__init__()
        self.width = width
        self.first = JointLinear(in_features, width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers - 1))

    def forward(self, *parts: Context) -> Tensor:
        hidden = F.leaky_relu(self.first(*parts))
        for layer in self.rest:
            hidden = F.leaky_relu(layer(hidden)) + hidden
        return hidden


class GaussianNetwork(nn.Module):
    """A network that answers with a Gaussian: sd = sqrt(exp(raw variance) + 1e-4)."""

    def __init__(
        self, in_features: Sequence[int], width: int, n_layers: int, out_features: int
    ) -> None:
        super().__init__()
        self.hidden = MLP(in_features, width, n_layers)
        self.mean = nn.Linear(width, out_features)
        self.raw_variance = nn.Linear(width, out_features)

    def forward(self, *parts: Context) -> Normal:
        hidden = self.hidden(*parts)
        scale = (single(self.raw_variance(hidden)).exp() + 1e-4).sqrt()
        return Normal(single(self.mean(hidden)), scale, validate_args=False)
