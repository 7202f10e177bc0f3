"""SAMS-VAE."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae.estimators.additive import AdditiveEstimator
from samsvae.estimators.base import by_name
from samsvae.model.embedding import MaskedEmbedding
from samsvae.model.mask import MASKS, MaskPrior
from samsvae.model.mechanism import AdditiveShift
from samsvae.settings.model import SAMSVAESettings


@dataclass(kw_only=True, eq=False, repr=False)
class SAMSVAE(SAMSVAESettings, AdditiveEstimator):
    """Sparse Additive Mechanism Shift VAE: each perturbation shifts few latent dimensions.

    z_i = z_basal_i + sum_t d_it (e_t * m_t), e_t ~ N(0, s^2 I), m_t ~ Bernoulli(alpha), and
    x_ig ~ NegativeBinomial(mean l_i softmax(f(z_i))_g, inverse dispersion theta_g) (eq. 1).

    Parameters
    ----------
    screen
        The screen, with a split; its training cells give the model its sizes and names.
    **hyperparameters
        n_latent, n_hidden, mask, mask_prob, embedding_given_mask, basal_given_shift and others, as
        `samsvae.settings.model.SAMSVAESettings` explains them.

    References
    ----------
    Bereket, Karaletsos: Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder, NeurIPS 2023.
    """

    name = "sams-vae"

    def _mechanism(self) -> AdditiveShift:
        prior = MaskPrior(self.mask_prob, self.beta_a, self.beta_b)
        mask = by_name("mask", self.mask, MASKS)(*self._sizes, prior)
        embedding = self._free_embedding()
        if self.embedding_given_mask:
            embedding = MaskedEmbedding(
                *self._sizes,
                scale=self.embedding_scale,
                width=self.n_hidden_embedding,
                n_layers=self.n_layers_embedding,
            )
        return self._additive(mask, embedding)
