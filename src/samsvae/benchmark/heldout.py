"""What predictors are scored on: the cells of some conditions, whole or halved at random.

A technical duplicate: halves of the cells that predict each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track

from samsvae.benchmark.baselines import means_of, scales_of
from samsvae.benchmark.metrics.effects import interaction
from samsvae.benchmark.metrics.moments import Control, Moments, Observed, within_batches
from samsvae.benchmark.metrics.records import Clouds, Observation, Prediction
from samsvae.benchmark.metrics.registry import Scored, scored
from samsvae.benchmark.populations import Space
from samsvae.data.expression import Expression, control_cells, expression, rows_of, training_cells
from samsvae.data.names import SPLITS
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, unknown
from samsvae.ops.parallel import side_by_side
from samsvae.types import Scale

UNSEEN = "unseen"
"""Label of conditions of the test cells that no training cell received."""


class Subject:
    """The scored conditions of one split.

    Parameters
    ----------
    screen
        The whole screen.
    values
        Expression of all its cells on the scale, `cell gene`.
    label
        The split, or "unseen".
    cells
        `cell`: which cells are scored.
    conditions
        Which conditions, without control.
    perturbation_mean
        `gene`: mean effect of the training conditions; NaN without training cells.
    space
        In which distributions of cells are compared; None: they are not.
    """

    def __init__(
        self,
        screen: Screen,
        values: Expression,
        label: str,
        *,
        cells: np.ndarray,
        conditions: Sequence[str],
        perturbation_mean: np.ndarray,
        space: Space | None = None,
    ) -> None:
        self.screen, self.label = screen, label
        self.conditions = tuple(conditions)
        self.perturbation_mean, self.space = perturbation_mean, space
        self.cells, self.control = cells, control_cells(screen, cells)
        self.group = np.where(cells, _positions(screen, self.conditions), -1)
        self.combinations = _parts(screen, self.conditions)
        parts = [name for names in self.combinations.values() for name in names]
        self.parts = tuple(dict.fromkeys(parts))
        self.part = _positions(screen, self.parts)
        genes = screen.registry.position_of_target
        received = list(map(screen.registry.read, self.conditions))
        self.targets = [[genes[name] for name in names if name in genes] for names in received]
        # What is summed, over and over: the cells that are compared.
        self._rows = np.flatnonzero((self.group >= 0) | (self.part >= 0) | self.control)
        self._values = values.at(self._rows)
        self._points = None if space is None else space.points(self.group >= 0)

    @property
    def asked(self) -> list[str]:
        """All conditions whose effects are needed: those scored, and the parts of combinations."""
        return list(dict.fromkeys((*self.conditions, *self.parts)))

    @property
    def n_cells(self) -> np.ndarray:
        """`condition`: scored cells of each."""
        return np.bincount(self.group[self.group >= 0], minlength=len(self.conditions))

    @property
    def not_identified(self) -> list[str]:
        """Conditions whose scored cells share no batch with control cells."""
        batch, group = self.screen.batch, self.group
        comparable = np.isin(batch, np.unique(batch[self.control])) & (group >= 0)
        known = np.bincount(group[comparable], minlength=len(self.conditions)) > 0
        return [name for name, one in zip(self.conditions, known, strict=True) if not one]

    def likely(self) -> tuple[Screen, np.ndarray]:
        """Return the cells whose likelihood is scored, and the condition of each, `cell`.

        Control is one of them, the last, but beside unseen conditions.
        """
        group = self.group
        if self.label in SPLITS:
            group = np.where(self.cells & self.screen.is_control, len(self.conditions), group)
        return self.screen[group >= 0], group[group >= 0]

    def halves(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Deal the cells of each condition, and of control, to two halves at random, `cell`."""
        order = rng.permutation(len(self.screen))
        scored = (self.group >= 0) | (self.cells & self.screen.is_control)
        kind = self.screen.condition * 2 + scored  # those scored are dealt on their own
        order = order[np.argsort(kind[order], kind="stable")]
        starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
        place = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        first = np.zeros(len(order), bool)
        first[order] = place % 2 == 0
        return first, ~first

    def seen(self, cells: np.ndarray | None = None) -> Observation:
        """Return what the scored cells show; with `cells`, those of them alone."""
        among = self._among(cells)
        sums, control, rest = self._compared(self.group, len(self.conditions), among)
        observed = Observed.of(
            self.conditions,
            sums,
            control,
            rest,
            genes=self.screen.genes,
            perturbation_mean=self.perturbation_mean,
            targets=self.targets,
        )
        place = {name: i for i, name in enumerate(self.conditions)}
        scored = np.array([place[name] for name in self.combinations], int)
        beyond = self._interaction(observed.effect, among)
        return Observation(observed, scored, beyond, self._clouds(among))

    def repeated(self, cells: np.ndarray) -> Prediction:
        """Return what some of the scored cells show as a prediction of others."""
        among = self._among(cells)
        sums, control, _ = self._compared(self.group, len(self.conditions), among)
        effect = sums.mean - control.mean
        sizes = ("fixed", "observed")
        return Prediction(
            dict.fromkeys(sizes, effect),
            dict.fromkeys(sizes, self._interaction(effect, among)),
            None,
            self._clouds(among),
        )

    def _among(self, cells: np.ndarray | None) -> np.ndarray:
        return np.ones(len(self.screen), bool) if cells is None else cells

    def _interaction(self, effect: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return what combinations do beyond the sum of their parts, `combination gene`."""
        effects = pd.DataFrame(effect, list(self.conditions))
        if self.parts:
            of_parts, control, _ = self._compared(self.part, len(self.parts), among)
            singles = pd.DataFrame(of_parts.mean - control.mean, list(self.parts))
            # Of a part that is scored itself, all its cells count here, not the scored ones alone.
            effects = pd.concat([effects.drop(index=singles.index, errors="ignore"), singles])
        return interaction(effects, self.combinations)

    def _clouds(self, among: np.ndarray) -> Clouds | None:
        if self.space is None or self._points is None:
            return None
        group, points = np.where(among, self.group, -1), self._points
        rows = map(self.space.some, rows_of(group, len(self.conditions)))
        each = [points[some] if len(some) else None for some in rows]
        return Clouds(each, self.space.kernel)

    def _compared(
        self, group: np.ndarray, n_groups: int, among: np.ndarray
    ) -> tuple[Moments, Control, Moments]:
        """Return what some cells show of groups, against control; see `within_batches`."""
        group, control = np.where(among, group, -1), among & self.control
        own = group[self._rows], control[self._rows], self.screen.batch[self._rows]
        return within_batches(self._values, *own, n_groups)


def subjects(
    screen: Screen,
    scale: Scale,
    splits: Sequence[str],
    *,
    seen: Collection[str] = (),
    n_cells: int,
    seed: int,
) -> list[Subject]:
    """Return what is scored of each split: seen conditions, and unseen ones of the test apart.

    Seen are those of the training cells; of a screen without any, those that are given. Clouds of
    at most `n_cells` cells are compared, in a space found from training cells; 0: none.

    Raises
    ------
    InputError
        If a split is unknown or has no conditions to score, or "unseen" is asked for and a
        condition of the test cells is in training, too.
    """
    trained = len(screen.train) > 0
    training = set(training_cells(screen).conditions) if trained else set(seen)
    scales = scales_of(screen.registry)
    if scale not in scales:
        raise unknown("scale", scale, scales)
    if not splits:
        raise InputError(f"no split to score: expected one or more of {listed(SPLITS)}")
    values = expression(screen, scale)
    mean, space = np.full(len(screen.genes), np.nan), None
    if trained:
        mean = means_of(screen.train, scale).mean
    if trained and n_cells:
        space = Space(screen, values, scale=scale, n_cells=n_cells, seed=seed)
    found: dict[str, Subject] = {}
    for label in splits:
        if label not in (*SPLITS, UNSEEN):
            raise unknown("split", label, [*SPLITS, UNSEEN])
        cells = np.asarray(screen.split) == ("test" if label == UNSEEN else label)
        names = [n for n in screen[cells].conditions if n != screen.condition_names[0]]
        if not names:
            raise InputError(f"no condition to score: the split leaves no {label} cells of any")
        known = [name for name in names if name in training]
        if label == UNSEEN and known:
            raise InputError(
                f"the evaluation is called 'unseen', but {len(known)} of its conditions are in "
                f"training, too: {listed(known)}; split with samsvae.splits.heldout_combinations, "
                "or ask for the split 'test', which gives unseen conditions apart"
            )
        apart = UNSEEN if label in ("test", UNSEEN) else f"{label} {UNSEEN}"
        kinds = {label: known, apart: [name for name in names if name not in training]}
        found |= {
            kind: Subject(
                screen,
                values,
                kind,
                cells=cells,
                conditions=some,
                perturbation_mean=mean,
                space=space,
            )
            for kind, some in kinds.items()
            if some
        }
    return list(found.values())


def _positions(screen: Screen, conditions: Sequence[str]) -> np.ndarray:
    """Return, `cell`, the position of each cell's condition among some; -1: none of them."""
    position = np.full(len(screen.condition_names), -1)
    position[[screen.position_of_condition[name] for name in conditions]] = range(len(conditions))
    return position[screen.condition]


def _parts(screen: Screen, conditions: Sequence[str]) -> dict[str, list[str]]:
    """Return, of each combination whose parts have cells of their own, what it is made of."""
    known = set(screen.conditions)
    found = {}
    for name in conditions:
        parts = screen.registry.singles(name)
        if len(parts) > 1 and known.issuperset(parts):
            found[name] = parts
    return found


DUPLICATE = "duplicate"
"""Its name in tables."""
MEAN = "(perturbation mean)"
"""The bottom of the dynamic range, whether or not it is asked for."""


class Halved(NamedTuple):
    """One metric of one predictor over halvings."""

    scores: Scored
    """Mean statistics."""
    shares: np.ndarray
    """Dynamic range, `condition + 1`, all together last."""


def halved(
    predictions: Mapping[str, Prediction],
    subject: Subject,
    n_halvings: int,
    *,
    seed: int,
    progress: bool,
) -> dict[tuple[str, str], Halved]:
    """Score predictors and a duplicate on halves; return by predictor and metric."""
    found: dict[tuple[str, str], list[Scored]] = {}
    rng = np.random.default_rng(seed)
    for _ in track(range(n_halvings), f"{subject.label}: halves", disable=not progress):
        first, second = subject.halves(rng)
        half = subject.seen(second)
        asked = {**predictions, DUPLICATE: subject.repeated(first)}
        answers = side_by_side(partial(scored, seen=half), asked.values())
        for name, of_half in zip(asked, answers, strict=True):
            for metric, score in of_half.items():
                found.setdefault((name, metric), []).append(score)
    over_halvings = {}
    for (name, metric), scores in found.items():
        if (DUPLICATE, metric) not in found:  # coverage: a duplicate has no intervals
            continue
        ours, top, bottom = (
            np.array([one.among(of).all() for one, of in zip(theirs, scores, strict=True)])
            for theirs in (scores, found[DUPLICATE, metric], found[MEAN, metric])
        )
        span, best = top - bottom, scores[0].metric.best
        better = np.abs((bottom + span).mean(0) - best) < np.abs(bottom.mean(0) - best)
        clear = better & (np.abs(span.mean(0)) > 2 * span.std(0, ddof=min(1, n_halvings - 1)))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (ours - bottom).mean(0) / span.mean(0)
        mean = Scored(scores[0].metric, np.mean([one.statistics for one in scores], 0))
        over_halvings[name, metric] = Halved(mean, np.where(clear, shares, np.nan))
    return over_halvings
