"""What to measure next: perturbations that say most of others, and with how many cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

from samsvae.errors import InputError, check_unique, listed
from samsvae.estimators.base import Estimator
from samsvae.inference.latent import Batches, sampling_sd
from samsvae.settings.arguments import Count, checked

_LFSR, _POWER = 0.05, 0.8
_DRAWS = 500


@checked
def next_perturbations(
    model: Estimator,
    candidates: Sequence[str] | None = None,
    *,
    n: Count = 10,
    effect: float = 1.0,
) -> pd.DataFrame:
    """Return which perturbations to measure next, by what they would say of all candidates.

    Greedy: each is the one that, measured beside those before it, lowers the posterior variance of
    all candidates' effects most, summed over genes. It follows from features and from what was
    measured; effects themselves do not matter. Where features say next to nothing (`support` near
    0), so does the order: each candidate then tells of itself alone. On papalexi2021 the choice was
    not better than chance (docs/unmeasured-limits.md): take it as one reason among others.

    Parameters
    ----------
    model
        With features, see `model.with_features`.
    candidates
        Perturbations without cells, with features; by default all there are.
    n
        How many to choose.
    effect
        The log2 fold change that `n_cells` is to show.

    Returns
    -------
    One row per choice, in order: `perturbation`; `share`, by how much of the candidates' variance
    at first it lowers that; `left`, the share that is left after it; `support` before anything new
    is measured; `n_cells`, that show a change of `effect` of the median expressed gene at a local
    false sign rate below 0.05 in four of five cases, by this screen's dispersion and library sizes
    (a flat prior, and many control cells).

    Raises
    ------
    InputError
        If the model has no features, a candidate has none or has cells, or there are fewer
        candidates than `n`.

    Examples
    --------
    >>> known = samsvae.features.read(sets={"one": ["G01", "G02", "X", "Y"], "two": ["G03", "Z"]})
    >>> table = samsvae.next_perturbations(model.with_features(known), n=2)
    >>> list(table.columns)
    ['perturbation', 'share', 'left', 'support', 'n_cells']
    """
    metadata = model.metadata
    unmeasured = metadata.unmeasured
    if unmeasured is None:
        raise InputError("the model has no features: give them by model.with_features")
    if not effect > 0:
        raise InputError(f"effect is {effect:g}: expected a log2 fold change above 0")
    names = metadata.registry.perturbations
    if candidates is None:
        candidates = [name for name in names if metadata.has_features_only(name)]
    check_unique(candidates, "candidates", "give each once")
    parts = {name: metadata.unmeasured_parts(metadata.stored(name)) for name in candidates}
    strange = [name for name, own in parts.items() if len(own) != 1]
    if strange:
        raise InputError(
            f"candidates {listed(strange)} have training cells, or no features: expected "
            "perturbations without cells, with features"
        )
    if n > len(parts):
        raise InputError(f"n is {n}: there are {len(parts)} candidates")
    rows = np.array([column for own in parts.values() for column in own], int)
    size = np.square(unmeasured.component).sum(1)
    order, share, left = _greedy(unmeasured.posterior.joint([unmeasured.factor[rows]]), size, n)
    return pd.DataFrame(
        {
            "perturbation": [names[rows[i]] for i in order],
            "share": share,
            "left": left,
            "support": unmeasured.support(rows[order]),
            "n_cells": _cells_needed(model, effect),
        }
    )


def _greedy(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], size: np.ndarray, n: int
) -> tuple[list[int], list[float], list[float]]:
    """Return the choice, and the shares of variance that it takes and leaves, one by one.

    `parts` are, by component, H (`row rank`) and d (`row`) of the posterior covariance H H' +
    diag(d); `size` what a component counts for. Measuring a row exactly takes the outer product of
    its column of the covariance over its variance.
    """
    factors = [factor.copy() for factor, _ in parts]
    alone = [own.copy() for _, own in parts]
    total = first = sum(
        w * (np.square(h).sum() + d.sum()) for w, h, d in zip(size, factors, alone, strict=True)
    )
    order: list[int] = []
    share, left = [], []
    for _ in range(n):
        gain = np.zeros(len(alone[0]))
        for w, h, d in zip(size, factors, alone, strict=True):
            gram = h.T @ h
            own = np.square(h).sum(1)
            # sum over u of (h_u' h_c + d_c [u = c])^2
            squares = ((h @ gram) * h).sum(1) + 2 * d * own + d**2
            gain += w * squares / np.maximum(own + d, 1e-12)
        gain[order] = -1
        best = int(np.argmax(gain))
        for i in range(len(factors)):
            factors[i], alone[i] = _without(factors[i], alone[i], best)
        order.append(best)
        total -= gain[best]
        share.append(float(gain[best] / first))
        left.append(float(max(total / first, 0)))
    return order, share, left


def _without(h: np.ndarray, d: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariance H H' + diag(d) once a row is known."""
    own, alone = h[row].copy(), float(d[row])
    square = float(own @ own)
    if square > 0:
        # I - a a' / (|a|^2 + d) = (I - k a a')^2
        k = (1 - np.sqrt(alone / (square + alone))) / square
        h = h - k * np.outer(h @ own, own)
    h[row], d = 0, d.copy()
    d[row] = 0
    return h, d


def _cells_needed(model: Estimator, effect: float) -> int:
    """Return the cells that show an effect of the median gene, see `next_perturbations`."""
    metadata = model.metadata
    batches = Batches(metadata.batch_shares, metadata.registry.design)
    sd = sampling_sd(
        model.module,
        float(np.median(metadata.library_size)),
        n_particles=_DRAWS,
        batches=batches,
        generator=model.generator(0),
    )
    z = float(ndtri(1 - _LFSR) + ndtri(_POWER))
    return int(np.ceil((z * float(np.median(sd[~metadata.unexpressed])) / effect) ** 2))
