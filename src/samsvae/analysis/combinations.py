"""What pairs of perturbations do, and how far that is from the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from itertools import combinations as pairs_of
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rich.progress import Progress

from samsvae.analysis.discoveries import long_table
from samsvae.analysis.effect_posterior import EffectPosterior
from samsvae.analysis.mixture import ObservedEffects
from samsvae.analysis.shrinkage import zero_centred
from samsvae.data.conditions import Conditions, parts_matrix
from samsvae.data.contamination import Contamination
from samsvae.data.differences import fold_differences, mean_differences
from samsvae.data.expression import check_control, expression
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.base import Estimator
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import CombinationSettings, EffectSettings
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
        scale ("lfc"), relative_to ("typical gene"), library_size (1e4), contamination (0),
        n_particles (500), seed (0), progress; see
        `samsvae.settings.questions.CombinationSettings`.

    Returns
    -------
    Tables of a row per combination and gene: `condition`, `gene`, `predicted` (the model's ATE),
    `mc_se` (its Monte Carlo standard error), `additive` (sum of its ATE of the parts), `deviation`,
    `scale`. With a screen also: `n_cells`; `observed` (DE within batches) and `observed_deviation`
    (minus the sum of the parts' DE); `interaction` and `interaction_sd` (posterior of the deviation
    given the cells alone, see `samsvae.analysis.shrinkage`) and its `lfsr` (local false sign rate);
    NaN where the combination, or one of its parts, has no cells. If it has validation cells also
    `estimate`, `lower`, `upper` and `effect_lfsr`: the effect, its 90 % interval and local false
    sign rate as in `samsvae.discoveries`, without cells the sum of the parts.

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
    singles = list(model.metadata.trained_perturbations)
    if conditions is not None:
        parts_of = map(model.registry.singles, model.metadata.labels(conditions))
        singles = list(dict.fromkeys(chain.from_iterable(parts_of)))
    posterior = _Posteriors(model, screen, singles, replace(chosen, scale=scale))
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
                columns |= posterior.columns(some, columns["deviation"])
                yield long_table({"condition": some}, model.registry.genes, columns, scale)
                bar.advance(task, len(some))

    return tables()


class _Posteriors:
    """Effects of combinations given the model and the cells, as `discoveries` has them."""

    def __init__(
        self,
        model: Estimator,
        screen: Screen | None,
        singles: Sequence[str],
        settings: CombinationSettings,
    ) -> None:
        self.registry, self.sums = model.registry, None
        if screen is None or not EffectPosterior.learns_from(model.matched(screen)):
            return
        asked = EffectSettings(
            scale=settings.scale,
            relative_to=settings.relative_to,
            contamination=settings.contamination,
            n_particles=settings.n_particles,
            seed=settings.seed,
            progress=settings.progress,
        )
        predictor = EffectPosterior(model, screen)
        inputs = predictor.inputs([model.metadata.stored(name) for name in singles], asked)
        self.sums, self.place = predictor.sums(inputs), inputs.place

    def columns(self, names: Sequence[str], deviation: np.ndarray) -> dict[str, np.ndarray]:
        """Return columns of combinations, `combination gene`; none without validation cells."""
        if self.sums is None:
            return {}
        stored = map(self.registry.stored, names)
        parts = [np.array([self.place[part] for part in self.registry.singles(n)]) for n in names]
        found = self.sums.of(list(map(self.place.get, stored)), parts, deviation)
        return {
            "estimate": found.mean,
            "lower": found.lower,
            "upper": found.upper,
            "effect_lfsr": found.lfsr,
        }


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
    check_control(screen)
    singles_of = {name: model.registry.singles(name) for name in screen.conditions}
    names = [name for name, parts in singles_of.items() if len(parts) > 1]
    if conditions is not None:
        wanted = {model.metadata.stored(name) for name in model.metadata.labels(conditions)}
        names = [name for name in names if name in wanted]
    singles = list(dict.fromkeys(part for name in names for part in singles_of[name]))
    n, groups = len(names), [*names, *singles]
    place = {name: i for i, name in enumerate(groups)}
    group = np.array([place.get(name, -1) for name in screen.condition_names])[screen.condition]
    control = screen.is_control
    if scale == "lfc":
        foreign = Contamination.of(screen, settings.contamination)
        asked = len(groups), settings.relative_to
        of = fold_differences(screen, group, control, *asked, contamination=foreign)
    else:
        of = mean_differences(screen, expression(screen, scale), group, control, len(groups))
    of = of._replace(own=np.minimum(of.own, _UNKNOWN))
    parts = parts_matrix(names, singles, model.registry.parser)
    deviation, error = of.combined(sp.hstack([sp.eye(n), -parts], "csr"))
    nothing = np.full(n, np.nan)
    effects = ObservedEffects(deviation, error, of.n_cells[:n], np.zeros(n), nothing)
    return names, of.difference[:n], effects


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
