"""The one model: a mechanism, an encoder, a decoder and a likelihood."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import Likelihood
from samsvae.model.mechanism import AdditiveShift, Mechanism
from samsvae.model.networks import MLP
from samsvae.types import Batch, Context, LogWeights, Shifts


class PerturbationVAE(nn.Module):
    """z_i = z_basal_i shifted by what the cell received; x_i ~ p(x | decoder(z_i))."""

    def __init__(
        self,
        mechanism: Mechanism,
        encoder: Encoder,
        decoder: MLP,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    @property
    def variables(self) -> tuple[str, ...]:
        """The latent variables, by the names under which the objective weighs their KL terms."""
        return ("basal", *self.mechanism.cell_variables, *self.mechanism.variables)

    def not_finite(self) -> list[str]:
        """Return the names of parameters and buffers that hold values that are not finite."""
        state = self.state_dict()
        return [name for name, value in state.items() if not bool(value.isfinite().all())]

    def forward(
        self, batch: Batch, shifts: Shifts, noise: Tensor, *, closed_form: bool = False
    ) -> LogWeights:
        """Return the terms of the objective for given shifts and basal noise.

        The caller decides which cells share the shifts, those of `batch.dosage.columns`.
        `closed_form` uses the KL of the basal state instead of its draws' log ratio.
        """
        terms = partial(self.cell_terms, closed_form=closed_form)
        return self.mechanism.log_weights(terms, batch, shifts, noise)

    def cell_terms(
        self, context: Context, batch: Batch, noise: Tensor, *, closed_form: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x | z) and the basal log ratio of cells in a context, `particle cell`."""
        basal = self.encoder.draw(batch, context, noise, closed_form=closed_form)
        hidden = self._decoded(basal.value, context, batch)
        return self.likelihood.log_prob(hidden, batch), basal.log_ratio

    def posterior(self, batch: Batch, shifts: Shifts) -> Normal:
        """Return q(z_basal | x, ...) of cells, `[particle] cell latent`."""
        return self.encoder.posterior(batch, self.mechanism.context(batch, shifts))

    def hidden(self, batch: Batch, shifts: Shifts, basal: Tensor) -> Tensor:
        """Return the decoder's last layer, `... hidden`, given basal states and any counts."""
        return self._decoded(basal, self.mechanism.context(batch, shifts), batch)

    def _decoded(self, basal: Tensor, context: Context, batch: Batch) -> Tensor:
        hidden: Tensor = self.decoder(*self.mechanism.apply_to(basal, context), batch.covariates)
        return hidden

    def with_responses(
        self, batch: Batch, shifts: Shifts, noise: torch.Generator | Tensor
    ) -> Batch:
        """Return cells with the posterior probability that what they received acts in them."""
        terms = partial(self.cell_terms, closed_form=True)

        def drawn() -> Tensor:
            if isinstance(noise, Tensor):
                return noise
            return self.encoder.noise(len(batch.counts), len(shifts.value), noise)

        return self.mechanism.with_responses(terms, batch, shifts, drawn)

    def rotate(self, matrix: Tensor) -> None:
        """Rotate latent space: z Q in place of z, in every linear map that touches it.

        Only posteriors that are diagonal, and sparse priors, depend on the axes.
        """
        self._additive.rotate(matrix)
        self.encoder.rotate(matrix)
        self.decoder.first.rotate(0, matrix)

    def translate(self, offset: Tensor) -> None:
        """Translate latent space by c, `latent`: shifts lose c, and the decoder adds it again.

        Cells that received one perturbation, at dose 1, are as likely as before; control comes to
        lie where a perturbation with the shift c lay.
        """
        self._additive.translate(offset)
        self.encoder.translate(offset)
        self.decoder.first.translate(0, offset)

    @property
    def _additive(self) -> AdditiveShift:
        additive = self.mechanism.additive
        assert additive is not None
        return additive
