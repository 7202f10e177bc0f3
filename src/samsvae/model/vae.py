"""The one model: a mechanism, an encoder, a decoder and a likelihood."""

from __future__ import annotations

from torch import Tensor, nn

from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import Likelihood
from samsvae.model.mechanism import Mechanism
from samsvae.model.networks import MLP
from samsvae.types import Batch, Context, LogWeights, Shifts


class PerturbationVAE(nn.Module):
    """z_i = z_basal_i shifted by what the cell received; x_i ~ p(x | decoder(z_i)).

    Nothing here knows which member of the family it is: the members differ in their parts.
    """

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
        """The latent variables, by the names under which the objective pays for them."""
        return ("basal", *self.mechanism.variables)

    def forward(
        self, batch: Batch, shifts: Shifts, noise: Tensor, *, closed_form: bool = False
    ) -> LogWeights:
        """Return the terms of the objective for given shifts and basal noise.

        Parameters
        ----------
        batch
            The cells.
        shifts
            Of `batch.dosage.perturbations`; drawn by the caller, who decides who shares them.
        noise
            `particle cell latent`, from `encoder.noise`.
        closed_form
            Take the KL of the basal state in closed form, instead of its draws' log ratio.
        """
        context = self.mechanism.context(batch.dosage, shifts)
        basal = self.encoder.draw(batch, context, noise, closed_form=closed_form)
        hidden = self.decoded(basal.value, context, batch.covariates)
        return LogWeights(
            self.likelihood.log_prob(hidden, batch), basal.log_ratio, shifts.log_ratios
        )

    def decoded(self, basal: Tensor, context: Context, covariates: Tensor) -> Tensor:
        """Return the decoder's last hidden layer, `... hidden`, of basal states in a context."""
        hidden: Tensor = self.decoder(*self.mechanism.apply_to(basal, context), covariates)
        return hidden
