"""The members of the family: SAMS-VAE, CPA-VAE, SVAE+ and the conditional VAE."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samsvae._deprecated import takes_former_settings
from samsvae.data.names import Encoding, Extended, Joint
from samsvae.errors import InputError
from samsvae.estimators import saving
from samsvae.estimators.base import Estimator, by_name
from samsvae.estimators.trained import check_slots
from samsvae.inference.latent import BasalPosterior
from samsvae.model.embedding import Embedding, FreeEmbedding, MaskedEmbedding, PointEmbedding
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.mask import MASKS, FullMask, Mask, MaskPrior, PointBetaBernoulliMask
from samsvae.model.mechanism import (
    AdditiveShift,
    Concatenate,
    HillCurve,
    Mechanism,
    Responding,
)
from samsvae.ops.device import resolve_device
from samsvae.settings.arguments import checked
from samsvae.settings.model import (
    ConditionalVAESettings,
    CPAVAESettings,
    SAMSVAESettings,
    ShiftSettings,
    SVAEPlusSettings,
)


@dataclass(kw_only=True, eq=False, repr=False)
class AdditiveEstimator(ShiftSettings, Estimator):
    """A model whose perturbations add up to a shift of the state, each with a prior."""

    def _encoding(self) -> Encoding:
        metadata = self.metadata
        registry = metadata.registry
        if len(registry.contexts) < 2 and not self.learn_interactions:
            return super()._encoding()
        pairs = metadata.pairs if self.learn_interactions else None
        cells = metadata.cells_per_context
        return Extended(registry, metadata.median_dose, cells=cells, pairs=pairs)

    def _additive(self, mask: Mask, embedding: Embedding) -> Mechanism:
        curve = HillCurve(len(self.encoding.columns)) if self.saturating_dose else None
        shift = AdditiveShift(mask, embedding, dose_response=curve)
        if not self.learn_responders:
            return shift
        if self._kinds is not None:
            raise InputError(
                "learn_responders=True goes neither with contexts nor with interactions: whether a "
                "deviation acts in a cell is no choice of its own; leave context_key and "
                "learn_interactions out, or take learn_responders=False"
            )
        metadata = self.metadata
        parser = metadata.registry.parser
        check_slots(max(len(parser.parts(name)) for name in metadata.conditions))
        return Responding(shift, len(self.encoding.columns) + len(metadata.sgrnas))

    def _free_embedding(self) -> Embedding:
        return FreeEmbedding(*self._sizes, scale=self.embedding_scale, kinds=self._kinds)

    @property
    def _kinds(self) -> torch.Tensor | None:
        kinds = self.encoding.kinds
        return None if kinds is None else torch.from_numpy(kinds)

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=mechanism.n_context if self.basal_given_shift else 0)


@takes_former_settings
@dataclass(kw_only=True, eq=False, repr=False)
class SAMSVAE(SAMSVAESettings, AdditiveEstimator):
    """Sparse Additive Mechanism Shift VAE: each perturbation shifts few latent dimensions.

    z_i = z_basal_i + sum_t d_it (e_t * m_t), e_t ~ N(0, s^2 I), m_t ~ Bernoulli(alpha), and
    x_ig ~ NegativeBinomial(mean l_i softmax(f(z_i))_g, inverse dispersion theta_g) (eq. 1).

    The screen has a split: its training cells give the model its sizes and names. Hyperparameters
    are explained by `samsvae.settings.model.SAMSVAESettings`.

    References
    ----------
    Bereket, Karaletsos: Modelling cellular perturbations with the sparse additive mechanism shift
    variational autoencoder, NeurIPS 2023.
    """

    name = "sams-vae"

    def _mechanism(self) -> Mechanism:
        prior = MaskPrior(self.mask_prob, self.beta_a, self.beta_b, self._kinds)
        mask = by_name("mask", self.mask, MASKS)(*self._sizes, prior)
        embedding = self._free_embedding()
        if self.embedding_given_mask:
            embedding = MaskedEmbedding(
                *self._sizes,
                scale=self.embedding_scale,
                width=self.n_hidden_embedding,
                n_layers=self.n_layers_embedding,
                kinds=self._kinds,
            )
        return self._additive(mask, embedding)


@takes_former_settings
@dataclass(kw_only=True, eq=False, repr=False)
class CPAVAE(CPAVAESettings, AdditiveEstimator):
    """CPA-VAE: SAMS-VAE with a mask of ones, every perturbation shifts every latent dimension.

    z_i = z_basal_i + sum_t d_it e_t, e_t ~ N(0, s^2 I): the generative counterpart of the
    compositional perturbation autoencoder.

    The screen has a split: its training cells give the model its sizes and names. Hyperparameters
    are explained by `samsvae.settings.model.CPAVAESettings`.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023 (its baseline); Lotfollahi et al.: Predicting cellular
    responses to complex perturbations in high-throughput screens, Mol. Syst. Biol. 2023.
    """

    name = "cpa-vae"

    def _mechanism(self) -> Mechanism:
        return self._additive(FullMask(*self._sizes), self._free_embedding())


@dataclass(kw_only=True, eq=False, repr=False)
class SVAEPlus(SVAEPlusSettings, Estimator):
    """SVAE+: each condition moves the prior of the state in few latent dimensions.

    z_i ~ N(m_t * mu_t, I), mu_t a learned point, m_tl ~ Bernoulli(p_tl), p_tl ~ Beta(a, b) with a
    point posterior, q(z_i) = N(f_enc(x_i)). Each combination is a perturbation t of its own; the
    state of control cells has mean 0.

    The screen has a split: its training cells give the model its sizes and names. Hyperparameters
    are explained by `samsvae.settings.model.SVAEPlusSettings`.

    References
    ----------
    Lopez et al.: Learning causal representations of single cells via sparse mechanism shift
    modeling, CLeaR 2023; in the form of Bereket, Karaletsos, NeurIPS 2023.
    """

    name = "svae-plus"

    def _encoding(self) -> Encoding:
        return Joint(
            self.metadata.registry,
            self.metadata.median_dose,
            self.metadata.conditions[1:],
            unseen_as_control=self.unseen_as_control,
        )

    def _mechanism(self) -> AdditiveShift:
        prior = MaskPrior(a=self.beta_a, b=self.beta_b)
        mask = PointBetaBernoulliMask(*self._sizes, prior)
        return AdditiveShift(mask, PointEmbedding(*self._sizes))

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=0, kind=StateEncoder)


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalVAE(ConditionalVAESettings, Estimator):
    """Conditional VAE: the decoder sees the state and what the cell received, side by side.

    z_i ~ N(0, I), x_i ~ p(x | f([z_i, d_i])), q(z_i) = N(f_enc([x_i, d_i])). Nothing is shared by
    cells but the networks' weights, so its effects have no posterior interval.

    The screen has a split: its training cells give the model its sizes and names. Hyperparameters
    are explained by `samsvae.settings.model.ConditionalVAESettings`.

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


