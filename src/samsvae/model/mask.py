"""Masks M: which latent dimensions a perturbation shifts.

A mask owns its prior and its posterior, and says in `variable` which latent variable pays for it.
A new prior is a class here and an entry in `MASKS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Beta, kl_divergence
from torch.nn import functional as F

from samsvae.errors import check_range
from samsvae.ops import beta, straight_through
from samsvae.ops.noise import uniform
from samsvae.ops.spike_slab import logit, most_likely_share
from samsvae.types import Draw


class MaskPrior(NamedTuple):
    """Parameters of mask priors; each takes those it needs."""

    prob: float | None = 0.01
    """alpha of the Bernoulli: the smaller, the sparser; None: it is learned."""
    a: float = 1.0
    b: float = 2.0
    """Of the Beta from which the probability is drawn: the larger b, the sparser."""


class Mask(nn.Module, ABC):
    """A mask of n_perturbations x n_latent.

    Parameters
    ----------
    n_perturbations, n_latent
        T and L.
    prior
        Its parameters.
    """

    name: ClassVar[str]
    """By which an estimator chooses it."""
    variable: ClassVar[str | None] = "mask"
    """The latent variable that `log_ratio` of its draws belongs to; None: nothing is inferred."""

    def __init__(self, n_perturbations: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__()
        self.shape = (n_perturbations, n_latent)

    @abstractmethod
    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw the noise of `draw`, `particle perturbation latent ...`."""

    @abstractmethod
    def draw(self, perturbations: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        """Draw m in {0, 1} of some perturbations, `particle perturbation latent`."""

    @abstractmethod
    def logit(self) -> Tensor:
        """Return the logit of the posterior inclusion probability, `perturbation latent`."""

    @abstractmethod
    def prior_logit(self) -> Tensor:
        """Return the logit of the prior inclusion probability, `perturbation latent`."""

    def probability(self) -> Tensor:
        """Return the posterior inclusion probability, `perturbation latent`."""
        return self.logit().sigmoid()

    @abstractmethod
    def update(self, evidence: Tensor, seen: Tensor, *, farthest: float = math.inf) -> None:
        """Take the posterior that evidence gives: prior log odds plus log Bayes factor.

        Parameters
        ----------
        evidence
            Log Bayes factor of each entry, nats, `perturbation latent`.
        seen
            `perturbation`: which have training cells.
        farthest
            Largest log odds, in either direction.
        """

    def _updated(self, evidence: Tensor, farthest: float) -> Tensor:
        return (self.prior_logit() + evidence).clamp(-farthest, farthest)

    def _uniform(
        self, perturbations: Tensor, n_particles: int, generator: torch.Generator
    ) -> Tensor:
        """Draw uniform noise strictly between 0 and 1, `particle perturbation latent`."""
        shape = (n_particles, len(perturbations), self.shape[1])
        return uniform(shape, next(self.parameters()), generator)


class BernoulliMask(Mask):
    """m_tl ~ Bernoulli(alpha), with posterior q(m_tl) = Bernoulli(sigmoid(logits_tl)).

    Without a given alpha it is learned, one for all entries (empirical Bayes): then a screen in
    which nothing acts makes it fall to nothing by itself.
    """

    name = "bernoulli"

    def __init__(self, n_perturbations: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_perturbations, n_latent, prior)
        if prior.prob is not None:
            check_range("mask_prob", prior.prob, low=0, high=1, open_=True)
        self.logits = nn.Parameter(torch.zeros(self.shape))
        self.prob = prior.prob
        self.log_odds = nn.Parameter(torch.tensor(logit(0.01))) if prior.prob is None else None

    def prior(self) -> Bernoulli:
        """Return p(m_tl), `[perturbation] [latent]`."""
        # By its logit, which torch would bound for a small probability in single precision.
        if self.log_odds is not None:
            return Bernoulli(logits=self.log_odds, validate_args=False)
        assert self.prob is not None
        given = self.logits.new_full((), logit(self.prob))
        return Bernoulli(logits=given, validate_args=False)

    @torch.no_grad()
    def update(self, evidence: Tensor, seen: Tensor, *, farthest: float = math.inf) -> None:
        if self.log_odds is not None:
            found = evidence[seen].double().cpu().numpy()
            self.log_odds.fill_(logit(most_likely_share(found)))
        self.logits.copy_(self._updated(evidence, farthest))

    def posterior(self, perturbations: Tensor) -> Bernoulli:
        return Bernoulli(logits=self.logits[perturbations], validate_args=False)

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw uniform noise, `particle perturbation latent`."""
        return self._uniform(perturbations, n_particles, generator)

    def draw(self, perturbations: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        # log p(m) - log q(m) is linear in m: its expectation has the probability in m's place.
        logits, prior = self.logits.index_select(0, perturbations), self.prior().logits
        if prior.ndim == 2:
            prior = prior.index_select(0, perturbations)
        value = straight_through.bernoulli(logits, noise)
        weight = logits.sigmoid() if closed_form else value
        ratio = weight * (prior - logits) + F.softplus(logits) - F.softplus(prior)
        return Draw(value, ratio.expand_as(value).sum(-1))

    def logit(self) -> Tensor:
        return self.logits

    def prior_logit(self) -> Tensor:
        return self.prior().logits.expand(self.shape)


class _BetaMask(Mask):
    """What masks with p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl) share.

    Given p the mask's posterior is its prior, so only p pays.
    """

    variable = "mask_prob"

    def __init__(self, n_perturbations: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_perturbations, n_latent, prior)
        check_range("beta_a", prior.a, low=0, high=float("inf"), open_=True)
        check_range("beta_b", prior.b, low=0, high=float("inf"), open_=True)
        self.a, self.b = prior.a, prior.b

    def prior_logit(self) -> Tensor:
        return next(self.parameters()).new_full(self.shape, math.log(self.a) - math.log(self.b))


class BetaBernoulliMask(_BetaMask):
    """p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl), with a Beta as posterior of p_tl.

    The posterior's parameters are learned by their logarithms and start at 1.
    """

    name = "beta_bernoulli"

    def __init__(self, n_perturbations: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_perturbations, n_latent, prior)
        self.log_a = nn.Parameter(torch.zeros(self.shape))
        self.log_b = nn.Parameter(torch.zeros(self.shape))

    def prior(self) -> Beta:
        a, b = self.log_a.new_tensor([self.a, self.b])
        return Beta(a, b, validate_args=False)

    def posterior(self, perturbations: Tensor) -> Beta:
        """Return q(p_tl), `perturbation latent`."""
        a, b = self.log_a[perturbations].exp(), self.log_b[perturbations].exp()
        return Beta(a, b, validate_args=False)

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw uniform noise, and that of the probabilities: `particle perturbation latent 5`.

        The latter depends on their posterior, by rejection: `draw` adds the gradient.
        """
        uniform = self._uniform(perturbations, n_particles, generator)
        posterior = self.posterior(perturbations)
        a, b = (x.detach().expand_as(uniform).contiguous() for x in _parameters(posterior))
        return torch.stack([uniform, *beta.noise(a, b, generator)], -1)

    def draw(self, perturbations: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        posterior = self.posterior(perturbations)
        uniform, *drawn = noise.unbind(-1)
        logit = beta.logit(*_parameters(posterior), beta.Noise(*drawn))
        value = straight_through.bernoulli(logit, uniform)
        if closed_form:
            ratio = -kl_divergence(posterior, self.prior()).expand_as(value)
        else:
            prior, fitted = (_parameters(q) for q in (self.prior(), posterior))
            log_p, log_not_p = F.logsigmoid(logit), F.logsigmoid(-logit)
            ratio = beta.log_prob(log_p, log_not_p, *prior) - beta.log_prob(
                log_p, log_not_p, *fitted
            )
        return Draw(value, ratio.sum(-1))

    def logit(self) -> Tensor:
        return self.log_a - self.log_b  # of a / (a + b)

    @torch.no_grad()
    def update(self, evidence: Tensor, seen: Tensor, *, farthest: float = math.inf) -> None:
        """Take Beta distributions with these means, as wide as those of a fresh mask."""
        logits = self._updated(evidence, farthest)
        self.log_a.copy_(F.logsigmoid(logits) + math.log(2))
        self.log_b.copy_(F.logsigmoid(-logits) + math.log(2))


class PointBetaBernoulliMask(_BetaMask):
    """p_tl ~ Beta(a, b), m_tl ~ Bernoulli(p_tl), with a point p_tl = sigmoid(logits_tl).

    What pays is the log density of p itself, without a Jacobian: the objective is then a penalised
    one, whose maximum over p is the mode of the Beta.
    """

    name = "beta_bernoulli_point"

    def __init__(self, n_perturbations: int, n_latent: int, prior: MaskPrior) -> None:
        super().__init__(n_perturbations, n_latent, prior)
        self.logits = nn.Parameter(torch.zeros(self.shape))

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw uniform noise, `particle perturbation latent`."""
        return self._uniform(perturbations, n_particles, generator)

    def log_prior(self, perturbations: Tensor) -> Tensor:
        """Return log Beta(p; a, b), `perturbation latent`."""
        logits = self.logits[perturbations]
        prior = self.logits.new_tensor([self.a, self.b])
        return beta.log_prob(F.logsigmoid(logits), F.logsigmoid(-logits), *prior)

    def draw(self, perturbations: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        """Draw m; a point has no closed form of its own: its density is what it is."""
        value = straight_through.bernoulli(self.logits[perturbations], noise)
        return Draw(value, self.log_prior(perturbations).sum(-1).expand(len(value), -1))

    def logit(self) -> Tensor:
        return self.logits

    @torch.no_grad()
    def update(self, evidence: Tensor, seen: Tensor, *, farthest: float = math.inf) -> None:
        self.logits.copy_(self._updated(evidence, farthest))


class FullMask(Mask):
    """m_tl = 1: every perturbation shifts every latent dimension (CPA-VAE)."""

    name = "full"
    variable = None

    def __init__(self, n_perturbations: int, n_latent: int) -> None:
        super().__init__(n_perturbations, n_latent, MaskPrior())
        self.register_buffer("ones", torch.ones(self.shape), persistent=False)

    ones: Tensor

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Return no noise, `particle perturbation 0`."""
        return self.ones.new_empty((n_particles, len(perturbations), 0))

    def draw(self, perturbations: Tensor, noise: Tensor, *, closed_form: bool = False) -> Draw:
        value = self.ones[perturbations].expand(len(noise), -1, -1)
        return Draw(value, value.new_zeros(value.shape[:-1]))

    def logit(self) -> Tensor:
        return self.ones.logit()

    prior_logit = logit

    def update(self, evidence: Tensor, seen: Tensor, *, farthest: float = math.inf) -> None:
        """Do nothing: it is not inferred."""


MASKS: list[type[Mask]] = [BernoulliMask, BetaBernoulliMask, PointBetaBernoulliMask]
"""Masks with a prior, that an estimator can be given by name."""


def _parameters(distribution: Beta) -> tuple[Tensor, Tensor]:
    return distribution.concentration1, distribution.concentration0
