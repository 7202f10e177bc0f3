"""The one model: a mechanism, an encoder, a decoder and a likelihood."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn

from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import Likelihood
from samsvae.model.mechanism import AdditiveShift, Mechanism
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

    def not_finite(self) -> list[str]:
        """Return the names of parameters and buffers that hold what is not a finite number."""
        state = self.state_dict()
        return [name for name, value in state.items() if not bool(value.isfinite().all())]

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
        cells = self.given(context, batch, noise, closed_form=closed_form)
        return LogWeights(*cells, shifts.log_ratios)

    def given(
        self, context: Context, batch: Batch, noise: Tensor, *, closed_form: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the likelihood and the basal log ratio of cells in a context, `particle cell`."""
        basal = self.encoder.draw(batch, context, noise, closed_form=closed_form)
        hidden = self.decoded(basal.value, context, batch.covariates)
        return self.likelihood.log_prob(hidden, batch), basal.log_ratio

    def decoded(self, basal: Tensor, context: Context, covariates: Tensor) -> Tensor:
        """Return the decoder's last hidden layer, `... hidden`, of basal states in a context."""
        hidden: Tensor = self.decoder(*self.mechanism.apply_to(basal, context), covariates)
        return hidden

    def rotate(self, matrix: Tensor) -> None:
        """Rotate latent space: z Q in place of z, in every linear map that touches it.

        N(0, I) is the same in all axes, so the prior of basal states and the likelihood of a cell
        stay what they are; only posteriors that are diagonal, and sparse priors, see the axes.
        How a diagonal variance is mapped, each part says.

        Parameters
        ----------
        matrix
            Q, `latent latent`, orthogonal.
        """
        self._additive.rotate(matrix)
        self.encoder.rotate(matrix)
        self.decoder.first.rotate(0, matrix)

    def move(self, offset: Tensor) -> None:
        """Move the origin of latent space: shifts lose an offset, and the decoder adds it again.

        Cells that received one perturbation, at dose 1, are as likely as before. Control, which
        has no shift, comes to lie where a perturbation with that very shift lay; a combination of
        n comes n - 1 offsets away from where it lay.

        Parameters
        ----------
        offset
            c, `latent`.
        """
        self._additive.move(offset)
        self.encoder.move(offset)
        self.decoder.first.move(0, offset)

    @property
    def _additive(self) -> AdditiveShift:
        assert isinstance(self.mechanism, AdditiveShift)
        return self.mechanism


def rotated(model: PerturbationVAE, matrix: Tensor) -> PerturbationVAE:
    """Return a copy of a model whose latent space is rotated, see `PerturbationVAE.rotate`."""
    turned = deepcopy(model)
    turned.rotate(matrix)
    return turned
