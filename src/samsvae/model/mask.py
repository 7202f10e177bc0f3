"""Masks M: which latent dimensions a column of dosage shifts.

A mask owns its prior and its posterior; `variable` names the latent variable whose KL term it
contributes. A new prior is a class here and an entry in `MASKS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Beta, kl_divergence
from torch.nn import functional as F

from samsvae.ops.draws import (
    BetaNoise,
    beta_log_prob,
    beta_logit,
    beta_noise,
    straight_through,
    uniform,
)
from samsvae.ops.spike_slab import logit, most_likely_share
from samsvae.types import Draw


class MaskPrior(NamedTuple):
    """Parameters of mask priors; each prior uses some of them."""

    prob: float | None = 0.01
    """alpha of the Bernoulli: the smaller, the sparser; None: it is learned."""
    a: float = 1.0
    b: float = 2.0
    """Parameters of the Beta from which the probability is drawn: the larger b, the sparser."""
    kinds: Tensor | None = None
    """`column`, int64: kind of each column of dosage, whose learned alpha is its own; None: all
    are of one kind."""


class Mask(nn.Module, ABC):
    """A mask of n_columns (columns of dosage) x n_latent (latent dimensions), with its prior."""

    name: ClassVar[str]
    """The name by which users choose it."""
    variable: ClassVar[str | None] = "mask"
    """The latent variable whose log ratio its draws give; None: nothing is inferred."""

    def __init__(self, n_columns: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__()
        self.shape = (n_columns, n_latent)
        is_inferred = self.variable is not None
        self.register_buffer("evidence", torch.zeros(self.shape), persistent=is_inferred)

    evidence: Tensor
    """`column latent`, nats: log Bayes factor of each entry by the closed-form inclusion update; 0
    where there was none."""

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of `draw`, uniform strictly between 0 and 1, `particle column latent`."""
        shape = (n_particles, len(columns), self.shape[1])
        return uniform(shape, next(self.parameters()), generator)

    @abstractmethod
    def draw(self, columns: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        """Draw m in {0, 1} of some columns, `particle column latent`."""

    @abstractmethod
    def logit(self) -> Tensor:
        """Return the logit of the posterior inclusion probability, `column latent`."""

    @abstractmethod
    def prior_logit(self) -> Tensor:
        """Return the logit of the prior inclusion probability, `column latent`."""

    def probability(self) -> Tensor:
        """Return the posterior inclusion probability, `column latent`."""
        return self.logit().sigmoid()

    @abstractmethod
    def update(
        self,
        log_bayes_factors: Tensor,
        has_cells: Tensor,
        *,
        logit_bound: float = math.inf,
        columns: Tensor | None = None,
    ) -> None:
        """Set the posterior to prior log odds plus log Bayes factor (`column latent`, nats).

        `has_cells`: columns with training cells; log odds are at most `logit_bound` in size. Of
        some `columns` (`column`, bool) alone, if they are given.
        """

    @abstractmethod
    def set_logit(self, logits: Tensor) -> None:
        """Set the logit of posterior inclusion probabilities, `column latent`."""

    def _posterior_logit(
        self, log_bayes_factors: Tensor, bound: float, columns: Tensor | None
    ) -> Tensor:
        updated = (self.prior_logit() + log_bayes_factors).clamp(-bound, bound)
        return updated if columns is None else torch.where(columns[:, None], updated, self.logit())


class BernoulliMask(Mask):
    """m_tl ~ Bernoulli(alpha), with posterior q(m_tl) = Bernoulli(sigmoid(logits_tl)).

    Without a given alpha one is learned for all entries of a kind of column (empirical Bayes).
    """

    name = "bernoulli"

    def __init__(self, n_columns: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_columns, n_latent, prior)
        self.logits = nn.Parameter(torch.zeros(self.shape))
        self.prob = prior.prob
        kinds = prior.kinds
        self.register_buffer("kinds", kinds, persistent=False)
        of_kinds = () if kinds is None else (int(kinds.max()) + 1,)
        first = torch.full(of_kinds, logit(0.01))
        self.log_odds = nn.Parameter(first) if prior.prob is None else None

    kinds: Tensor | None

    def prior(self) -> Bernoulli:
        """Return p(m_tl), `[column] [latent]`."""
        # By its logit, which torch would bound for a small probability in single precision.
        if self.log_odds is not None:
            log_odds = self.log_odds if self.kinds is None else self.log_odds[self.kinds, None]
            return Bernoulli(logits=log_odds, validate_args=False)
        assert self.prob is not None
        log_odds = self.logits.new_full((), logit(self.prob))
        return Bernoulli(logits=log_odds, validate_args=False)

    @torch.no_grad()
    def update(
        self,
        log_bayes_factors: Tensor,
        has_cells: Tensor,
        *,
        logit_bound: float = math.inf,
        columns: Tensor | None = None,
    ) -> None:
        if self.log_odds is not None:
            for kind, log_odds in enumerate(self.log_odds.view(-1)):
                own = has_cells if self.kinds is None else has_cells & (self.kinds == kind)
                observed = log_bayes_factors[own].double().cpu().numpy()
                if self.kinds is None or len(observed):
                    log_odds.fill_(logit(most_likely_share(observed)))
        self.set_logit(self._posterior_logit(log_bayes_factors, logit_bound, columns))

    @torch.no_grad()
    def set_logit(self, logits: Tensor) -> None:
        self.logits.copy_(logits)

    def posterior(self, columns: Tensor) -> Bernoulli:
        return Bernoulli(logits=self.logits[columns], validate_args=False)

    def draw(self, columns: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        # log p(m) - log q(m) is linear in m: its expectation has the probability in m's place.
        logits, prior = self.logits.index_select(0, columns), self.prior().logits
        if prior.ndim == 2:
            prior = prior.index_select(0, columns)
        value = straight_through(logits, noise)
        weight = logits.sigmoid() if closed_form else value
        ratio = weight * (prior - logits) + F.softplus(logits) - F.softplus(prior)
        return Draw(value, ratio.expand_as(value).sum(-1))

    def logit(self) -> Tensor:
        return self.logits

    def prior_logit(self) -> Tensor:
        return self.prior().logits.expand(self.shape)


class _BetaMask(Mask):
    """p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl), in the posterior, too: p alone has a KL term."""

    variable = "mask_prob"

    def __init__(self, n_columns: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_columns, n_latent, prior)
        # On the device, since a CUDA graph refuses copies from the host; rounded where it is used.
        parameters = torch.tensor([prior.a, prior.b], dtype=torch.float64)
        self.register_buffer("prior_parameters", parameters, persistent=False)

    prior_parameters: Tensor

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Return a and b of the prior."""
        a, b = self.prior_parameters.to(next(self.parameters()).dtype)
        return a, b

    def prior_logit(self) -> Tensor:
        a, b = self._prior()
        return (a.log() - b.log()).expand(self.shape)


class BetaBernoulliMask(_BetaMask):
    """p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl); posterior of p_tl: a Beta, at first Beta(1, 1)."""

    name = "beta_bernoulli"

    def __init__(self, n_columns: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_columns, n_latent, prior)
        self.log_a = nn.Parameter(torch.zeros(self.shape))
        self.log_b = nn.Parameter(torch.zeros(self.shape))

    def prior(self) -> Beta:
        return Beta(*self._prior(), validate_args=False)

    def posterior(self, columns: Tensor) -> Beta:
        """Return q(p_tl), `column latent`."""
        a, b = self.log_a[columns].exp(), self.log_b[columns].exp()
        return Beta(a, b, validate_args=False)

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw uniform noise, and the noise of the probabilities: `particle column latent 5`.

        The latter is drawn by rejection and depends on their posterior: `draw` adds the gradient.
        """
        uniform = super().noise(columns, n_particles, generator)
        posterior = self.posterior(columns)
        a, b = (x.detach().expand_as(uniform).contiguous() for x in _parameters(posterior))
        return torch.stack([uniform, *beta_noise(a, b, generator)], -1)

    def draw(self, columns: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        posterior = self.posterior(columns)
        uniform, *drawn = noise.unbind(-1)
        logit = beta_logit(*_parameters(posterior), BetaNoise(*drawn))
        value = straight_through(logit, uniform)
        if closed_form:
            ratio = -kl_divergence(posterior, self.prior()).expand_as(value)
        else:
            prior, fitted = (_parameters(q) for q in (self.prior(), posterior))
            log_p, log_not_p = F.logsigmoid(logit), F.logsigmoid(-logit)
            ratio = beta_log_prob(log_p, log_not_p, *prior) - beta_log_prob(
                log_p, log_not_p, *fitted
            )
        return Draw(value, ratio.sum(-1))

    def logit(self) -> Tensor:
        return self.log_a - self.log_b  # of a / (a + b)

    @torch.no_grad()
    def update(
        self,
        log_bayes_factors: Tensor,
        has_cells: Tensor,
        *,
        logit_bound: float = math.inf,
        columns: Tensor | None = None,
    ) -> None:
        self.set_logit(self._posterior_logit(log_bayes_factors, logit_bound, columns))

    @torch.no_grad()
    def set_logit(self, logits: Tensor) -> None:
        """Set Beta distributions with these means, as wide as those of a new mask."""
        self.log_a.copy_(F.logsigmoid(logits) + math.log(2))
        self.log_b.copy_(F.logsigmoid(-logits) + math.log(2))


class PointBetaBernoulliMask(_BetaMask):
    """p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl), with a point p_tl = sigmoid(logits_tl).

    It contributes the log density of p itself, without a Jacobian: the objective is a penalised
    likelihood, whose maximum over p without data is the mode of the Beta.
    """

    name = "beta_bernoulli_point"

    def __init__(self, n_columns: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_columns, n_latent, prior)
        self.logits = nn.Parameter(torch.zeros(self.shape))

    def log_prior(self, columns: Tensor) -> Tensor:
        """Return log Beta(p; a, b), `column latent`."""
        logits = self.logits[columns]
        return beta_log_prob(F.logsigmoid(logits), F.logsigmoid(-logits), *self._prior())

    def draw(self, columns: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        """Draw m; the log ratio is the density at the point, with or without `closed_form`."""
        value = straight_through(self.logits[columns], noise)
        return Draw(value, self.log_prior(columns).sum(-1).expand(len(value), -1))

    def logit(self) -> Tensor:
        return self.logits

    @torch.no_grad()
    def update(
        self,
        log_bayes_factors: Tensor,
        has_cells: Tensor,
        *,
        logit_bound: float = math.inf,
        columns: Tensor | None = None,
    ) -> None:
        self.set_logit(self._posterior_logit(log_bayes_factors, logit_bound, columns))

    @torch.no_grad()
    def set_logit(self, logits: Tensor) -> None:
        self.logits.copy_(logits)


class FullMask(Mask):
    """m_tl = 1: every column shifts every latent dimension (CPA-VAE)."""

    name = "full"
    variable = None

    def __init__(self, n_columns: int, n_latent: int) -> None:
        super().__init__(n_columns, n_latent, MaskPrior())
        self.register_buffer("ones", torch.ones(self.shape), persistent=False)

    ones: Tensor

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Return no noise, `particle column 0`."""
        return self.ones.new_empty((n_particles, len(columns), 0))

    def draw(self, columns: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        value = self.ones[columns].expand(len(noise), -1, -1)
        return Draw(value, value.new_zeros(value.shape[:-1]))

    def logit(self) -> Tensor:
        return self.ones.logit()

    prior_logit = logit

    def update(
        self,
        log_bayes_factors: Tensor,
        has_cells: Tensor,
        *,
        logit_bound: float = math.inf,
        columns: Tensor | None = None,
    ) -> None:
        """Do nothing: the mask is not inferred."""

    def set_logit(self, logits: Tensor) -> None:
        """Do nothing: the mask is not inferred."""


MASKS: list[type[Mask]] = [BernoulliMask, BetaBernoulliMask, PointBetaBernoulliMask]
"""Masks with a prior, which users choose by name."""


def _parameters(distribution: Beta) -> tuple[Tensor, Tensor]:
    return distribution.concentration1, distribution.concentration0
