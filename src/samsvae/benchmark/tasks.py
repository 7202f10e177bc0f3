"""Evaluation tasks: the scored conditions of a split, whole or split into random halves.

One half as a prediction of the other is a technical replicate: how well any predictor could do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track

from samsvae.benchmark.means import means_of
from samsvae.benchmark.metrics.effects import interaction
from samsvae.benchmark.metrics.observed import Observation, Observed, Prediction
from samsvae.benchmark.metrics.populations import CellPopulations, PrincipalComponents
from samsvae.benchmark.metrics.registry import Scored, scored
from samsvae.data.expression import (
    Control,
    Expression,
    Moments,
    control_cells,
    expression,
    places_within,
    training_cells,
    within_batches,
)
from samsvae.data.fold_changes import FoldChanges, fold_changes
from samsvae.data.names import SPLITS
from samsvae.data.replicates import variance_of_means
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, unknown
from samsvae.ops.parallel import side_by_side
from samsvae.types import Scale

UNSEEN = "unseen"
"""Label of conditions of the test cells that no training cell received."""
REPLICATE = "technical replicate"
"""Name in tables of the technical replicate."""
MEAN = "(perturbation mean)"
"""The bottom of the dynamic range, scored whether or not it is among the predictors."""


class EvaluationTask:
    """The scored conditions (without control) and cells of one split, or "unseen".

    `perturbation_mean` is the mean effect of training conditions, `gene`; without `components`,
    distributions of cells are not compared. With `is_ratio`, effects are log2 fold changes.
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
        components: PrincipalComponents | None = None,
        is_ratio: bool = False,
    ) -> None:
        self.is_ratio = is_ratio
        self.screen, self.label, self.conditions = screen, label, tuple(conditions)
        self.perturbation_mean, self.components = perturbation_mean, components
        self.cells, self.control = cells, control_cells(screen, cells)
        self.group = np.where(cells, _positions(screen, self.conditions), -1)
        singles, present = map(screen.registry.singles, self.conditions), set(screen.conditions)
        self.combinations = {
            name: parts
            for name, parts in zip(self.conditions, singles, strict=True)
            if len(parts) > 1 and present.issuperset(parts)
        }
        self.parts = tuple(dict.fromkeys(chain.from_iterable(self.combinations.values())))
        self.part = _positions(screen, self.parts)
        self.targets = [screen.registry.targets(name) for name in self.conditions]
        # Expression of the compared cells alone: it is summed again for each pair of halves.
        self._rows = np.flatnonzero((self.group >= 0) | (self.part >= 0) | self.control)
        self._values = values.at(self._rows)
        self._points = None if components is None else components.points(self.group >= 0)

    @property
    def all_conditions(self) -> list[str]:
        """The scored conditions, and the parts of combinations among them."""
        return list(dict.fromkeys((*self.conditions, *self.parts)))

    @property
    def n_cells(self) -> np.ndarray:
        """`condition`: scored cells of each."""
        return np.bincount(self.group[self.group >= 0], minlength=len(self.conditions))

    @property
    def not_estimable(self) -> list[str]:
        """Conditions whose scored cells share no batch with control cells."""
        batch, group = self.screen.batch, self.group
        comparable = np.isin(batch, np.unique(batch[self.control])) & (group >= 0)
        n_comparable = np.bincount(group[comparable], minlength=len(self.conditions))
        return [name for name, n in zip(self.conditions, n_comparable, strict=True) if not n]

    def likelihood_cells(self) -> tuple[Screen, np.ndarray]:
        """Return the cells whose likelihood is scored, and their conditions (control last)."""
        group = self.group
        if self.label in SPLITS:
            group = np.where(self.cells & self.screen.is_control, len(self.conditions), group)
        return self.screen[group >= 0], group[group >= 0]

    def halves(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Split the cells of each condition, and of control, into random halves, `cell` each."""
        is_scored = (self.group >= 0) | (self.cells & self.screen.is_control)
        kind = self.screen.condition * 2 + is_scored  # scored cells are halved on their own
        order = rng.permutation(len(self.screen))
        first = np.zeros(len(order), bool)
        first[order] = places_within(kind[order]) % 2 == 0
        return first, ~first

    def observation(self, cells: np.ndarray | None = None) -> Observation:
        """Return what the scored cells show; with `cells`, those of them alone."""
        among = np.ones(len(self.screen), bool) if cells is None else cells
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
        if self.is_ratio:
            observed = observed.as_fold_changes(
                self._fold_changes(self.group, len(self.conditions), among)
            )
        elif self.screen.replicate is not None:
            compared = *self._among(self.group, among), len(self.conditions)
            own, of_control = variance_of_means(self._values, self._compared_cells, *compared)
            observed = observed.with_more_variance(own + of_control)
        place = {name: i for i, name in enumerate(self.conditions)}
        combinations = np.array([place[name] for name in self.combinations], int)
        beyond = self._interaction(observed.effect, among)
        return Observation(observed, combinations, beyond, self._populations(among))

    def replicate(self, cells: np.ndarray) -> Prediction:
        """Return what some of the scored cells show as a prediction of others."""
        effect = self._effect(self.group, len(self.conditions), cells)
        sizes = "fixed", "observed"
        interactions = dict.fromkeys(sizes, self._interaction(effect, cells))
        return Prediction(
            dict.fromkeys(sizes, effect), interactions, None, self._populations(cells)
        )

    def _interaction(self, effect: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return what combinations do beyond the sum of their parts, `combination gene`."""
        effects = pd.DataFrame(effect, list(self.conditions))
        if self.parts:
            of_parts = self._effect(self.part, len(self.parts), among)
            singles = pd.DataFrame(of_parts, list(self.parts))
            # Of a part that is scored itself, all its cells count here, not the scored ones alone.
            effects = pd.concat([effects.drop(index=singles.index, errors="ignore"), singles])
        return interaction(effects, self.combinations)

    def _populations(self, among: np.ndarray) -> CellPopulations | None:
        if self.components is None or self._points is None:
            return None
        group = np.where(among, self.group, -1)
        return self.components.populations(self._points, group, len(self.conditions))

    def _effect(self, group: np.ndarray, n_groups: int, among: np.ndarray) -> np.ndarray:
        """Return the effects of groups in some cells, `group gene`."""
        if self.is_ratio:
            return self._fold_changes(group, n_groups, among).difference
        sums, control, _ = self._compared(group, n_groups, among)
        return sums.mean - control.mean

    def _fold_changes(self, group: np.ndarray, n_groups: int, among: np.ndarray) -> FoldChanges:
        """Return log2 fold changes relative to the typical gene."""
        compared = *self._among(group, among), n_groups
        change, _ = fold_changes(self._compared_cells, *compared).from_typical_gene
        return change

    def _among(self, group: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the groups of some cells (-1: none), and which are control, `compared cell`."""
        return np.where(among, group, -1)[self._rows], (among & self.control)[self._rows]

    @cached_property
    def _compared_cells(self) -> Screen:
        return self.screen[self._rows]

    def _compared(
        self, group: np.ndarray, n_groups: int, among: np.ndarray
    ) -> tuple[Moments, Control, Moments]:
        """Return the sums over some cells by group, and their control; see `within_batches`."""
        batch = self.screen.batch[self._rows]
        return within_batches(self._values, *self._among(group, among), batch, n_groups)


def evaluation_tasks(
    screen: Screen,
    scale: Scale,
    splits: Sequence[str],
    *,
    training_conditions: Collection[str] = (),
    n_cells: int,
    seed: int,
) -> list[EvaluationTask]:
    """Return what is scored in each split, conditions that are not in training as a task apart.

    `training_conditions` of the predictors count for a screen without training cells.
    """
    trained = len(screen.train) > 0
    training = set(training_cells(screen).conditions if trained else training_conditions)
    scales = screen.registry.scales
    if scale not in scales:
        raise unknown("scale", scale, scales)
    if not splits:
        raise InputError(f"no split to score: expected one or more of {listed(SPLITS)}")
    is_ratio = scale == "lfc"
    of_cells: Scale = "log" if is_ratio else scale  # fold changes are of groups of cells
    values = expression(screen, of_cells)
    no_mean, components = np.full(len(screen.genes), np.nan), None
    mean = means_of(screen.train, scale).mean if trained else no_mean
    if trained and n_cells:
        components = PrincipalComponents(screen, values, scale=of_cells, n_cells=n_cells, seed=seed)
    make = partial(
        EvaluationTask,
        screen,
        values,
        perturbation_mean=mean,
        components=components,
        is_ratio=is_ratio,
    )
    tasks: dict[str, EvaluationTask] = {}
    for split in splits:
        for label, (cells, conditions) in _scored_conditions(screen, split, training).items():
            tasks[label] = make(label, cells=cells, conditions=conditions)
    return list(tasks.values())


def _scored_conditions(
    screen: Screen, split: str, training: Collection[str]
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return the cells and conditions of a split, by label of the task."""
    if split not in (*SPLITS, UNSEEN):
        raise unknown("split", split, [*SPLITS, UNSEEN])
    cells = np.asarray(screen.split) == ("test" if split == UNSEEN else split)
    names = [n for n in screen[cells].conditions if n != screen.condition_names[0]]
    if not names:
        raise InputError(f"no condition to score: the split leaves no {split} cells of any")
    in_training = [name for name in names if name in training]
    if split == UNSEEN and in_training:
        raise InputError(
            f"the evaluation is called 'unseen', but {len(in_training)} of its conditions are in "
            f"training, too: {listed(in_training)}; split with "
            "samsvae.splits.heldout_combinations, or score the split 'test', which gives unseen "
            "conditions apart"
        )
    apart = UNSEEN if split in ("test", UNSEEN) else f"{split} {UNSEEN}"
    tasks = {split: in_training, apart: [name for name in names if name not in training]}
    return {label: (cells, conditions) for label, conditions in tasks.items() if conditions}


def _positions(screen: Screen, conditions: Sequence[str]) -> np.ndarray:
    """Return, `cell`, the position of each cell's condition among some; -1: none of them."""
    return pd.Index(conditions, dtype=object).get_indexer(screen.condition_names)[screen.condition]


class SplitHalfScores(NamedTuple):
    """One metric of one predictor over random halves of the cells."""

    scores: Scored
    """Mean statistics."""
    dynamic_range: np.ndarray
    """`condition + 1`, all together last."""


def split_half_scores(
    predictions: Mapping[str, Prediction],
    task: EvaluationTask,
    n_halvings: int,
    *,
    seed: int,
    progress: bool,
) -> dict[tuple[str, str], SplitHalfScores]:
    """Return means over random halves of the cells, by predictor (and replicate) and metric."""
    scores: dict[tuple[str, str], list[Scored]] = {}
    rng = np.random.default_rng(seed)
    for _ in track(range(n_halvings), f"{task.label}: halves", disable=not progress):
        first, second = task.halves(rng)
        half = task.observation(second)
        scored_predictions = {**predictions, REPLICATE: task.replicate(first)}
        of_half = side_by_side(partial(scored, observation=half), scored_predictions.values())
        for name, metrics in zip(scored_predictions, of_half, strict=True):
            for metric, score in metrics.items():
                scores.setdefault((name, metric), []).append(score)
    halves: dict[tuple[str, str], SplitHalfScores] = {}
    for (name, metric), own in scores.items():
        if (REPLICATE, metric) not in scores:  # coverage: a replicate has no intervals
            continue
        ours, top, bottom = (
            np.array([one.among(of).all() for one, of in zip(theirs, own, strict=True)])
            for theirs in (own, scores[REPLICATE, metric], scores[MEAN, metric])
        )
        span, best = top - bottom, own[0].metric.best
        is_better = np.abs((bottom + span).mean(0) - best) < np.abs(bottom.mean(0) - best)
        sd = span.std(0, ddof=min(1, len(own) - 1))
        is_clear = is_better & (np.abs(span.mean(0)) > 2 * sd)
        with np.errstate(invalid="ignore", divide="ignore"):
            dynamic_range = (ours - bottom).mean(0) / span.mean(0)
        mean = Scored(own[0].metric, np.mean([one.statistics for one in own], 0))
        dynamic_range[~is_clear] = np.nan
        halves[name, metric] = SplitHalfScores(mean, dynamic_range)
    return halves
