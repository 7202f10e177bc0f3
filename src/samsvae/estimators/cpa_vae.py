"""CPA-VAE."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae.estimators.additive import AdditiveEstimator
from samsvae.model.mask import FullMask
from samsvae.model.mechanism import AdditiveShift
from samsvae.settings.model import CPAVAESettings


@dataclass(kw_only=True, eq=False, repr=False)
class CPAVAE(CPAVAESettings, AdditiveEstimator):
    """CPA-VAE: SAMS-VAE with a mask of ones, every perturbation shifts every latent dimension.

    z_i = z_basal_i + sum_t d_it e_t, e_t ~ N(0, s^2 I): the generative counterpart of the
    compositional perturbation autoencoder.

    Parameters
    ----------
    screen
        The screen, with a split; its training cells give the model its sizes and names.
    **hyperparameters
        n_latent, n_hidden, embedding_scale, basal_given_shift and others, as
        `samsvae.settings.model.CPAVAESettings` explains them.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023 (its baseline); Lotfollahi et al.: Predicting cellular
    responses to complex perturbations in high-throughput screens, Mol. Syst. Biol. 2023.
    """

    name = "cpa-vae"

    def _mechanism(self) -> AdditiveShift:
        return self._additive(FullMask(*self._sizes), self._free_embedding())
