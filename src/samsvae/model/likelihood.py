"""Likelihoods: from the decoder's last hidden layer to the density and draws of a cell's data.

A likelihood owns its last linear layer. A new one is a class here and an entry in `LIKELIHOODS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from samsvae.ops import negative_binomial
from samsvae.ops.arrays import single
from samsvae.ops.negative_binomial import stirling_error
from samsvae.types import SCALE_SIZE, Batch, CountDraw, Scale


class Likelihood(nn.Module, ABC):
    """p(x | z) of data, from the decoder's last layer; `unobserved`: genes are a panel of more."""

    name: ClassVar[str]
    """The name by which users choose it."""
    counts: ClassVar[bool]
    """Whether its data are counts; real values otherwise."""
    scales: ClassVar[tuple[Scale, ...]]
    """Scales on which it has effects, the default first: "lfc", "log" and "normalized" where there
    is a library size, "mean" otherwise."""

    def __init__(self, n_hidden: int, n_genes: int, *, unobserved: bool = False) -> None:
        super().__init__()
        self.n_genes = n_genes

    @property
    def has_library_size(self) -> bool:
        """Whether the library size enters the density."""
        return "log" in self.scales

    def start_at(self, shares: Tensor) -> None:
        """Start from the training cells' shares of the library, `category`: genes, then rest."""
        del shares  # most likelihoods have no use for them

    @abstractmethod
    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | z), `particle cell`, nats."""

    @abstractmethod
    def expectation(self, hidden: Tensor) -> Tensor:
        """Return 1e4 times the share of each gene, or the mean of data without a library size."""

    def moments(self, hidden: Tensor, library_size: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of a cell's data, `... gene`; if not known, the latter is 1."""
        mean = self.expectation(hidden)
        return mean, torch.ones_like(mean)

    @abstractmethod
    def draw(
        self, hidden: Tensor, library_size: Tensor, generator: torch.Generator, *, panel: bool
    ) -> CountDraw:
        """Draw data, `... gene`; with `panel` the library size, `...`, counts these genes alone."""

    def redraw(
        self,
        drawn: CountDraw,
        hidden: Tensor,
        library_size: Tensor,
        generator: torch.Generator,
        *,
        panel: bool,
    ) -> Tensor:
        """Draw data with other means, `... gene`, with the noise of a first draw if it can."""
        return self.draw(hidden, library_size, generator, panel=panel).counts


