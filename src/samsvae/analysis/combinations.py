"""What pairs of perturbations do, and how far that is from the sum of what each does alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from itertools import combinations as pairs_of
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.progress import Progress

from samsvae.analysis.shrinkage import Posterior, Shown, zero_centred
from samsvae.benchmark.metrics.moments import within_batches
from samsvae.data.conditions import Conditions
from samsvae.data.expression import expression, shares_of_batches
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimators import Estimator
from samsvae.settings.arguments import checked
from samsvae.types import Scale

_ROWS = 500_000
"""Of a table, about."""


@checked
def combinations(
    model: Estimator,
    screen: Screen | None = None,
    conditions: Conditions | None = None,
    *,
    scale: Scale = "log",
    library_size: float | Literal["observed"] = 1e4,
    n_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> Iterator[pd.DataFrame]:
    """Return the effects of combinations and their deviation from the sum, table by table.

    deviation = ATE(A + B) - ATE(A) - ATE(B), on the scale of expression: a model whose shifts add
    up in latent space deviates where the decoder is not linear. All arms share their draws. Tables
    come one after the other, each of about half a million rows, so that all pairs of 700
    perturbations fit in memory; `samsvae combinations` writes them to a file.

    Parameters
    ----------
    model
        Trained.
    screen
        Whose cells show what combinations do; by default nothing is compared.
    conditions
        Combinations such as "KLF1+CEBPA"; by default all pairs of the perturbations of the training
        cells.
    scale
        "log", "normalized" or "mean", as in `model.effects`.
    library_size
        As in `model.effects`: on scale "log" expression depends on it, and what is observed is at
        the cells' own.
    n_particles
        Of the model's effects.
    seed
        Same seed, same numbers.
    progress
        Show a progress bar.

    Returns
    -------
    Tables of a row per combination and gene: `condition`, `gene`, `predicted` (the model's ATE),
    `mc_se` (its Monte Carlo standard error), `additive` (sum of its ATE of the parts), `deviation`.
    With a screen besides: `n_cells`; `observed` (DE within batches) and `observed_deviation` (minus
    the sum of the parts' DE); `interaction` and `interaction_sd` (the deviation given the
    cells alone, see `samsvae.analysis.shrinkage`) and its `lfsr` (local false sign rate); NaN
    where the combination, or one of its parts, has no cells.

    Raises
    ------
    InputError
        If the model is not trained, does not know a perturbation, or a condition is a single one.

    Examples
    --------
    >>> import samsvae
    >>> sizes = {"n_perturbations": 4, "n_combinations": 1, "n_genes": 20}
    >>> screen = samsvae.datasets.simulated_screen(**sizes)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> tables = samsvae.combinations(model, n_particles=20, progress=False)
    >>> table = next(tables)
    >>> table["condition"].nunique(), list(table.columns)[2:]
    (6, ['predicted', 'mc_se', 'additive', 'deviation'])
    """
    check_count("n_particles", n_particles, low=2)
    check_count("seed", seed, low=0)
    metadata = model.metadata
    if not model.is_trained:
        raise InputError("the model is not trained: call train first")
    names: Iterator[str] | list[str]
    if conditions is None:
        write = metadata.registry.parser.write
        names = (write({a: 1.0, b: 1.0}) for a, b in pairs_of(metadata.seen, 2))
        n_names = len(metadata.seen) * (len(metadata.seen) - 1) // 2
    else:
        names = metadata.asked(conditions)
        n_names = len(names)
        for name in names:
            if len(model.registry.singles(name)) < 2:
                raise InputError(
                    f"{name!r} is not a combination: expected at least two perturbations, such as "
                    f"{metadata.registry.parser.separator.join(metadata.seen[:2])!r}"
                )
        metadata.received(names)  # refuses what was never seen
    observed = None if screen is None else _observed(model, screen, conditions, scale, seed)
    given = {
        "scale": scale,
        "library_size": library_size,
        "n_particles": n_particles,
        "n_draws": 0,
        "seed": seed,
        "progress": False,
    }
    return _tables(model, iter(names), n_names, observed, given, progress=progress)


def _tables(
    model: Estimator,
    names: Iterator[str],
    n_names: int,
    observed: _Observed | None,
    given: Mapping[str, Any],
    *,
    progress: bool,
) -> Iterator[pd.DataFrame]:
    genes = list(model.registry.genes)
    together = max(1, _ROWS // len(genes))
    singles: dict[str, np.ndarray] = {}
    with Progress(disable=not progress) as bar:
        task = bar.add_task("combinations", total=n_names)
        while some := list(islice(names, together)):
            parts = [model.registry.singles(name) for name in some]
            new = [p for p in dict.fromkeys(chain.from_iterable(parts)) if p not in singles]
            if new:
                alone = model.effects(new, **given)
                singles |= dict(zip(new, np.asarray(alone.X, float), strict=True))
            effects = model.effects(some, **given)
            predicted = np.asarray(effects.X, float)
            additive = np.array([sum(singles[p] for p in own) for own in parts])
            columns = {
                "predicted": predicted,
                "mc_se": np.asarray(effects.layers["mc_se"], float),
                "additive": additive,
                "deviation": predicted - additive,
            }
            stored = [model.metadata.stored(name) for name in some]
            if observed is not None:
                columns |= observed.columns(stored, len(genes))
            yield pd.DataFrame(
                {
                    "condition": pd.Categorical.from_codes(
                        np.repeat(np.arange(len(some)), len(genes)), some
                    ),
                    "gene": pd.Categorical.from_codes(
                        np.tile(np.arange(len(genes)), len(some)), genes
                    ),
                    **{name: values.ravel() for name, values in columns.items()},
                }
            )
            bar.advance(task, len(some))


class _Observed(NamedTuple):
    """What the cells show of combinations."""

    row: dict[str, int]
    """Of each combination that has cells."""
    effect: np.ndarray
    """`combination gene`."""
    shown: Shown
    """Of the deviation from the sum."""
    posterior: Posterior

    def columns(self, conditions: Sequence[str], n_genes: int) -> dict[str, np.ndarray]:
        """Return what is to stand in the table, `condition gene` each."""
        row = np.array([self.row.get(name, -1) for name in conditions])
        has, known = row >= 0, self.shown.known

        def of(values: np.ndarray, *, where: np.ndarray | None = None) -> np.ndarray:
            found = np.full((len(row), n_genes), np.nan)
            found[has] = (values if where is None else np.where(where, values, np.nan))[row[has]]
            return found

        n_cells = np.zeros((len(row), n_genes), int)
        n_cells[has] = self.shown.n_cells[row[has], None]
        return {
            "n_cells": n_cells,
            "observed": of(self.effect),
            "observed_deviation": of(self.shown.difference),
            "interaction": of(self.posterior.mean, where=known),
            "interaction_sd": of(self.posterior.sd, where=known),
            "lfsr": of(self.posterior.lfsr, where=known),
        }


def _observed(
    model: Estimator, screen: Screen, conditions: Conditions | None, scale: Scale, seed: int
) -> _Observed:
    """Return what all cells of a screen show of combinations."""
    screen = model.matched(screen)
    if not screen.is_control.any():
        raise InputError("no control cells to compare with in these cells")
    wanted = None
    if conditions is not None:
        wanted = {model.metadata.stored(name) for name in model.metadata.asked(conditions)}
    present = screen.conditions
    several = [name for name in present if len(model.registry.singles(name)) > 1]
    names = [name for name in several if wanted is None or name in wanted]
    every = list(
        dict.fromkeys([*names, *(p for name in names for p in model.registry.singles(name))])
    )
    place = {name: i for i, name in enumerate(every)}
    position = np.array([place.get(name, -1) for name in screen.condition_names])
    group = position[screen.condition]
    control = screen.is_control
    values = expression(screen, scale)
    sums, compared, _ = within_batches(values, group, control, screen.batch, len(every))
    difference = sums.mean - compared.mean
    free = np.maximum(sums.n_cells + compared.n_cells - 2 * compared.n_batches, 1)
    variance = (sums.squares + compared.squares) / free[:, None]
    with np.errstate(divide="ignore"):
        own = variance / sums.n_cells[:, None]
    # Control counts with what is left of its weights: once, where there is one batch.
    n_batches = int(screen.batch.max(initial=0)) + 1
    of_control = np.bincount(screen.batch[control], minlength=n_batches)
    usable = np.where(of_control[screen.batch] > 0, group, -1)
    shares = np.nan_to_num(shares_of_batches(usable, screen.batch, len(every)))
    deviation, error = np.full((2, len(names), len(screen.genes)), np.nan)
    for i, name in enumerate(names):
        rows = [place[part] for part in model.registry.singles(name)]
        deviation[i] = difference[i] - difference[rows].sum(0)
        weight = shares[rows].sum(0) - shares[i]
        inverse = (weight**2 / np.maximum(of_control, 1)).sum()
        error[i] = own[i] + own[rows].sum(0) + inverse * variance[i]
    n_cells = sums.n_cells[: len(names)]
    shown = Shown(deviation, error, n_cells, np.zeros(len(names)))
    row = {name: i for i, name in enumerate(names)}
    return _Observed(row, difference[: len(names)], shown, zero_centred(shown, seed=seed))
