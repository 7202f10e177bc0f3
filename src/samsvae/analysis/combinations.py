"""What pairs of perturbations do, and how far that is from the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from itertools import combinations as pairs_of
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from samsvae.analysis.discoveries import long_table
from samsvae.analysis.mixture import ObservedEffects
from samsvae.analysis.shrinkage import zero_centred
from samsvae.data.conditions import Conditions, parts_matrix
from samsvae.data.expression import expression, shares_of_batches, within_batches
from samsvae.data.fold_changes import fold_changes
from samsvae.data.replicates import variance_of_means
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import CombinationSettings
from samsvae.types import Scale

_MAX_ROWS = 500_000
"""Of a table, approximately."""
_UNKNOWN = 1e6
"""Squared standard error of the fold changes of a single cell."""


@checked
@takes(CombinationSettings)
def combinations(
    model: Estimator,
    screen: Screen | None = None,
    conditions: Conditions | None = None,
    **settings: Any,
) -> Iterator[pd.DataFrame]:
    """Return the effects of combinations and their deviation from the sum, table by table.

    deviation = ATE(A + B) - ATE(A) - ATE(B), on the scale of expression: a model whose shifts add
    up in latent space deviates where the decoder is not linear. All arms share their draws. Tables
    have about half a million rows each, so that all pairs of 700 perturbations fit in memory.

    Parameters
    ----------
    model, screen
        The trained model; the cells whose effects predictions are compared with, matched by gene
        and perturbation name, by default none.
    conditions
        Combinations such as "KLF1+CEBPA"; by default all pairs of the perturbations of the training
        cells.
    **settings
        scale ("lfc"), relative_to ("typical gene"), library_size (1e4), n_particles (500), seed
        (0), progress; see
        `samsvae.settings.questions.CombinationSettings`.

    Returns
    -------
    Tables of a row per combination and gene: `condition`, `gene`, `predicted` (the model's ATE),
    `mc_se` (its Monte Carlo standard error), `additive` (sum of its ATE of the parts), `deviation`,
    `scale`. With a screen also: `n_cells`; `observed` (DE within batches) and `observed_deviation`
    (minus the sum of the parts' DE); `interaction` and `interaction_sd` (posterior of the deviation
    given the cells alone, see `samsvae.analysis.shrinkage`) and its `lfsr` (local false sign rate);
    NaN where the combination, or one of its parts, has no cells.

    Raises
    ------
    InputError
        If the model is not trained, does not know a perturbation, or a condition is a single one.

    Examples
    --------
    >>> tables = samsvae.combinations(model, n_particles=20, progress=False)
    >>> table = next(tables)
    >>> table["condition"].nunique(), list(table.columns)[2:]
    (3, ['predicted', 'mc_se', 'additive', 'deviation', 'scale'])
    """
    chosen = CombinationSettings(**settings)
    if not model.is_trained:
        raise InputError("the model is not trained: call train first")
    names, n_names = _names(model, conditions)
    scale = chosen.scale or model.default_scale
    observed: dict[str, np.ndarray] = {}
    if screen is not None:
        combined, effect, deviation = _observed(model, screen, conditions, chosen, scale)
        place = {name: i for i, name in enumerate(combined)}
        observed = _observed_columns(effect, deviation, chosen.seed)
    options: dict[str, Any] = {**asdict(chosen), "n_draws": 0, "progress": False}
    n_at_once = max(1, _MAX_ROWS // len(model.registry.genes))

    def tables() -> Iterator[pd.DataFrame]:
        singles: dict[str, np.ndarray] = {}
        with Progress(disable=not chosen.progress) as bar:
            task = bar.add_task("combinations", total=n_names)
            while some := list(islice(names, n_at_once)):
                parts = list(dict.fromkeys(chain.from_iterable(map(model.registry.singles, some))))
                new = [name for name in parts if name not in singles]
                if new:
                    alone = model.effects(new, **options)
                    singles.update(zip(new, np.asarray(alone.X, float), strict=True))
                effects = model.effects(some, **options)
                predicted = np.asarray(effects.X, float)
                of_parts = np.array([singles[name] for name in parts])
                additive = parts_matrix(some, parts, model.registry.parser) @ of_parts
                columns = {
                    "predicted": predicted,
                    "mc_se": np.asarray(effects.layers["mc_se"], float),
                    "additive": additive,
                    "deviation": predicted - additive,
                }
                if observed:
                    row = [place.get(model.metadata.stored(name), -1) for name in some]
                    columns |= {name: values[row] for name, values in observed.items()}
                yield long_table({"condition": some}, model.registry.genes, columns, scale)
                bar.advance(task, len(some))

    return tables()


def _names(model: Estimator, conditions: Conditions | None) -> tuple[Iterator[str], int]:
    """Return the combinations, by default all pairs, and how many these are."""
    metadata = model.metadata
    if conditions is None:
        n, write = len(metadata.trained_perturbations), metadata.registry.parser.write
        pairs = (write({a: 1.0, b: 1.0}) for a, b in pairs_of(metadata.trained_perturbations, 2))
        return pairs, n * (n - 1) // 2
    names = metadata.labels(conditions)
    for name in names:
        if len(model.registry.singles(name)) < 2:
            raise InputError(
                f"{name!r} is not a combination: expected at least two perturbations, such as "
                f"{metadata.registry.parser.separator.join(metadata.trained_perturbations[:2])!r}"
            )
    metadata.received(names)  # an error for perturbations never seen in training
    return iter(names), len(names)


def _observed(
    model: Estimator,
    screen: Screen,
    conditions: Conditions | None,
    settings: CombinationSettings,
    scale: Scale,
) -> tuple[list[str], np.ndarray, ObservedEffects]:
    """Return combinations with cells, their effects, and the deviations from the sum of parts."""
    screen = model.matched(screen)
    if not screen.is_control.any():
        raise InputError("no control cells to compare with in these cells")
    singles_of = {name: model.registry.singles(name) for name in screen.conditions}
    names = [name for name, parts in singles_of.items() if len(parts) > 1]
    if conditions is not None:
        wanted = {model.metadata.stored(name) for name in model.metadata.labels(conditions)}
        names = [name for name in names if name in wanted]
    singles = list(dict.fromkeys(part for name in names for part in singles_of[name]))
    n, groups = len(names), [*names, *singles]
    place = {name: i for i, name in enumerate(groups)}
    group = np.array([place.get(name, -1) for name in screen.condition_names])[screen.condition]
    control, batch = screen.is_control, screen.batch
    if scale == "lfc":
        change = fold_changes(screen, group, control, len(groups))
        if settings.relative_to == "typical gene":
            change, _ = change.from_typical_gene
        difference, n_cells, of_control = change.difference, change.n_cells, change.control_variance
        own = np.minimum(change.variance - of_control, _UNKNOWN)
    else:
        values = expression(screen, scale)
        sums, compared, _ = within_batches(values, group, control, batch, len(groups))
        difference, n_cells = sums.mean - compared.mean, sums.n_cells
        free = np.maximum(n_cells + compared.n_cells - 2 * compared.n_batches, 1)
        variance = (sums.squares + compared.squares) / free[:, None]
        with np.errstate(divide="ignore"):
            own = variance / n_cells[:, None]
        of_control = compared.inverse[:, None] * variance
        between = variance_of_means(values, screen, group, control, len(groups))
        own, of_control = own + between[0], of_control + between[1]
    # Control's weights in a combination and in its parts partly cancel: all but one, in one batch.
    n_control = np.bincount(batch[control], minlength=int(batch.max(initial=0)) + 1)
    usable = np.where(n_control[batch] > 0, group, -1)
    shares = np.nan_to_num(shares_of_batches(usable, batch, len(groups)))
    parts = parts_matrix(names, singles, model.registry.parser)
    left, whole = (
        (weight**2 / np.maximum(n_control, 1)).sum(1)
        for weight in (parts @ shares[n:] - shares[:n], shares[:n])
    )
    share = (left / np.maximum(whole, 1e-300))[:, None]
    deviation = difference[:n] - parts @ difference[n:]
    error = own[:n] + parts @ own[n:] + share * of_control[:n]
    nothing = np.full(n, np.nan)
    effects = ObservedEffects(deviation, error, n_cells[:n], np.zeros(n), nothing)
    return names, difference[:n], effects


def _observed_columns(
    effect: np.ndarray, deviation: ObservedEffects, seed: int
) -> dict[str, np.ndarray]:
    """Return columns of the table, `combination + 1 gene`; the last row is that of all others."""
    posterior, is_observed = zero_centred(deviation, seed=seed), deviation.is_observed
    columns = {
        "observed": effect,
        "observed_deviation": deviation.difference,
        "interaction": np.where(is_observed, posterior.mean, np.nan),
        "interaction_sd": np.where(is_observed, posterior.sd, np.nan),
        "lfsr": np.where(is_observed, posterior.lfsr, np.nan),
    }
    last = ((0, 1), (0, 0))
    n_cells = np.repeat(deviation.n_cells.astype(int)[:, None], effect.shape[1], axis=1)
    padded = {name: np.pad(v, last, constant_values=np.nan) for name, v in columns.items()}
    return {"n_cells": np.pad(n_cells, last), **padded}
