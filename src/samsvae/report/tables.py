"""The tables of a report, its tables of scores, and cautions: what speaks against its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samsvae.benchmark.metrics.effects import is_uninformative
from samsvae.data.cautions import Caution, named


@dataclass(frozen=True, kw_only=True)
class ReportTables:
    """All that a report shows of a trained model. A table that is missing is None."""

    name: str
    """Name of the run."""
    model: str
    """Name of the model in tables of scores."""
    card: Mapping[str, Any]
    """The model card: version, seed, training time, machine, by name."""
    settings: Mapping[str, Any]
    """Settings of the run."""
    history: pd.DataFrame
    """As `model.history`."""
    overview: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the screen: n_cells, n_control_cells, n_genes, n_perturbations, n_combinations,
    library_size (quantiles 0, 25, 50, 75, 100 %; NaN for real values, which have none)."""
    cells: pd.DataFrame | None = None
    """By condition, control first: cells in each split and in `total`; `library_size` (median),
    `estimable` (False: confounded with batches), `is_trained`."""
    sgrnas: pd.DataFrame | None = None
    """As `samsvae.sgrnas` returns them."""
    assignment: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """How cells were given their sgRNA by its counts: `rules`, `loading`, `quantiles` and
    `per_sgrna` of `samsvae.assign_sgrnas`; empty where labels were read."""
    responders: pd.DataFrame | None = None
    """The `rates` of `model.responders`."""
    batches: pd.DataFrame | None = None
    """By batch: control, perturbed (cells), n_conditions."""
    unexpressed: tuple[str, ...] = ()
    """Genes without a count in training."""
    scores: pd.DataFrame | None = None
    """Scores over all conditions: predictor, kind ("model", "baseline" or "replicate"), split,
    metric, value, lower, upper, sd (over seeds), best (the best possible value)."""
    fits: pd.DataFrame | None = None
    """Of a comparison, by model and seed: model, seed, step (of the model that was kept),
    validation_elbo, dimensions_in_use, and the scores on test cells by metric."""
    stability: pd.DataFrame | None = None
    """As `samsvae.stability`; of a comparison, with the name of each model in `model`."""
    effects: pd.DataFrame | None = None
    """As `samsvae.discoveries`; without `lfsr` and `q_value` if no error rates could be learned."""
    on_target: pd.DataFrame | None = None
    """As `samsvae.on_target`."""
    scale: str = "log"
    """Scale of the effects."""
    similar: Mapping[str, list[tuple[str, float]]] = field(default_factory=dict)
    """By condition: those with the most similar effects, and the correlations."""
    combinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By combination: its parts."""
    mechanisms: pd.DataFrame | None = None
    """As `model.mechanisms`."""
    inclusion: pd.DataFrame | None = None
    """As `model.inclusion`."""
    contexts: pd.DataFrame | None = None
    """As `model.context_differences`; None: effects are the same in all contexts."""
    interactions: pd.DataFrame | None = None
    """As `model.interactions`; None: combinations are the sums of their parts."""
    cautions: tuple[Caution, ...] = ()
    """Of the model and the cells, as `model.cautions`."""
    notes: tuple[str, ...] = ()
    """Warnings of the model and its tables."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By section: why it is empty, and what to do."""
    methods: str = ""
    """As `samsvae.methods_text`."""
    paths: tuple[str, ...] = ()
    """Paths of the complete tables, relative to the report."""

    @property
    def has_error_rates(self) -> bool:
        """Whether effects have error rates."""
        return self.effects is not None and "lfsr" in self.effects


