"""The one model: a mechanism, an encoder, a decoder and a likelihood."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import Likelihood
from samsvae.model.mechanism import AdditiveShift, Mechanism, every_pattern
from samsvae.model.networks import MLP
from samsvae.types import Batch, Branches, Context, LogWeights, Shifts


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
        own = ("basal",) if self.mechanism.responders is None else ("basal", "response")
        return (*own, *self.mechanism.variables)

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
        if self.mechanism.responders is not None:
            return self._summed(
                self.branches(batch, shifts, noise, closed_form=closed_form), shifts
            )
        context = self.mechanism.context(batch.dosage, shifts)
        cells = self.given(context, batch, noise, closed_form=closed_form)
        return LogWeights(*cells, shifts.log_ratios)

    def branches(
        self, batch: Batch, shifts: Shifts, noise: Tensor, *, closed_form: bool = False
    ) -> Branches:
        """Return the terms of cells for each set of perturbations that may be what acts in them.

        All branches share the basal noise, so that they differ by what acts alone. Takes what
        `forward` does.
        """
        dosage, responders = batch.dosage, self.mechanism.responders
        assert responders is not None
        n_cells, n_slots = dosage.dose.shape
        acting = every_pattern(n_slots, dosage.dose)
        contexts = [
            self.mechanism.context(dosage._replace(acting=w.expand(n_cells, -1)), shifts)
            for w in acting
        ]
        # One draw of the shifts may serve all particles: every branch has as many.
        context = torch.cat(
            [c.expand(len(noise), -1, -1) for c in contexts if isinstance(c, Tensor)]
        )
        both = self.given(context, batch, noise.repeat(len(acting), 1, 1), closed_form=closed_form)
        likelihood, basal = (values.unflatten(0, (len(acting), -1)) for values in both)
        return Branches(acting, likelihood, basal, responders.log_prior(dosage, acting))

    @staticmethod
    def _summed(branches: Branches, shifts: Shifts) -> LogWeights:
        """Return the terms of cells with their branches summed, as expectations over q(w).

        log sum_w p(w) p(x, z_w) / q(z_w) is the sum of three terms, each a mean over the branches
        with weight q(w) in proportion to what is summed: likelihood, basal, log p(w) - log q(w).
        With KL terms in closed form it is the ELBO whose q(w) sees the very draw of the state: a
        little too high, by how much the branches' difference varies between draws.
        """
        log_prior = branches.log_prior.unsqueeze(1)
        joint = branches.likelihood + branches.basal + log_prior
        log_q = joint.log_softmax(0)
        q = log_q.exp()
        return LogWeights(
            (q * branches.likelihood).sum(0),
            (q * branches.basal).sum(0),
            shifts.log_ratios,
            (q * (log_prior - log_q)).sum(0),
        )

    def responding(self, batch: Batch, shifts: Shifts, noise: Tensor) -> Tensor:
        """Return the probability that each perturbation of a cell acts in it, `cell slot`.

        The mean over particles of the branches' ELBO decides.
        """
        branches = self.branches(batch, shifts, noise, closed_form=True)
        joint = (branches.likelihood + branches.basal).mean(1) + branches.log_prior
        return joint.softmax(0).T @ branches.acting

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
