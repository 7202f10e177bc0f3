"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from samsvae.ops import draws
from samsvae.ops.arrays import single
from samsvae.types import Context, Dosage, Draw


class OneHot(int):
    """Width of an input of which few entries are not 0: one-hot, or a row of dosage."""


class JointLinear(nn.Module):
    """Affine map of a concatenation, computed part by part: W [x1, x2, ...] + b.

    Parts may differ in their leading axes: counts (`cell gene`) are multiplied once for all
    particles of the shift (`particle cell latent`). Integers stand for their one-hot encoding, a
    `Dosage` for its rows (`cell column`): both are looked up. `in_features` are the widths of the
    parts, `OneHot` where it is one; a part of width 0 is skipped.
    """

    fan_in: tuple[int, ...]
    """Number of inputs of each part that are not 0 at once: how many terms its units add up."""

    def __init__(self, in_features: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.in_features = tuple(map(int, in_features))
        self.fan_in = tuple(1 if isinstance(n, OneHot) else n for n in in_features if n > 0)
        whole = nn.Linear(sum(in_features), out_features)  # drawn as one
        self.weights = nn.ParameterList(
            weight.detach().T.contiguous()  # `in out`: rows can be looked up
            for weight in whole.weight.split(self.in_features, dim=1)
            if weight.shape[1] > 0
        )
        self.bias = nn.Parameter(whole.bias.detach())

    @property
    def weight(self) -> Tensor:
        """W, `out in`: its parts side by side."""
        return torch.cat(list(self.weights)).T

    def part(self, index: int) -> nn.Parameter | None:
        """Return the weights of a part of the input, `in out`; None for one of width 0."""
        n_before = sum(n > 0 for n in self.in_features[:index])
        return self.weights[n_before] if self.in_features[index] > 0 else None

    @torch.no_grad()
    @torch.no_grad()
    def rotate(self, index: int, matrix: Tensor) -> None:
        """Expect x Q in place of part x: the output does not change."""
        weight = self.part(index)
        if weight is not None:
            weight.copy_(matrix.T @ weight)

    @torch.no_grad()
    def translate(self, index: int, offset: Tensor) -> None:
        """Expect x - c in place of part x: the output does not change."""
        weight = self.part(index)
        if weight is not None:
            self.bias.add_(offset @ weight)

    def forward(self, *parts: Context) -> Tensor:
        present = [part for part, n in zip(parts, self.in_features, strict=True) if n > 0]
        out: Tensor = self.bias
        for part, weight in zip(present, self.weights, strict=True):
            if isinstance(part, Dosage):
                received = F.embedding(part.columns[part.position], weight)
                term = (received * part.dose.unsqueeze(-1)).sum(-2)
            elif not part.is_floating_point():
                term = F.embedding(part, weight)
            elif out is self.bias:
                out = F.linear(part, weight.T, self.bias)
                continue
            else:
                term = F.linear(part, weight.T)
            out = out + term
        return out


def _activated(values: Tensor) -> Tensor:
    """Return leaky ReLU, in place where no gradient needs the argument."""
    return F.leaky_relu(values, inplace=not torch.is_grad_enabled())


class MLP(nn.Module):
    """Hidden layers with leaky ReLU (0.01) and residual connections from the second on.

    h_1 = act(W_1 [x1, x2, ...] + b_1),  h_{j+1} = act(W_{j+1} h_j + b_{j+1}) + h_j.
    """

    def __init__(self, in_features: Sequence[int], width: int, n_layers: int) -> None:
        super().__init__()
        self.width = width
        self.first = JointLinear(in_features, width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers - 1))

    def forward(self, *parts: Context) -> Tensor:
        hidden = _activated(self.first(*parts))
        for layer in self.rest:
            hidden = _activated(layer(hidden)) + hidden
        return hidden


_LEAST_VARIANCE = 1e-4


class GaussianNetwork(nn.Module):
    """A network whose output is a Gaussian: sd = sqrt(exp(raw variance) + 1e-4)."""

    def __init__(
        self, in_features: Sequence[int], width: int, n_layers: int, out_features: int
    ) -> None:
        super().__init__()
        self.hidden = MLP(in_features, width, n_layers)
        self.heads = nn.Linear(width, 2 * out_features)  # means, and raw variances

    @torch.no_grad()
    def rotate(self, matrix: Tensor) -> None:
        """Represent x Q in place of x.

        Variances become their geometric mean, weighted by Q^2, which a last layer can give: it is
        between the variance along the new axis and that given all other axes.
        """
        turns = matrix.T, matrix.square().T
        for values in (self.heads.weight, self.heads.bias):
            values.copy_(torch.cat([q @ v for q, v in zip(turns, values.chunk(2), strict=True)]))

    @torch.no_grad()
    def translate(self, offset: Tensor) -> None:
        """Represent x - c in place of x."""
        self.heads.bias[: len(offset)].sub_(offset)

    def forward(self, *parts: Context, plus: Tensor | None = None) -> Normal:
        """Return the Gaussian; `plus` is added to means and raw variances."""
        values = single(self.heads(self.hidden(*parts)))
        mean, raw_variance = (values if plus is None else values + plus).chunk(2, -1)
        return Normal(mean, (raw_variance.exp() + _LEAST_VARIANCE).sqrt(), validate_args=False)

    @torch.no_grad()
    def missing(self, loc: Tensor, scale: Tensor, *parts: Context) -> Tensor:
        """Return the `plus` with which the output is this Gaussian."""
        raw_variance = (scale.square() - _LEAST_VARIANCE).clamp(min=_LEAST_VARIANCE / 100).log()
        return torch.cat([loc, raw_variance], -1) - single(self.heads(self.hidden(*parts)))


def gaussian_draw(
    posterior: Normal, noise: Tensor, prior: Normal, *, closed_form: bool = False
) -> Draw:
    """Draw loc + scale * noise, weighed against the prior; see `samsvae.ops.draws.gaussian`."""
    value, ratio = draws.gaussian(
        posterior.loc, posterior.scale, noise, prior.loc, prior.scale, closed_form=closed_form
    )
    return Draw(value, ratio)


def standard_normal(like: Tensor) -> Normal:
    """Return N(0, 1) of the type and on the device of a tensor."""
    zero = like.new_zeros(())
    return Normal(zero, zero + 1, validate_args=False)