_TITLES = {
    "test": "Test cells of conditions seen in training",
    "unseen": "Test cells of conditions never seen in training",
    "valid": "Validation cells",
    "train": "Training cells",
}
MEANINGS = {
    "iwelbo": "How likely are the held-out cells? Nats per cell; models only.",
    "ate_pearson": "Do predicted effects correlate with observed ones, over conditions and genes?",
    "ate_pearson_observed_size": "The same, at the cells' own library sizes.",
    "ate_r2": "Do effects also have the right size? 0: no better than predicting no change.",
    "pearson_from_perturbation_mean": "Is the direction right, given what all perturbations share?",
    "perturbation_discrimination": "Can each condition be told apart from others? 1/2: chance.",
    "rmse": "How far are effects from observed ones? With few cells, no change is hard to beat.",
    "e_distance": "Are simulated cells distributed like real ones, not only in their means?",
    "variance_ratio": "Are intervals as wide as the errors? Below 1: too narrow.",
    "coverage_90": "Which share of the observed effects lies within the 90 % intervals?",
    "coverage_90_zero_width": "The same for intervals of no width: if alike, it tells nothing.",
    "coverage_50": "Which share of the observed effects lies within the 50 % intervals?",
    "interaction_pearson": "What do combinations do beyond the sum of their parts? The sum has 0.",
}
"""The question that each score answers."""
PREDICTORS = {
    "no-change": "Every condition is like control.",
    "perturbation-mean": "Every condition has the mean effect of all perturbed conditions.",
    "condition-mean": "The effect in the condition's own n training cells, times n / (n + 50).",
    "ridge-regression": "Ridge regression of effects on which perturbations a condition has.",
    "additive": "The sum of the effects of a combination's perturbations.",
    "matching-mean": "The mean of the effects of a combination's perturbations.",
    "linear-pca": "A linear map from the principal components of the perturbed gene to its effect.",
    "feature-neighbours": "The mean effect of the three perturbations with most similar features.",
    "feature-ridge": "Kernel ridge regression of effects on features of perturbations.",
    "technical replicate": "One half of the held-out cells predicts the other half.",
}
"""What each predictor that is no model says."""


class Score(NamedTuple):
    """One score of one predictor."""

    value: float
    sd: float
    lower: float
    upper: float
    is_best: bool


class Scoreboard(NamedTuple):
    """The scores on one split."""

    title: str
    metrics: list[str]
    aims: list[str]
    """For each metric, which value is best."""
    rows: list[tuple[str, str, list[Score | None]]]
    """Predictor, kind, its scores."""


def scoreboards(scores: pd.DataFrame | None) -> list[Scoreboard]:
    """Return a table per split, models first, then baselines, then the technical replicate."""
    boards: list[Scoreboard] = []
    if scores is None:
        return boards
    value, aim = scores["value"].to_numpy(float), scores["best"].to_numpy(float)
    # Of scores without a best possible value, how low they are.
    distance = np.where(np.isinf(aim), -value * np.sign(aim), np.abs(value - aim))
    order = {"model": 0, "baseline": 1, "replicate": 2}
    scores = scores.assign(distance=distance)
    for split, rows in scores.groupby("split", sort=False):
        best = rows.drop_duplicates("metric").set_index("metric")["best"]
        aims = ["higher is better" if np.isinf(b) else f"{b:g} is best" for b in best.astype(float)]
        # A technical replicate is data, not a prediction: it does not compete.
        is_competing = rows["kind"] != "replicate"
        nearest = rows[is_competing & rows["value"].notna()].groupby("metric")["distance"].min()
        is_best = is_competing & (rows["distance"] <= rows["metric"].map(nearest))
        rows = rows.assign(is_best=is_best)
        rows = rows.sort_values("kind", key=lambda kind: kind.map(order), kind="stable")
        predictors = []
        for (predictor, kind), own in rows.groupby(["predictor", "kind"], sort=False):
            columns = own.dropna(subset="value")[["metric", *Score._fields]]
            by_metric = {name: Score(*values) for name, *values in columns.itertuples(index=False)}
            of_metrics = [by_metric.get(metric) for metric in best.index]
            predictors.append((str(predictor), str(kind), of_metrics))
        title = _TITLES.get(str(split), f"{split} cells")
        boards.append(Scoreboard(title, list(best.index), aims, predictors))
    return boards


def directions(mechanisms: pd.DataFrame, n_max: int = 4) -> dict[str, list[tuple[str, str]]]:
    """Return, by mechanism, which perturbations change its genes as stated, and which inversely.

    Pairs of a sign ("positive", "negative") and the members with shifts of that sign (of a
    mechanism without members, the candidates); the first raise the genes in `up`. The second may be
    none.
    """
    answer = {}
    for name, row in mechanisms.iterrows():
        names, shifts = row["perturbations"], row["shifts"]
        if not names:
            names, shifts = row["candidates"], row["candidate_shifts"]
        is_positive = np.asarray(shifts) > 0
        first = row["direction"] == "positive"
        answer[str(name)] = [
            (
                "positive" if sign else "negative",
                named(np.asarray(names, object)[is_positive == sign], n_max),
            )
            for sign in (first, not first)
        ]
    return answer


