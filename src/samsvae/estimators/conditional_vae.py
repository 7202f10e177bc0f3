"""The conditional VAE."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae.estimators.base import Estimator
from samsvae.model.encoder import Encoder
from samsvae.model.mechanism import Concatenate, Mechanism
from samsvae.settings.model import ConditionalVAESettings


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalVAE(ConditionalVAESettings, Estimator):
    """Conditional VAE: the decoder sees the state and what the cell received, side by side.

    z_i ~ N(0, I), x_i ~ p(x | f([z_i, d_i])), q(z_i) = N(f_enc([x_i, d_i])). Nothing is shared by
    cells but the networks' weights, so its effects have no posterior interval.

    Parameters
    ----------
    screen
        The screen, with a split; its training cells give the model its sizes and names.
    **hyperparameters
        n_latent, n_hidden, n_layers and others, as
        `samsvae.settings.model.ConditionalVAESettings` explains them.

    References
    ----------
    Sohn, Lee, Yan: Learning structured output representation using deep conditional generative
    models, NeurIPS 2015.
    """

    name = "conditional-vae"

    def _mechanism(self) -> Concatenate:
        return Concatenate(*self._sizes)

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=mechanism.n_context)