def estimator(name: str) -> type[Estimator]:
    """Return a member of the family by its name, such as "sams-vae"; raise if there is none."""
    return by_name("model", name, ESTIMATORS)


@checked
def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> Estimator:
    """Load a model that `save` wrote; it needs no data to answer.

    Parameters
    ----------
    folder
        Where it was saved, such as a run directory.
    device
        Any device, whatever the model was trained on; "auto" takes a GPU where there is one.

    Raises
    ------
    InputError
        If the files are missing, truncated, of a newer schema or do not belong together.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder)
    ...     again = load(folder)
    >>> bool((again.embeddings() == model.embeddings()).all(axis=None))
    True
    """
    saved, resolved = saving.read(folder), resolve_device(device)
    with saving.of_file(Path(folder) / saving.NAMES):
        saving.check_conditions(saved.metadata.conditions, saved.metadata.registry)
        kind = estimator(saved.estimator)
        hints = {
            field.name: get_type_hints(kind, include_extras=True)[field.name]
            for field in fields(kind)
        }
        saving.check_hyperparameters(saved.hyperparameters, hints)
        with torch.device("meta"):  # takes no memory, whatever the sizes
            outline = kind(saved.metadata, **saved.hyperparameters)
        saving.check_state(outline.module, saved.state)
        n_covariates = saved.metadata.registry.n_covariates
        saving.check_control(saved.control_basal._asdict(), outline.n_latent, n_covariates)
    model = kind(saved.metadata, **saved.hyperparameters)
    model.module.load_state_dict(saved.state)
    model.module.to(resolved)
    model.control_basal = BasalPosterior(
        **{name: value.to(resolved) for name, value in saved.control_basal._asdict().items()}
    )
    model.history = pd.DataFrame(saved.history)
    model.is_trained = True
    with saving.of_file(Path(folder) / saving.TENSORS):
        _check_answers(model)
    return model


def _check_answers(model: Estimator) -> None:
    """Raise if control cells cannot be drawn: parameters may be numbers, and lead to none."""
    try:
        drawn = model.simulate([model.metadata.conditions[0]], n_cells=4)
    except RuntimeError as error:  # of torch's sampler
        raise InputError(f"its parameters lead to no counts ({error})") from error
    values = drawn.X.data if sp.issparse(drawn.X) else drawn.X
    if not np.isfinite(values).all():
        raise InputError("its parameters lead to values that are not finite")