class NegativeBinomialLikelihood(Likelihood):
    """x_ig ~ NegativeBinomial(mean l_i rho_ig + 1e-4, inverse dispersion theta_g).

    rho_i = softmax(W h_i + b); the log of theta_g is learned, one per gene. Of a panel of a larger
    library the rest is one more category, which is never observed.
    """

    name = "negative_binomial"
    counts = True
    scales = ("lfc", "log", "normalized")

    def __init__(self, n_hidden: int, n_genes: int, *, unobserved: bool = False) -> None:
        super().__init__(n_hidden, n_genes)
        self.linear = nn.Linear(n_hidden, n_genes + unobserved)
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(n_genes))

    @torch.no_grad()
    def start_at(self, shares: Tensor) -> None:
        """Set the biases to the logarithms of shares, `category`, which Adam is slow to reach."""
        self.linear.bias.copy_(shares.log())

    def proportions(self, hidden: Tensor, *, panel: bool) -> Tensor:
        """Return rho, `... gene`; with `panel` as shares of these genes alone (they sum to 1)."""
        return self._times(hidden.new_ones(()), hidden, panel=panel)

    def mean(self, hidden: Tensor, library_size: Tensor, *, panel: bool = False) -> Tensor:
        """Return l rho + 1e-4, `... gene`, counts; `panel`: l counts these genes alone."""
        return self._times(library_size, hidden, panel=panel, floor=1e-4)

    def _times(self, size: Tensor, hidden: Tensor, *, panel: bool, floor: float = 0.0) -> Tensor:
        n = self.n_genes if panel else None  # of these genes alone
        weight, bias = self.linear.weight[:n], self.linear.bias[:n]
        means = negative_binomial.mean_of_hidden(hidden, weight, bias, size, floor=floor)
        return means[..., : self.n_genes]

    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        return negative_binomial.log_prob_of_hidden(
            batch.counts,
            hidden,
            self.linear.weight,
            self.linear.bias,
            batch.library_size,
            self.log_inverse_dispersion,
        )

    def expectation(self, hidden: Tensor) -> Tensor:
        """Return 1e4 rho, `... gene`."""
        return self._times(hidden.new_tensor(SCALE_SIZE), hidden, panel=True)

    def moments(self, hidden: Tensor, library_size: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(hidden, library_size)
        return mean, mean + mean.square() * (-self.log_inverse_dispersion).exp()

    def draw(
        self, hidden: Tensor, library_size: Tensor, generator: torch.Generator, *, panel: bool
    ) -> CountDraw:
        mean = self.mean(hidden, library_size, panel=panel)
        shape = tuple(mean.shape[:-1])
        gamma = negative_binomial.gamma_noise(self.log_inverse_dispersion, shape, generator)
        rate = mean * gamma
        return CountDraw(torch.poisson(rate, generator=generator), gamma, rate)

    def redraw(
        self,
        drawn: CountDraw,
        hidden: Tensor,
        library_size: Tensor,
        generator: torch.Generator,
        *,
        panel: bool,
    ) -> Tensor:
        """Draw counts with other means: the same gamma noise, and thinned or added counts."""
        assert drawn.gamma is not None
        assert drawn.rate is not None
        rate = self.mean(hidden, library_size, panel=panel) * drawn.gamma
        return negative_binomial.poisson_coupled(drawn.counts, drawn.rate, rate, generator)


class PoissonLikelihood(Likelihood):
    """x_ig ~ Poisson(softplus(W h_i + b)_g): no offset, the library size is not used."""

    name = "poisson"
    counts = True
    scales = ("mean",)

    def __init__(self, n_hidden: int, n_genes: int, *, unobserved: bool = False) -> None:
        super().__init__(n_hidden, n_genes)
        self.linear = nn.Linear(n_hidden, n_genes)

    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        raw = single(self.linear(hidden))
        # Far below 0, softplus(raw) = exp(raw), which underflows where its logarithm does not.
        log_rate = torch.where(raw < -20, raw, F.softplus(raw.clamp(min=-20)).log())
        # As the deviance from the rate x, plus the density there, which does not depend on the
        # particle: terms of the size of the counts would cancel, and lose the digits of float32.
        counts, positive = batch.counts, batch.counts.clamp(min=1)
        excess = F.softplus(raw) - counts
        near = torch.log1p((excess / positive).clamp(-0.5, 0.5))
        log_ratio = torch.where(excess.abs() < counts / 2, near, log_rate - positive.log())
        at_counts = (2 * math.pi * positive).log() / 2 + stirling_error(positive)
        constant = torch.where(counts > 0, at_counts, 0 * counts).sum(-1)
        return (counts * log_ratio - excess).sum(-1) - constant

    def expectation(self, hidden: Tensor) -> Tensor:
        """Return the rate, `... gene`, counts."""
        return F.softplus(self.linear(hidden))

    def moments(self, hidden: Tensor, library_size: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.expectation(hidden)
        return rate, rate

    def draw(
        self, hidden: Tensor, library_size: Tensor, generator: torch.Generator, *, panel: bool
    ) -> CountDraw:
        return CountDraw(torch.poisson(self.expectation(hidden), generator=generator))


class GaussianLikelihood(Likelihood):
    """x_ig ~ N(W h_i + b, sd^2) with sd = sqrt(exp(V h_i + c) + 1e-4): for real-valued data."""

    name = "gaussian"
    counts = False
    scales = ("mean",)

    def __init__(self, n_hidden: int, n_genes: int, *, unobserved: bool = False) -> None:
        super().__init__(n_hidden, n_genes)
        self.linear = nn.Linear(n_hidden, n_genes)
        self.raw_variance = nn.Linear(n_hidden, n_genes)

    def distribution(self, hidden: Tensor) -> Normal:
        scale = (single(self.raw_variance(hidden)).exp() + 1e-4).sqrt()
        return Normal(single(self.linear(hidden)), scale, validate_args=False)

    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        return self.distribution(hidden).log_prob(batch.counts).sum(-1)

    def expectation(self, hidden: Tensor) -> Tensor:
        """Return the mean, `... gene`, in the units of the data."""
        mean: Tensor = self.linear(hidden)
        return mean

    def moments(self, hidden: Tensor, library_size: Tensor) -> tuple[Tensor, Tensor]:
        gaussian = self.distribution(hidden)
        return gaussian.loc, gaussian.scale.square()

    def draw(
        self, hidden: Tensor, library_size: Tensor, generator: torch.Generator, *, panel: bool
    ) -> CountDraw:
        gaussian = self.distribution(hidden)
        return CountDraw(torch.normal(gaussian.loc, gaussian.scale, generator=generator))


LIKELIHOODS: list[type[Likelihood]] = [
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    GaussianLikelihood,
]
"""The likelihoods, which users choose by name."""
