"""Responders: the cells in which a perturbation that they received acts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samsvae.types import Dosage

MOST = 3
"""Perturbations of a cell: 2^n branches are summed, each as dear as a model without."""
_START = 1.5
"""Log odds that training starts from: most cells respond until effects tell them apart."""


class Responders(nn.Module):
    """w_ij ~ Bernoulli(pi_r): whether perturbation j acts in cell i, which reagent r gave it.

    w multiplies the dose (eq. 1 of the paper). pi_r ~ Beta(1, 1) is a point while the networks are
    trained (the density of its prior is constant, so it pays nothing), and gets its posterior in
    closed form when they are. The posterior of w is exact given the states of its branches, see
    `PerturbationVAE.branches`.

    Parameters
    ----------
    n_reagents
        Perturbations (for cells whose sgRNA is not known), and then sgRNAs of a perturbation.
    """

    def __init__(self, n_reagents: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((n_reagents,), _START))

    def probability(self) -> Tensor:
        """Return pi, `reagent`."""
        return self.logits.sigmoid()

    def reagent(self, dosage: Dosage) -> Tensor:
        """Return what gave each perturbation, `cell slot`."""
        if dosage.reagent is None:
            return dosage.perturbations[dosage.position]
        return dosage.reagent

    def log_prior(self, dosage: Dosage, acting: Tensor) -> Tensor:
        """Return log p(w | pi) of some w, `branch cell`.

        Parameters
        ----------
        dosage
            Of the cells.
        acting
            w in {0, 1}, `branch slot`. In an empty slot both are alike.
        """
        logits = self.logits[self.reagent(dosage)]
        sign = 2 * acting.unsqueeze(1) - 1
        # An empty slot has no reagent: none is to get a gradient from it, not even from rounding.
        logits = torch.where(dosage.dose != 0, logits, torch.zeros_like(logits))
        return F.logsigmoid(sign * logits).sum(-1)


def every_pattern(n_slots: int, like: Tensor) -> Tensor:
    """Return all w in {0, 1}^n, `branch slot`; the first is 0 in all slots, the last 1.

    >>> every_pattern(2, torch.zeros(1)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    branch = torch.arange(2**n_slots, device=like.device).unsqueeze(1)
    slot = torch.arange(n_slots, device=like.device)
    return (branch.bitwise_right_shift(slot) & 1).to(like.dtype)