_LIKELY = 0.5
"""Probability above which a difference between contexts, or an interaction, is shown."""


def likely(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of differences between contexts, or interactions, that are shown."""
    return table[table["probability"] > _LIKELY]


def context_map(differences: pd.DataFrame, n_max: int) -> pd.DataFrame:
    """Return how far perturbations lie from their mean over contexts, those that differ most first.

    One row per perturbation that differs in some context with a probability above 1/2, at most
    `n_max`, one column per context: the length of the shift in the dimensions in which it does
    (those of one row of `differences` count for both contexts, where a perturbation has only two).
    NaN: it has no training cells there.
    """
    shift = likely(differences)["shift"].reindex(differences.index, fill_value=0.0)
    square = np.square(shift)
    own = square.groupby([differences["perturbation"], differences["context"]], sort=False).sum()
    one_other = ~differences["against"].str.contains(", ", regex=False)
    mirrored = differences["against"].where(one_other).dropna()
    rows = differences.loc[mirrored.index, "perturbation"]
    mirror = square[mirrored.index].groupby([rows, mirrored.rename("context")], sort=False).sum()
    table = np.sqrt(pd.concat([own, mirror]).groupby(level=[0, 1], sort=False).max().unstack())
    order = table.max(axis=1).sort_values(ascending=False, kind="stable")
    return table.loc[order.index[order > 0][:n_max]].sort_index(axis=1)


_DENSE = 1 / 3
"""Share of mask entries in use above which no axes are sparser than others."""
_MAX_MISCOVERAGE = 0.1
"""Largest difference between the coverage of intervals and their level."""
_MIN_PEARSON = 0.9
_MIN_JACCARD = 0.5


def cautions(report: ReportTables) -> list[Caution]:
    """Return every caution that the numbers give, the serious ones first."""
    is_scored = report.scores is not None
    unsorted = [
        *report.cautions,
        *(cautions_of_scores(report.scores) if is_scored else _not_evaluated(report)),
        *_of_mechanisms(report),
        *_of_seeds(report),
    ]
    return sorted(unsorted, key=lambda caution: not caution.is_serious)


def _not_evaluated(report: ReportTables) -> Iterator[Caution]:
    yield Caution("Not evaluated", report.missing.get("evaluation", ""))


def cautions_of_scores(scores: pd.DataFrame) -> Iterator[Caution]:
    """Yield what scores say against a model; they are as `ReportTables.scores`."""
    for split, rows in scores.groupby("split", sort=False):
        where = f"{split} cells" if split != "unseen" else "cells of unseen conditions"
        own = rows[rows["kind"] == "model"].drop_duplicates("metric").set_index("metric")
        yield from _wins_of_baselines(rows, where)
        yield from _of_intervals(own, where)


def _of_intervals(own: pd.DataFrame, where: str) -> Iterator[Caution]:
    """Yield what a model's scores, by metric, say against its intervals."""
    value: dict[Any, float] = own["value"].to_dict()
    for level in (50, 90):
        covered = value.get(f"coverage_{level}", np.nan)
        if abs(covered - level / 100) > _MAX_MISCOVERAGE:
            yield Caution(
                "Intervals are off",
                f"On {where}, {covered:.0%} of the observed effects lie in the model's {level} % "
                f"intervals: they are too {'narrow' if covered < level / 100 else 'wide'}.",
            )
    if "variance_ratio" in own.index:
        ratio, lower, upper = own.loc["variance_ratio", ["value", "lower", "upper"]].astype(float)
        if upper < 1 - _MAX_MISCOVERAGE or lower > 1 + _MAX_MISCOVERAGE:
            yield Caution(
                "Intervals are off",
                f"On {where} the variance that intervals claim is {ratio:.2f} times that of the "
                f"errors (95 % interval {lower:.2f} to {upper:.2f}): they are too "
                f"{'narrow' if ratio < 1 else 'wide'}.",
            )
    if is_uninformative(value):
        yield Caution(
            "Coverage is uninformative",
            f"On {where} as many observed effects lie in intervals of no width as in the model's: "
            "the sampling error of the cells hides its own. Only the variance ratio tells whether "
            "its intervals are right.",
            is_serious=False,
        )


def _wins_of_baselines(scores: pd.DataFrame, where: str) -> Iterator[Caution]:
    """Yield what baselines are better at than the model with data (else the model), clearly.

    That is, if the interval of the difference excludes 0; where there is none, as in means over
    seeds, if the model's own interval excludes the baseline's value.
    """
    models = scores[scores["kind"] == "model"]
    if models.empty:
        return
    # The predictor that others are compared with has no difference itself.
    compared = models.groupby("predictor", sort=False)["difference"].count()
    own = models[models["predictor"] == (compared == 0).idxmax()]
    own = own.drop_duplicates("metric").set_index("metric")
    wins = []
    for metric, rows in scores[scores["kind"] == "baseline"].groupby("metric", sort=False):
        if metric not in own.index or str(metric).startswith("coverage"):
            continue
        row = own.loc[metric]
        distance = (rows["value"] - row["best"]).abs()
        if not distance.min() < abs(row["value"] - row["best"]):
            continue
        best = rows.loc[distance.idxmin()]
        low, high = best["difference_lower"], best["difference_upper"]
        if np.isnan(low):  # as far from the ends of the model's interval
            low, high = best["value"] - row["upper"], best["value"] - row["lower"]
        if low > 0 or high < 0:
            size = best["value"] - row["value"]
            wins.append(
                f"{metric}: {best['predictor']} {best['value']:.3f}, {row['predictor']} "
                f"{row['value']:.3f}, difference {size:+.3f} ({low:+.3f} to {high:+.3f})"
            )
    if wins:
        yield Caution(
            "A baseline wins",
            f"On {where} a simple baseline is better than the model in {len(wins)} of the scores "
            f"shown ({'; '.join(wins)}). If that score matters most to you, use the baseline.",
            is_serious=any(text.startswith(("ate_", "pearson")) for text in wins),
        )


def _of_mechanisms(report: ReportTables) -> Iterator[Caution]:
    for text in report.notes:
        if "axes" in text:
            sentence = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
            yield Caution("Axes are not identified", sentence)
    if report.mechanisms is not None and report.mechanisms.empty:
        yield Caution(
            "No mechanism found",
            "No perturbation shifts any latent dimension with a probability above 1/2: there are "
            "no effects, or they are too weak for this number of cells.",
        )
    inclusion = report.inclusion
    if inclusion is None:
        return
    is_used = inclusion["probability"] > 0.5
    among = inclusion["dimension"].isin(inclusion.loc[is_used, "dimension"])
    share = is_used[among].mean()
    if share > _DENSE and inclusion.loc[among, "perturbation"].nunique() > 2:
        yield Caution(
            "Shifts are dense",
            f"{share:.0%} of the pairs of perturbation and mechanism are in use: no axes are much "
            "sparser than others, so do not rely on single mechanisms.",
        )


def _of_seeds(report: ReportTables) -> Iterator[Caution]:
    table = report.stability
    if table is None:
        yield Caution(
            "One seed",
            "The results of a single seed may depend on it: samsvae compare trains several.",
            is_serious=False,
        )
        return
    models = table["model"] if "model" in table else pd.Series(report.model, table.index)
    for name, pairs in table.groupby(models, sort=False):
        is_own = name == report.model
        seeds, mean = f"Seeds{'' if is_own else f' of {name}'}", pairs.mean(numeric_only=True)
        if mean["mask_jaccard"] < _MIN_JACCARD:
            yield Caution(
                f"{seeds} disagree on mechanisms",
                f"Models of different seeds share {mean['mask_jaccard']:.0%} of their mask "
                f"entries (Jaccard index; {mean['mask_jaccard_chance']:.0%} by chance).",
                is_serious=is_own,
            )
        if mean["effect_pearson"] < _MIN_PEARSON:
            yield Caution(
                f"{seeds} disagree on effects",
                f"Effects of models of different seeds correlate at {mean['effect_pearson']:.2f}.",
                is_serious=is_own,
            )
