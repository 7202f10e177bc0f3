"""The variance between replicates of a condition, such as clones: their cells are not independent.

With y_cr the difference from control of replicate r of condition c on a gene, w_cr its share of the
condition's cells, and v_cr its squared standard error from cells alone,

    y_cr ~ N(theta_c, tau_cg^2 + v_cr),

so the variance of sum_r w_cr y_cr is larger by tau_cg^2 sum_r w_cr^2 than cells show; control's is,
too. Few replicates say little about tau_cg^2: estimates by the method of moments are pooled over
conditions, shrunk to the mean over genes, and those of each condition to that of the gene, by how
far they scatter more than their sampling errors explain. A condition with one replicate has the
gene's. A replicate with cells of several conditions counts as one of each: what it does to all of
them alike cancels, and is counted all the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.data.expression import Expression, membership, within_batches
from samsvae.data.screen import Screen
from samsvae.errors import note

_ROUNDS = 10
_TINY = 1e-12


class Replicates(NamedTuple):
    """The replicates of each group of cells, and of control, which comes last."""

    of_cell: np.ndarray
    """`cell`: its replicate; -1: in no group, and not control."""
    group: np.ndarray
    """`replicate`: the group that it is of."""
    weight: np.ndarray
    """`replicate`: its share in its group's cells, by their mass."""
    squares: np.ndarray
    """`group`: sum of squared weights of its replicates."""
    squares_of_control: np.ndarray
    """`group`: sum of squared weights of control's replicates, in the batches of the group."""

    @classmethod
    def of(
        cls,
        replicate: pd.Categorical,
        batch: np.ndarray,
        group: np.ndarray,
        control: np.ndarray,
        n_groups: int,
        mass: np.ndarray,
    ) -> Replicates:
        """Return the replicates of groups of cells (-1: none) that are compared with control cells.

        `mass` is what each cell weighs in the mean of its group: its library size, say.
        """
        has_control = np.isin(batch, batch[control])
        own = np.where(has_control & (group >= 0), group, np.where(control, n_groups, -1))
        rows = np.flatnonzero(own >= 0)
        pairs, place = np.unique(
            np.stack([own[rows], replicate.codes[rows]]), axis=1, return_inverse=True
        )
        of_cell = np.full(len(own), -1)
        of_cell[rows] = place.ravel()
        n, in_batch = pairs.shape[1], membership(batch, int(batch.max(initial=0)) + 1)
        of_replicate = (membership(of_cell, n, mass) @ in_batch.T).toarray()
        member = membership(pairs[0], n_groups + 1)
        whole = member @ of_replicate
        share = of_replicate.sum(1) / np.maximum(whole.sum(1)[pairs[0]], _TINY)
        is_control = pairs[0] == n_groups
        batches = whole[:-1] / np.maximum(whole[:-1].sum(1, keepdims=True), _TINY)
        of_control = of_replicate[is_control] / np.maximum(whole[-1], _TINY)
        squares = ((batches @ of_control.T) ** 2).sum(1)
        return cls(of_cell, pairs[0], share, (member @ share**2)[:-1], squares)

    def between(
        self, difference: np.ndarray, variance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance between replicates of groups, and that of control, `group gene`.

        From each replicate's difference from control, and its squared standard error.
        """
        known = np.isfinite(difference) & np.isfinite(variance)
        y, v = np.where(known, difference, 0), np.where(known, variance, 0)
        member = membership(self.group, len(self.squares) + 1)
        weight = known * self.weight[:, None]
        weight /= np.maximum(member @ weight, _TINY)[self.group]
        scale = member @ (weight * (1 - weight))
        has_several = scale > _TINY
        if not has_several.any():
            note(
                "no condition has two replicates with cells to compare: the variance between "
                "replicates cannot be estimated, and standard errors are those of independent cells"
            )
            nothing = np.zeros((len(self.squares), difference.shape[1]))
            return nothing, nothing
        squares = member @ (weight * (y - (member @ (weight * y))[self.group]) ** 2)
        scale = np.maximum(scale, _TINY)
        noise = member @ (weight * (1 - weight) * v) / scale
        n_free = np.where(has_several, 1 / np.maximum(member @ weight**2, _TINY) - 1, 0)
        between = _moderated(squares / scale - noise, noise, n_free)
        return between[:-1] * self.squares[:, None], between[-1] * self.squares_of_control[:, None]


def variance_of_means(
    values: Expression, screen: Screen, group: np.ndarray, control: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance between replicates of the means of groups, and of control's.

    `group gene` each: what to add to the variance of their difference; 0 if replicates are unknown.
    Genes are compared in units of their variance between cells, so the scale does not matter.
    """
    if screen.replicate is None:
        nothing = np.zeros((n_groups, values.shape[1]))
        return nothing, nothing
    weight = np.ones(len(screen)) if values.weight is None else values.weight
    replicates = Replicates.of(screen.replicate, screen.batch, group, control, n_groups, weight)
    own = replicates.of_cell, control, screen.batch, len(replicates.group)
    sums, compared, _ = within_batches(values, *own)
    several = sums.n_cells > 1
    of_cells = sums.squares[several].sum(0) / max((sums.n_cells[several] - 1).sum(), 1)
    unit = np.where(of_cells > 0, of_cells, np.nan)  # NaN: a gene that is the same in all cells
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(several, 1 / sums.n_cells, np.nan)[:, None] * unit / unit
        between = replicates.between((sums.mean - compared.mean) / np.sqrt(unit), variance)
    of_group, of_control = (part * of_cells for part in between)
    return of_group, of_control


def _moderated(own: np.ndarray, noise: np.ndarray, n_free: np.ndarray) -> np.ndarray:
    """Return moderated variances between replicates, `group gene`, from those of each.

    The sampling variance of `own` is 2 (tau^2 + noise)^2 / n_free.
    """
    of_gene, common = np.zeros(own.shape[1]), 0.0
    for _ in range(_ROUNDS):
        information = n_free / (2 * (of_gene + common + noise + _TINY) ** 2)
        in_all = np.maximum(information.sum(0), _TINY)
        pooled = (information * own).sum(0) / in_all
        common = max(float((in_all * pooled).sum() / in_all.sum()), 0.0)
        of_gene = _shrunk(pooled, np.full(len(pooled), common), in_all)
    information = n_free / (2 * (of_gene + noise + _TINY) ** 2)
    return _shrunk(own, np.broadcast_to(of_gene, own.shape), information)


def _shrunk(estimate: np.ndarray, center: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return estimates that are shrunk to their centers, and at least 0: empirical Bayes.

    `information` is the inverse of the sampling variance; the variance about centers is by moments.
    """
    squares = (information * (estimate - center)) ** 2
    spread = max(float((squares - information).sum() / max((information**2).sum(), _TINY)), 0.0)
    gain = spread * information / (1 + spread * information)
    return np.maximum(center + gain * (estimate - center), 0)
