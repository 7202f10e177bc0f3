"""Whether cells show that the perturbations of a mechanism do the same."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.fold_changes import FoldChanges, fold_changes
from samsvae.data.screen import Screen
from samsvae.estimators.mechanisms import LatentSpace, Mechanisms
from samsvae.estimators.trained import TrainedModel
from samsvae.settings.arguments import checked

_MEMBER = 0.5
"""Probability above which a perturbation is taken for one of a mechanism."""
_LEAST_SLOPE = 0.5
"""What cells surely show less of than this share is not what the others of a mechanism do."""
_SURE = 2.0
"""Standard errors."""
COLUMNS = ("slope", "slope_error", "inconsistent")


class Evidence:
    """The evidence for shifts, of training and of other cells."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

    @checked
    def inclusion(self, screen: Screen | None = None) -> pd.DataFrame:
        """Return the evidence that a perturbation shifts a latent dimension, for every pair.

        With alignment, training ends with the closed-form inclusion update, whose probabilities are
        well calibrated in simulations (docs/identifiability.md). The log Bayes factor is then that
        of the entry alone: how much likelier its estimate is if the shift is not 0. The log odds,
        logit q(m = 1), also hold what other perturbations say: that the dimension is in use, and
        how often its entries are not 0.

        Without alignment, and in models that earlier versions saved, q is where training left it,
        and the log Bayes factor is logit q(m = 1) - logit p(m = 1): how far the log odds have moved
        from the prior. With a Beta prior p(m = 1) is the Beta's mean a / (a + b); where the
        posterior of that probability is a point (SVAE+), the density of the prior pulls it to the
        Beta's mode, and the difference is not of the data alone.

        Parameters
        ----------
        screen
            Cells with which to check that the perturbations of a dimension do the same.

        Returns
        -------
        One row per perturbation seen in training and latent dimension, the most probable
        dimensions of each perturbation first: perturbation, dimension, probability (posterior, as
        in `mask_probabilities`), prior (probability), log_bayes_factor and log_odds (nats; both
        finite where a probability rounds to 1), shift (probability * embedding, as in
        `embeddings`), n_train_cells (that received the perturbation).

        With a screen also, where several perturbations shift the dimension (NaN elsewhere): slope,
        of the effect that cells of the perturbation show on what those of the others do, 1 if they
        agree; slope_error, its standard error; inconsistent, whether it is surely below 1/2 (see
        `consistency`).

        Raises
        ------
        InputError
            If the model is not trained, or infers no mask (CPA-VAE, conditional VAE).

        Examples
        --------
        >>> list(model.inclusion().columns)[:5]
        ['perturbation', 'dimension', 'probability', 'prior', 'log_bayes_factor']
        """
        pairs = LatentSpace(self.model).inclusion()
        if screen is None:
            return pairs
        found = consistency(self.model, screen)
        pairs = pairs.merge(found, on=["perturbation", "dimension"], how="left")
        return pairs.assign(inconsistent=pairs["inconsistent"].eq(True))


def consistency(model: TrainedModel, screen: Screen) -> pd.DataFrame:
    """Return how far the cells of each perturbation of a mechanism agree with the others'.

    Two perturbations may share a latent dimension, surely, and do different things to the cell: the
    decoder is not linear, and may answer to shifts of either sign in its own way. So observed log2
    fold changes (`gene`, relative to the typical gene, of cells that received nothing else) are
    compared, after those of the perturbation's other mechanisms, shift times program, were taken
    off. Those of one perturbation are regressed on its shift times the program of all others in the
    mechanism, sum_u s_u y_u / sum_u s_u^2, weighted by precision, the program's own sampling error
    taken into account (errors in variables). A slope of 1 is what the model says.

    Rows are pairs of `model.inclusion()` with a probability above 1/2 in mechanisms of several
    perturbations with cells; `inconsistent`: the slope is below 1/2 by two standard errors, which
    are inflated by the scatter about the fit. No rows where only a share of the cells responds, or
    doses have a curve: effects are then not in proportion to shifts. None in contexts either, where
    no cell receives a shared shift without a deviation.

    References
    ----------
    Fuller: Measurement error models, Wiley 1987 (the slope given errors of the regressor).
    """
    of_nothing = pd.DataFrame(columns=["perturbation", "dimension", *COLUMNS])
    mechanism = model.module.mechanism
    additive = mechanism.additive
    if additive is None or additive.mask.variable is None:
        return of_nothing
    if mechanism.cell_variables or additive.dose_response is not None:
        return of_nothing
    inclusion = LatentSpace(model).inclusion()
    members = inclusion[inclusion["probability"] > _MEMBER]
    if members["dimension"].is_unique or "lfc" not in model.module.likelihood.scales:
        return of_nothing
    screen = model.matched(screen)
    n_cells, dose, change = _alone(screen, model.encoding(screen.dosage, screen.batch))
    place = pd.Index(model.encoding.columns).get_indexer(members["perturbation"])
    members = members.assign(row=place, shift=members["shift"] * dose[place])
    members = members[n_cells[place] > 1]
    if members.empty:
        return of_nothing
    shifts, programs = _shifts_and_programs(model, members)
    of_all = shifts @ programs
    parts = []
    for dimension, own in members.groupby("dimension", sort=False):
        if len(own) > 1:
            names = own["perturbation"]
            of_own = np.outer(shifts.loc[names, dimension], programs.loc[dimension])
            effect = change.difference[own["row"]] - of_all.loc[names].to_numpy() + of_own
            variance, shift = change.variance[own["row"]], own["shift"].to_numpy()
            slope, error = slopes_on_others(effect, variance, shift)
            is_small = slope + _SURE * error < _LEAST_SLOPE
            parts.append(own.assign(slope=slope, slope_error=error, inconsistent=is_small))
    columns = list(of_nothing.columns)
    return pd.concat(parts, ignore_index=True)[columns] if parts else of_nothing


