"""Hyperparameters, each defined once; every model has those that make sense for it."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae.settings.arguments import Count, Positive, Probability


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which member of the family.

    Parameters
    ----------
    model
        "sams-vae", "cpa-vae", "svae-plus" or "conditional-vae".
    """

    model: str = "sams-vae"


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkSettings:
    """Sizes of the networks, and the likelihood.

    Parameters
    ----------
    n_latent
        Latent dimensions L.
    n_hidden
        Width of the hidden layers of encoder and decoder.
    n_layers
        Hidden layers of encoder and decoder, at least 1.
    n_hidden_decoder
        Width of the decoder's hidden layers, if it is to differ.
    n_layers_decoder
        Hidden layers of the decoder, if they are to differ.
    likelihood
        "negative_binomial" (counts, with library size), "poisson" (counts, without) or "gaussian"
        (real values, such as imaging features or normalised data).
    """

    n_latent: Count = 100
    n_hidden: Count = 400
    n_layers: Count = 1
    n_hidden_decoder: Count | None = None
    n_layers_decoder: Count | None = None
    likelihood: str = "negative_binomial"


@dataclass(kw_only=True, eq=False, repr=False)
class ShiftSettings:
    """Shifts that add up and have a prior.

    Parameters
    ----------
    embedding_scale
        Prior standard deviation s of an embedding.
    basal_given_shift
        The posterior of a basal state sees the cell's shift, q(z_basal | x, shift) ("correlated
        z_basal"); False: it sees the counts alone.
    saturating_dose
        Displacements follow a Hill curve of the dose, learned per column of dosage, instead of
        growing in proportion to it.
    learn_responders
        Learn in which cells perturbations act, for each sgRNA where the screen was read with
        `sgrna_key`, otherwise for each perturbation; effects are then those in the cells that
        respond. Each step computes two branches of every cell, four where there are combinations of
        two: training takes longer. False: what a cell received acts in it.
    learn_interactions
        Pairs of perturbations that training cells received together may shift the state beyond the
        sum of their parts, each by an interaction with a prior of its own; pairs without cells are
        additive, with intervals as wide as interactions are. False: combinations are additive.
    """

    embedding_scale: Positive = 1.0
    basal_given_shift: bool = True
    saturating_dose: bool = False
    learn_responders: bool = False
    learn_interactions: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class BetaSettings:
    """The Beta prior of the probability that a perturbation shifts a latent dimension.

    Parameters
    ----------
    beta_a
        First parameter of the Beta prior of the mask's probability.
    beta_b
        Second parameter of the Beta prior: the larger, the sparser the mask.
    """

    beta_a: Positive = 1.0
    beta_b: Positive = 2.0


# The fields of a dataclass come in the order of its bases from the last to the first.


@dataclass(kw_only=True, eq=False, repr=False)
class SAMSVAESettings(BetaSettings, ShiftSettings, NetworkSettings):
    """Hyperparameters of `samsvae.SAMSVAE`.

    Parameters
    ----------
    mask
        Prior and posterior of the mask. "bernoulli": m ~ Bernoulli(mask_prob);
        "beta_bernoulli": m ~ Bernoulli(p), p ~ Beta(beta_a, beta_b), the posterior of each p a
        Beta; "beta_bernoulli_point": the same prior, each p a learned point.
    mask_prob
        Prior probability alpha that a perturbation shifts a latent dimension: the smaller, the
        fewer dimensions it shifts. By default it is learned, one for all (empirical Bayes).
    embedding_given_mask
        The posterior of an embedding sees its mask, q(e_t | m_t) ("correlated E"); False: free
        parameters per perturbation. With `basal_given_shift` False too: mean field.
    n_hidden_embedding
        Width of the network of q(e_t | m_t).
    n_layers_embedding
        Its hidden layers, at least 1.
    """

    mask: str = "bernoulli"
    mask_prob: Probability | None = None
    embedding_given_mask: bool = False
    n_hidden_embedding: Count = 200
    n_layers_embedding: Count = 2


@dataclass(kw_only=True, eq=False, repr=False)
class CPAVAESettings(ShiftSettings, NetworkSettings):
    """Hyperparameters of `samsvae.CPAVAE`."""


@dataclass(kw_only=True, eq=False, repr=False)
class SVAEPlusSettings(BetaSettings, NetworkSettings):
    """Hyperparameters of `samsvae.SVAEPlus`.

    Parameters
    ----------
    unseen_as_control
        Answer for a combination that was never seen in training as for control; it is an error
        otherwise.
    """

    unseen_as_control: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalVAESettings(NetworkSettings):
    """Hyperparameters of `samsvae.ConditionalVAE`."""


MODEL_SETTINGS: dict[str, type[NetworkSettings]] = {
    "sams-vae": SAMSVAESettings,
    "cpa-vae": CPAVAESettings,
    "svae-plus": SVAEPlusSettings,
    "conditional-vae": ConditionalVAESettings,
}
"""The hyperparameters of every member of the family, by its name."""
