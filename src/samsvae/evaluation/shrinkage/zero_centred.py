"""Effects given what cells show alone: a mixture of normals about 0."""

from __future__ import annotations

import numpy as np

from samsvae.evaluation.shrinkage.evidence import Predicted, Shown, rank_one, some_of
from samsvae.evaluation.shrinkage.mixture import GRID, N_ZERO
from samsvae.evaluation.shrinkage.prior import EffectPrior, Posterior
from samsvae.evaluation.shrinkage.trust import Trust

_NULL = 10.0
"""Entries that count as 0 beside those that there are: calls are rather too few than too many."""
_STEPS = 200
_NONE = -100.0
"""Log weight of what is left out."""


def zero_centred(shown: Shown, *, seed: int = 0) -> Posterior:
    """Return effects given what cells show, 0 being where they are expected.

    p(theta) = pi_0 delta + sum_k pi_k N(0, lambda_k t), t of rank one in condition and gene, the
    weights those that make the data most likely (EM), pi_0 counting ten more.

    Parameters
    ----------
    shown
        Of the effects.
    seed
        Of the entries that are looked at, where there are many.

    References
    ----------
    Stephens: False discovery rates: a new deal, Biostatistics 2017.
    """
    spread = rank_one(np.where(shown.known, shown.difference, np.nan), shown.variance)
    used = some_of(shown.known, seed)
    d, v, t = (x.ravel()[used] for x in (shown.difference, shown.variance, spread))
    total = np.array([0.0, *GRID])[:, None] * t + v
    log_density = -0.5 * (np.log(total) + d**2 / total)
    weight = np.full(N_ZERO, 1 / N_ZERO)
    pseudo = np.zeros(N_ZERO)
    pseudo[0] = _NULL
    for _ in range(_STEPS if len(used) else 0):
        joint = np.log(weight)[:, None] + log_density
        share = np.exp(joint - joint.max(0))
        share /= share.sum(0)
        weight = np.maximum((share.sum(1) + pseudo) / (len(used) + _NULL), 1e-12)
        weight /= weight.sum()
    n = len(shown.n_cells)
    if n == 0:
        return Posterior(*(spread,) * len(Posterior._fields))
    nobody = Trust(np.zeros(n), np.ones(n), np.zeros(n), np.zeros_like(spread))
    log_weight = np.concatenate([np.log(weight), np.full(len(GRID), _NONE)])
    prior = EffectPrior(
        log_weight, slope=1.0, inflation=1.0, lean=0.0, unit=1.0, spread=spread, trust=nobody
    )
    nothing = np.zeros_like(spread)
    return prior.posterior(shown, Predicted(nothing, nothing))