def _alone(screen: Screen, received: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, FoldChanges]:
    """Return the cells that received one column of dosage alone, its mean dose, and its effects."""
    n, is_alone = received.shape[1], np.diff(received.indptr) == 1
    first = received.indptr[:-1][is_alone]
    group = np.full(len(screen), -1)
    group[is_alone] = received.indices[first]
    n_cells = np.bincount(group[is_alone], minlength=n)
    dose = np.bincount(group[is_alone], received.data[first], n) / np.maximum(n_cells, 1)
    change, _ = fold_changes(screen, group, screen.is_control, n).from_typical_gene
    return n_cells, dose, change


def _shifts_and_programs(
    model: TrainedModel, members: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return shifts, perturbations x dimensions, and programs, dimensions x genes.

    Their product is the sum of what the mechanisms of each perturbation do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of axes: whoever asks for mechanisms gets it
        programs = Mechanisms(model).programs(n_particles=200, progress=False)
    wide = programs.pivot(index="dimension", columns="gene", values="loading")
    shifts = members.pivot(index="perturbation", columns="dimension", values="shift").fillna(0.0)
    # A program is given in the direction in which its strongest perturbation moves it.
    strongest = shifts.to_numpy()[np.abs(shifts.to_numpy()).argmax(0), np.arange(shifts.shape[1])]
    wide = wide.reindex(shifts.columns, columns=list(model.metadata.registry.genes)).fillna(0.0)
    return shifts * np.sign(strongest), wide


def slopes_on_others(
    effect: np.ndarray, variance: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope of each perturbation on the others, and its standard error, `perturbation`.

    `effect` and `variance` are `perturbation gene`. NaN where the others' effects are within their
    own sampling errors.

    >>> program = np.linspace(-1, 1, 40)
    >>> effect = np.outer([1.0, 2.0, 1.0], program)
    >>> slope, _ = slopes_on_others(effect, np.full(effect.shape, 1e-6), np.array([1.0, 2, 2]))
    >>> print(round(slope[2], 3))
    0.5
    """
    known = np.isfinite(effect).all(0) & np.isfinite(variance).all(0)
    y, v, s = effect[:, known], variance[:, known], shift[:, None]
    # What the others show, s_i sum_u s_u y_u / sum_u s_u^2, is that of all without its own part.
    of_others = np.square(s).sum() - np.square(s)
    x = s * (shift @ y - s * y) / of_others
    noise = s**2 * (np.square(shift) @ v - s**2 * v) / of_others**2
    precision = 1 / (v + noise)
    information = (precision * (x**2 - noise)).sum(1)
    is_known = information > _SURE * np.sqrt(2 * np.square(precision * noise).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):  # where it is not
        slope = (precision * x * y).sum(1) / information
        scatter = (precision * (y - slope[:, None] * x) ** 2).sum(1) / max(1, known.sum() - 1)
        error = np.sqrt(np.maximum(1.0, scatter) * (precision * x**2).sum(1)) / information
    return np.where(is_known, slope, np.nan), np.where(is_known, error, np.nan)
