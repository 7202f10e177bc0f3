"""Masks M: which latent dimensions a perturbation shifts.

A mask owns its prior and its posterior. It answers `noise(perturbations, n_particles, generator)`,
`draw(perturbations, noise) -> Draw` and `probability()`, and says in `name` which variable pays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from samsvae.ops import straight_through
from samsvae.types import Draw


class BernoulliMask(nn.Module):
    """m_tl ~ Bernoulli(prob), with posterior q(m_tl) = Bernoulli(sigmoid(logits_tl)).

    Parameters
    ----------
    n_perturbations, n_latent
        T and L.
    prob
        Prior probability that a perturbation shifts a latent dimension: the smaller, the sparser.
    """

    name = "mask"

    def __init__(self, n_perturbations: int, n_latent: int, *, prob: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_perturbations, n_latent))
        self.prob = prob

    def prior(self) -> Bernoulli:
        return Bernoulli(probs=self.logits.new_full((), self.prob), validate_args=False)

    def posterior(self, perturbations: Tensor) -> Bernoulli:
        return Bernoulli(logits=self.logits[perturbations], validate_args=False)

    def noise(self, perturbations: Tensor, n_particles: int, generator: torch.Generator) -> Tensor:
        """Draw uniform noise, `particle perturbation latent`, strictly between 0 and 1."""
        shape = (n_particles, len(perturbations), self.logits.shape[1])
        like = self.logits
        uniform = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
        tiny = torch.finfo(like.dtype).eps
        return uniform.clamp(tiny, 1 - tiny)

    def draw(self, perturbations: Tensor, noise: Tensor) -> Draw:
        posterior = self.posterior(perturbations)
        value = straight_through.bernoulli(posterior.logits, noise)
        log_ratio = self.prior().log_prob(value) - posterior.log_prob(value)
        return Draw(value, log_ratio.sum(-1))

    def probability(self) -> Tensor:
        """Return the posterior inclusion probability, `perturbation latent`."""
        return self.logits.sigmoid()
