"""The members of the family: each a declaration of hyperparameters and parts."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd
import torch

from samsvae import saving
from samsvae.data.encoding import Encoding, Joint
from samsvae.errors import check_range
from samsvae.estimator import Estimator, by_name
from samsvae.evaluation.latent import BasalPosterior
from samsvae.model.dose import HillResponse
from samsvae.model.embedding import Embedding, FreeEmbedding, MaskedEmbedding, PointEmbedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.mask import MASKS, FullMask, Mask, MaskPrior, PointBetaBernoulliMask
from samsvae.model.mechanism import AdditiveShift, Concatenate, Mechanism
from samsvae.train.settings import resolve_device


@dataclass(kw_only=True, eq=False, repr=False)
class AdditiveEstimator(Estimator):
    """What the models share that add up shifts with a prior.

    Parameters
    ----------
    embedding_scale
        Prior standard deviation s of an embedding.
    basal_given_shift
        The posterior of a basal state sees the cell's shift, q(z_basal | x, shift) ("correlated
        z_basal"); False: it sees the counts alone.
    saturating_dose
        Displacements follow a Hill curve of the dose, learned per perturbation, instead of growing
        in proportion to it.
    """

    embedding_scale: float = 1.0
    basal_given_shift: bool = True
    saturating_dose: bool = False

    def _additive(self, mask: Mask, embedding: Embedding) -> AdditiveShift:
        response = None
        if self.saturating_dose:
            response = HillResponse(torch.from_numpy(self.facts.median_dose).float())
        return AdditiveShift(mask, embedding, response=response)

    def _free_embedding(self) -> Embedding:
        check_range("embedding_scale", self.embedding_scale, low=0, high=float("inf"), open_=True)
        return FreeEmbedding(*self._sizes, scale=self.embedding_scale)

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=mechanism.n_context if self.basal_given_shift else 0)


@dataclass(kw_only=True, eq=False, repr=False)
class SAMSVAE(AdditiveEstimator):
    """Sparse Additive Mechanism Shift VAE: each perturbation shifts few latent dimensions.

    z_i = z_basal_i + sum_t d_it (e_t * m_t), e_t ~ N(0, s^2 I), m_t ~ Bernoulli(alpha), and
    x_ig ~ NegativeBinomial(mean l_i softmax(f(z_i))_g, inverse dispersion theta_g) (eq. 1).

    Parameters
    ----------
    mask
        Prior and posterior of the mask. "bernoulli": m ~ Bernoulli(mask_prob);
        "beta_bernoulli": m ~ Bernoulli(p), p ~ Beta(beta_a, beta_b), the posterior of each p a
        Beta; "beta_bernoulli_point": the same prior, each p a learned point.
    mask_prob
        Prior probability alpha that a perturbation shifts a latent dimension: the smaller, the
        fewer dimensions it shifts.
    beta_a
        First parameter of the Beta prior of that probability.
    beta_b
        Second parameter of the Beta prior: the larger, the sparser the mask.
    embedding_given_mask
        The posterior of an embedding sees its mask, q(e_t | m_t) ("correlated E"); False: free
        parameters per perturbation. With `basal_given_shift` False too: mean field.
    n_hidden_embedding
        Width of the network of q(e_t | m_t).
    n_layers_embedding
        Its hidden layers, at least 1.

    References
    ----------
    Bereket, Karaletsos: Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder, NeurIPS 2023.
    """

    name = "sams-vae"

    mask: str = "bernoulli"
    mask_prob: float = 0.01
    beta_a: float = 1.0
    beta_b: float = 2.0
    embedding_given_mask: bool = True
    n_hidden_embedding: int = 200
    n_layers_embedding: int = 2

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


@dataclass(kw_only=True, eq=False, repr=False)
class CPAVAE(AdditiveEstimator):
    """CPA-VAE: SAMS-VAE with a mask of ones, every perturbation shifts every latent dimension.

    z_i = z_basal_i + sum_t d_it e_t, e_t ~ N(0, s^2 I): the generative counterpart of the
    compositional perturbation autoencoder.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023 (its baseline); Lotfollahi et al.: Predicting cellular
    responses to complex perturbations in high-throughput screens, Mol. Syst. Biol. 2023.
    """

    name = "cpa-vae"

    def _mechanism(self) -> AdditiveShift:
        return self._additive(FullMask(*self._sizes), self._free_embedding())


@dataclass(kw_only=True, eq=False, repr=False)
class SVAEPlus(Estimator):
    """SVAE+: each condition moves the prior of the state in few latent dimensions.

    z_i ~ N(m_t * mu_t, I), mu_t a learned point, m_tl ~ Bernoulli(p_tl), p_tl ~ Beta(a, b) with a
    point posterior, q(z_i) = N(f_enc(x_i)). Each combination is a perturbation t of its own; the
    state of control cells has mean 0.

    Parameters
    ----------
    beta_a
        First parameter of the Beta prior of the mask's probability.
    beta_b
        Second parameter of the Beta prior: the larger, the sparser the mask.
    unseen_as_control
        Answer for a combination that was never seen in training as for control; it is an error
        otherwise.

    References
    ----------
    Lopez et al.: Learning causal representations of single cells via sparse mechanism shift
    modeling, CLeaR 2023; in the form of Bereket, Karaletsos, NeurIPS 2023.
    """

    name = "svae-plus"

    beta_a: float = 1.0
    beta_b: float = 2.0
    unseen_as_control: bool = False

    def _encoding(self) -> Encoding:
        conditions = self.facts.conditions[1:]
        return Joint(self.facts.vocabulary, conditions, unseen_as_control=self.unseen_as_control)

    def _mechanism(self) -> AdditiveShift:
        prior = MaskPrior(a=self.beta_a, b=self.beta_b)
        mask = PointBetaBernoulliMask(*self._sizes, prior)
        return AdditiveShift(mask, PointEmbedding(*self._sizes))

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=0, kind=StateEncoder)


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalVAE(Estimator):
    """Conditional VAE: the decoder sees the state and what the cell received, side by side.

    z_i ~ N(0, I), x_i ~ p(x | f([z_i, d_i])), q(z_i) = N(f_enc([x_i, d_i])). Nothing is shared by
    cells but the networks' weights, so its effects have no posterior interval.

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


ESTIMATORS: list[type[Estimator]] = [SAMSVAE, CPAVAE, SVAEPlus, ConditionalVAE]
"""The members of the family."""


def estimator(*, model: str = "sams-vae") -> type[Estimator]:
    """Return a member of the family.

    Parameters
    ----------
    model
        "sams-vae", "cpa-vae", "svae-plus" or "conditional-vae".

    Raises
    ------
    InputError
        If there is no such model.
    """
    return by_name("model", model, ESTIMATORS)


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
    saved, resolved = saving.read(folder), resolve_device(device)
    names = saved.names
    model = estimator(model=names["estimator"])(saved.facts, **names["hyperparameters"])
    model.module.load_state_dict(saved.state)
    model.module.to(resolved)
    model.control_basal = BasalPosterior(*(x.to(resolved) for x in saved.control_basal))
    model.history = pd.DataFrame(names["history"])
    model.is_trained = True
    return model
