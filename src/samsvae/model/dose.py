"""How a displacement grows with the dose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samsvae.types import Dosage


class HillResponse(nn.Module):
    """d^h / (k^h + d^h), learned per perturbation: grows with the dose and saturates at 1.

    k is the dose of half the full displacement, h the slope (the Hill coefficient); both are
    learned by their logarithms. With it an embedding is the displacement at saturation.

    Parameters
    ----------
    half_dose
        Where k starts, `perturbation`, in the units of the dose; h starts at 1.

    References
    ----------
    Hill: The possible effects of the aggregation of the molecules of haemoglobin on its
    dissociation curves, J. Physiol. 40, 1910.
    """

    def __init__(self, half_dose: Tensor) -> None:
        super().__init__()
        self.log_half_dose = nn.Parameter(half_dose.log())
        self.log_slope = nn.Parameter(torch.zeros_like(half_dose))

    def forward(self, dosage: Dosage) -> Tensor:
        """Return the response, `cell slot`, between 0 and 1; exactly 0 at dose 0."""
        received = dosage.dose != 0
        log_dose = torch.where(received, dosage.dose, 1.0).log()
        which = dosage.perturbations[dosage.position]
        slope = self.log_slope[which].exp()
        response = (slope * (log_dose - self.log_half_dose[which])).sigmoid()
        return torch.where(received, response, 0.0)
