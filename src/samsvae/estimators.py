"""The members of the family: each a declaration of hyperparameters and parts."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd

from samsvae import saving
from samsvae.errors import check_range, unknown
from samsvae.estimator import Estimator
from samsvae.model.embedding import FreeEmbedding, GaussianEmbedding, MaskedEmbedding
from samsvae.model.mask import BernoulliMask
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.train.settings import resolve_device


@dataclass(kw_only=True, eq=False, repr=False)
class SAMSVAE(Estimator):
    """Sparse Additive Mechanism Shift VAE: each perturbation shifts few latent dimensions.

    z_i = z_basal_i + sum_t d_it (e_t * m_t), e_t ~ N(0, s^2 I), m_t ~ Bernoulli(alpha), and
    x_ig ~ NegativeBinomial(mean l_i softmax(f(z_i))_g, inverse dispersion theta_g) (eq. 1).

    Parameters
    ----------
    mask_prob
        Prior probability alpha that a perturbation shifts a latent dimension: the smaller, the
        fewer dimensions it shifts.
    embedding_scale
        Prior standard deviation s of an embedding.
    embedding_given_mask
        The posterior of an embedding sees its mask, q(e_t | m_t) ("correlated E"); False: free
        parameters per perturbation.
    basal_given_shift
        The posterior of a basal state sees the cell's shift, q(z_basal | x, shift) ("correlated
        z_basal"); False: it sees the counts alone. Both False: mean field.
    n_hidden_embedding
        Width of the network of q(e_t | m_t).
    n_layers_embedding
        Its hidden layers, at least 1.

    References
    ----------
    Bereket, Karaletsos: Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder, NeurIPS 2023.
    """

    mask_prob: float = 0.01
    embedding_scale: float = 1.0
    embedding_given_mask: bool = True
    basal_given_shift: bool = True
    n_hidden_embedding: int = 200
    n_layers_embedding: int = 2

    def _parts(self) -> PerturbationVAE:
        check_range("mask_prob", self.mask_prob, low=0, high=1, open_=True)
        check_range("embedding_scale", self.embedding_scale, low=0, high=float("inf"), open_=True)
        n_perturbations = len(self.facts.vocabulary.perturbations)
        embedding: GaussianEmbedding
        if self.embedding_given_mask:
            embedding = MaskedEmbedding(
                n_perturbations,
                self.n_latent,
                scale=self.embedding_scale,
                width=self.n_hidden_embedding,
                n_layers=self.n_layers_embedding,
            )
        else:
            embedding = FreeEmbedding(n_perturbations, self.n_latent, scale=self.embedding_scale)
        mask = BernoulliMask(n_perturbations, self.n_latent, prob=self.mask_prob)
        mechanism = AdditiveShift(mask, embedding)
        return PerturbationVAE(
            mechanism,
            self._encoder(n_context=mechanism.n_context if self.basal_given_shift else 0),
            self._decoder(n_state=mechanism.n_state),
            self._likelihood(),
        )


ESTIMATORS: dict[str, type[Estimator]] = {"SAMSVAE": SAMSVAE}
"""By the name they are saved under."""


def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> Estimator:
    """Load a model that `save` wrote; it needs no data to answer.

    Parameters
    ----------
    folder
        Where it was saved: a run directory, say.
    device
        Any device, whatever the model was trained on; "auto" takes a GPU where there is one.

    Raises
    ------
    InputError
        If the files are missing, truncated, of a newer schema or do not belong together.
    """
    names, facts, state = saving.read(folder)
    if names["estimator"] not in ESTIMATORS:
        raise unknown("model", names["estimator"], list(ESTIMATORS))
    model = ESTIMATORS[names["estimator"]](facts, **names["hyperparameters"])
    model.module.load_state_dict(state)
    model.module.to(resolve_device(device))
    model.history = pd.DataFrame(names["history"])
    model.is_trained = True
    return model
