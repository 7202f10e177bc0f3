"""SVAE+."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae.data.encoding import Encoding, Joint
from samsvae.estimators.base import Estimator
from samsvae.model.embedding import PointEmbedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.mask import MaskPrior, PointBetaBernoulliMask
from samsvae.model.mechanism import AdditiveShift, Mechanism
from samsvae.settings.model import SVAEPlusSettings


@dataclass(kw_only=True, eq=False, repr=False)
class SVAEPlus(SVAEPlusSettings, Estimator):
    """SVAE+: each condition moves the prior of the state in few latent dimensions.

    z_i ~ N(m_t * mu_t, I), mu_t a learned point, m_tl ~ Bernoulli(p_tl), p_tl ~ Beta(a, b) with a
    point posterior, q(z_i) = N(f_enc(x_i)). Each combination is a perturbation t of its own; the
    state of control cells has mean 0.

    Parameters
    ----------
    screen
        The screen, with a split; its training cells give the model its sizes and names.
    **hyperparameters
        n_latent, n_hidden, beta_a, beta_b, unseen_as_control and others, as
        `samsvae.settings.model.SVAEPlusSettings` explains them.

    References
    ----------
    Lopez et al.: Learning causal representations of single cells via sparse mechanism shift
    modeling, CLeaR 2023; in the form of Bereket, Karaletsos, NeurIPS 2023.
    """

    name = "svae-plus"

    def _encoding(self) -> Encoding:
        conditions = self.facts.conditions[1:]
        return Joint(self.facts.vocabulary, conditions, unseen_as_control=self.unseen_as_control)

    def _mechanism(self) -> AdditiveShift:
        prior = MaskPrior(a=self.beta_a, b=self.beta_b)
        mask = PointBetaBernoulliMask(*self._sizes, prior)
        return AdditiveShift(mask, PointEmbedding(*self._sizes))

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=0, kind=StateEncoder)
