"""Likelihoods: from the decoder's last hidden layer to the density and draws of a cell's data.

A likelihood owns its last linear layer. It answers `log_prob(hidden, batch)`, `scales` (the scales
on which it has effects) and what each of them needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samsvae.ops import negative_binomial
from samsvae.types import Batch


class NegativeBinomialLikelihood(nn.Module):
    """x_ig ~ NegativeBinomial(mean l_i rho_ig + 1e-4, inverse dispersion theta_g).

    rho_i = softmax(W h_i + b); theta_g is one per gene, learned by its log.

    Parameters
    ----------
    n_hidden, n_genes
        Width of the decoder's last layer; number of genes.
    unobserved
        Library sizes count more than these genes (a panel of a larger library): the softmax gets
        one more category, for the rest, which is never observed.
    """

    counts = True
    """Whether its data are counts, with a library size."""

    def __init__(self, n_hidden: int, n_genes: int, *, unobserved: bool = False) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.linear = nn.Linear(n_hidden, n_genes + unobserved)
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(n_genes))

    def proportions(self, hidden: Tensor, *, panel: bool) -> Tensor:
        """Return rho, `... gene`; with `panel` as shares of these genes alone (they sum to 1)."""
        logits = self.linear(hidden)
        if panel:
            return logits[..., : self.n_genes].softmax(-1)
        return logits.softmax(-1)[..., : self.n_genes]

    def mean(self, hidden: Tensor, library_size: Tensor, *, panel: bool = False) -> Tensor:
        """Return l rho + 1e-4, `... gene`, counts; `panel`: l counts these genes alone."""
        return library_size.unsqueeze(-1) * self.proportions(hidden, panel=panel) + 1e-4

    def log_prob(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | z), `particle cell`, nats."""
        mean = self.mean(hidden, batch.library_size)
        return negative_binomial.log_prob(batch.counts, mean, self.log_inverse_dispersion)

    def gamma_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the part of the count noise that does not depend on the mean, `*shape gene`."""
        return negative_binomial.gamma_noise(self.log_inverse_dispersion, shape, generator)

    def draw(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """Draw counts with a given mean, `... gene`."""
        noise = self.gamma_noise(tuple(mean.shape[:-1]), generator)
        return torch.poisson(mean * noise, generator=generator)
