"""The table of discoveries: which genes each condition changes, at what error rate.

And what it answers: what changes a gene, and whether error rates hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rich.progress import track

from samsvae._deprecated import renamed_arguments
from samsvae.analysis.contexts import contexts_apart, difference_of_contexts
from samsvae.analysis.effect_posterior import EffectAnswer, EffectPosterior
from samsvae.analysis.gene_sets import need_columns
from samsvae.analysis.interactions import interactions_of
from samsvae.analysis.ordering import surest_first
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.estimators.base import Estimator
from samsvae.estimators.cautions import Cautions, titles_of
from samsvae.estimators.unmeasured import Unmeasured
from samsvae.inference.unmeasured import q_values
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import DiscoverySettings, RegulatorSettings
from samsvae.settings.train import TrainSettings
from samsvae.types import Scale

_SURE = 0.05
"""An lfsr below which an effect is sure."""
_CLEAR = 4.0
"""Standard errors at which an effect is nearly always seen."""


@checked
@takes(DiscoverySettings)
def discoveries(
    model: Estimator, screen: Screen, conditions: Conditions | None = None, **settings: Any
) -> pd.DataFrame:
    """Return the effect of every condition on every gene, with its local false sign rate.

    The estimate is the posterior mean of the effect given both the model's prediction and the
    cells, see `samsvae.analysis.mixture`: close to the data where there are many cells, to the
    model where there are few. That of a combination without cells is the sum of its parts', see
    `samsvae.analysis.additivity`. Of a perturbation without cells, features tell, if the model has
    any. Predictions are weighted by how well they match validation cells.

    Parameters
    ----------
    model, screen
        A model trained on the screen's training cells; the screen with training and validation
        cells, all of which are observations, matched by gene and perturbation name.
    conditions
        As in `model.effects`; by default all training conditions but control.
    **settings
        by ("condition", "sgrna", "context" or "interaction"), context, cells ("all", or
        "responders"), contamination (0), scale ("lfc"), relative_to ("typical gene"), n_particles
        (1000), seed (0), progress; see
        `samsvae.settings.questions.DiscoverySettings`.

    Returns
    -------
    One row per condition (and `sgrna`, or `context`), in the order asked for, and `gene`, the
    surest first. By context they are of how an effect in a context differs from the mean of those
    in the others, by interaction of what a combination does beyond the sum of its parts; n_cells
    are those of the smallest of them:

    - estimate, sd, lower and upper: posterior mean, standard deviation and 90 % interval;
    - lfsr: local false sign rate, the probability that the effect is null or of the other sign;
    - q_value: the expected share of such errors among all rows with an lfsr at most as large, which
      are surer than the row itself: it may be below 0.05 where the lfsr is above;
    - lower_if_changed and upper_if_changed: the 90 % interval given that there is an effect;
      informative: False where an interval about 0 only means that there are too few cells to tell
      (an effect of the size of this table's surest ones might not have been seen);
    - model: ATE; observed: DE within batches (NaN without cells); n_cells; scale;
    - on_target: whether a perturbation of the condition is named after the gene;
    - composition, of fold changes relative to the typical gene: that of the typical gene, which was
      subtracted;
    - support and closest, of a model with features: see `model.with_features`;
    - caution: titles of what speaks against the condition's results (`attrs["cautions"]` has the
      sentences, and those that concern all; see `model.cautions`).

    NaN, with an lfsr of 1, where the model has no prediction or the effect is not estimable
    (confounded with batches).

    Raises
    ------
    InputError
        If the model is not trained, or there are no validation cells; or if `cells` is "responders"
        and the model has none.

    Examples
    --------
    >>> table = samsvae.discoveries(model, screen, n_particles=50, progress=False)
    >>> len(table) == len(model.metadata.conditions[1:]) * len(screen.genes)
    True
    """
    chosen = DiscoverySettings(**settings)
    of_effects = chosen.of_effects()
    names = model.metadata.labels(conditions)
    labels = {"condition": names}
    if chosen.by == "context":
        apart = contexts_apart(model.metadata.cells_per_context, model.registry)
        pairs = [(name, context, weights) for name in names for context, weights in apart]
        asked = [
            {(model.metadata.stored(name), other): weight for other, weight in weights.items()}
            for name, _, weights in pairs
        ]
        answer, _ = difference_of_contexts(model, screen, asked, chosen)
        labels = {"condition": [one[0] for one in pairs], "context": [one[1] for one in pairs]}
    elif chosen.by == "interaction":
        asked_for = None if conditions is None else names
        answer, names = interactions_of(model, screen, asked_for, chosen)
        labels = {"condition": names}
    elif chosen.by == "sgrna":
        predictor = EffectPosterior.of(model, screen, chosen)
        answer, of_sgrnas = predictor.answer_by_sgrna(names, of_effects)
        labels = {"condition": [c for c, _ in of_sgrnas], "sgrna": [one for _, one in of_sgrnas]}
    else:
        predictor = EffectPosterior.of(model, screen, chosen)
        answer = predictor.answer(names, of_effects, np.ones(len(predictor.screen), bool))
    values = columns_of(answer, model.metadata.unexpressed)
    n_genes, composition = len(model.registry.genes), answer.observed.composition
    if np.isfinite(composition).any():
        values["composition"] = np.repeat(composition, n_genes)
    values["n_cells"] = np.repeat(answer.observed.n_cells, n_genes)
    more = Unmeasured(model.metadata).columns(list(map(model.metadata.stored, labels["condition"])))
    values |= {name: np.repeat(column, n_genes) for name, column in more.items()}
    is_target = np.zeros((len(labels["condition"]), n_genes), bool)
    for row, name in zip(is_target, labels["condition"], strict=True):
        row[model.registry.targets(name)] = True
    values["on_target"] = is_target
    found = Cautions(model).found(screen)
    has_cells = answer.observed.n_cells > 0
    titles = titles_of(found, labels["condition"], model.registry, has_cells)
    values["caution"] = np.repeat(titles, n_genes)
    scale = chosen.scale or model.default_scale
    table = surest_first(long_table(labels, model.registry.genes, values, scale), *labels)
    table["caution"] = table["caution"].astype("category")
    table.attrs |= {"scale": scale, "relative_to": chosen.relative_to, "cells": chosen.cells}
    table.attrs["contamination"] = chosen.contamination
    table.attrs["cautions"] = [f"{one.title}. {one.text}" for one in found]
    if answer.additivity is not None:
        of_sums = answer.additivity
        table.attrs |= {"n_combinations": of_sums.n_combinations, "non_additivity": of_sums.slope}
    table.attrs |= {"model_share": answer.prior.model_share, "slope": answer.prior.weights.slope}
    return table


def columns_of(answer: EffectAnswer, unexpressed: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of a table of effects, `condition gene` each.

    `unexpressed`, `gene`, says of which genes nothing is known.
    """
    posterior = answer.posterior
    has_answer = ~unexpressed & answer.estimable[:, None]
    lfsr = np.where(has_answer, posterior.lfsr, 1)
    # Rows without cells are pooled among themselves, and so are those that features alone tell of.
    q_value, has_cells = np.empty_like(lfsr), answer.observed.n_cells > 1
    of_features = has_cells & False if answer.of_features is None else answer.of_features
    for rows in (has_cells, ~has_cells & ~of_features, ~has_cells & of_features):
        q_value[rows] = q_values(lfsr[rows])
    return {
        "estimate": np.where(unexpressed, 0, posterior.mean),
        "sd": np.where(has_answer, posterior.sd, np.nan),
        "lower": np.where(has_answer, posterior.lower, np.nan),
        "upper": np.where(has_answer, posterior.upper, np.nan),
        "lfsr": lfsr,
        "q_value": q_value,
        "lower_if_changed": np.where(has_answer, posterior.lower_if_changed, np.nan),
        "upper_if_changed": np.where(has_answer, posterior.upper_if_changed, np.nan),
        "informative": has_answer & _is_informative(answer),
        "model": answer.predicted.effect,
        "observed": answer.observed.difference,
    }


def _is_informative(answer: EffectAnswer) -> np.ndarray:
    """Return whether the interval of each effect tells something, `condition gene`.

    Where there are few cells, it is about 0 whether or not there is an effect. It tells something
    if one of the size that changed genes of the table have is four standard errors, or two where
    an effect is more probable than none.
    """
    posterior = answer.posterior
    size = np.abs(posterior.mean[posterior.lfsr < _SURE])
    typical = float(np.median(size)) if len(size) else 0.0
    error = np.sqrt(np.where(answer.observed.is_observed, answer.observed.variance, np.inf))
    is_likely = (posterior.prob_null < 0.5) & (_CLEAR / 2 * error < typical)
    return is_likely | (_CLEAR * error < typical)


def long_table(
    labels: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    values: Mapping[str, np.ndarray],
    scale: Scale,
) -> pd.DataFrame:
    """Return a table of all labels and genes: their names, values (`label gene` each), `scale`."""
    shape = len(next(iter(labels.values()))), len(genes)
    row, gene = (place.ravel() for place in np.indices(shape, np.int32))
    return pd.DataFrame(
        {
            **{k: pd.Categorical(v, list(dict.fromkeys(v)))[row] for k, v in labels.items()},
            "gene": pd.Categorical.from_codes(gene, list(genes)),
            **{name: column.ravel() for name, column in values.items()},
            "scale": pd.Categorical.from_codes(0 * gene, [scale]),
        }
    )


@renamed_arguments(rate="lfsr")
@checked
@takes(RegulatorSettings)
def regulators(table: pd.DataFrame, gene: str, **settings: Any) -> pd.DataFrame:
    """Return which conditions change a gene: its rows of `samsvae.discoveries`, the surest first.

    Parameters
    ----------
    table, gene
        From `samsvae.discoveries`, and one of its genes.
    **settings
        lfsr (1): leave out rows with a larger local false sign rate.

    Raises
    ------
    InputError
        If there is no such gene, or a column is missing.
    """
    need_columns(table, "gene", "estimate", "lfsr")
    genes = table["gene"].astype(str)
    if gene not in set(genes):
        raise unknown("gene", gene, list(pd.unique(genes)))
    own = table[(genes == gene) & (table["lfsr"] <= RegulatorSettings(**settings).lfsr)]
    return surest_first(own)


@checked
@takes(TrainSettings)
def control_calibration(
    model: Estimator, screen: Screen, *, n_particles: int = 1000, **training: Any
) -> pd.DataFrame:
    """Return the lfsr of effects that are known to be null: of control sgRNAs.

    In turn, the control cells of each sgRNA are relabelled as a perturbation, and a model with the
    same hyperparameters is trained on that screen: all its discoveries of it are false.

    Parameters
    ----------
    model, screen
        A model with the hyperparameters, trained or not; a screen with training and validation
        cells, read with `sgrna_key`, with several sgRNAs among the control cells.
    n_particles, **training
        Of the models' effects; as in `model.train`, by default as many steps as the model had, if
        it is trained.

    Returns
    -------
    One row per control sgRNA (the `condition`) and gene, as in `discoveries`. `share` is the share
    of these rows with an lfsr at most as small: the false positive rate of calls at that lfsr. In a
    calibrated table it is below the lfsr.

    Raises
    ------
    InputError
        If no sgRNA is known, or the control cells have fewer than two.
    """
    screen = model.matched(screen)
    if screen.sgrna is None:
        raise InputError("the sgRNAs of the cells are not known: read the screen with sgrna_key")
    names = sorted(set(screen.sgrna[screen.is_control].dropna()))
    if len(names) < 2:
        raise InputError(f"control cells have {len(names)} sgRNAs: expected at least two")
    if model.is_trained and not {"max_steps", "max_epochs"} & training.keys():
        training["max_steps"] = max(1, int(model.history["step"].max()))
    progress, seed = bool(training.pop("progress", True)), int(training.get("seed", 0))
    tables = []
    for name in track(names, "control sgRNAs", disable=not progress):
        relabelled = _relabelled(screen, name)
        own = type(model)(relabelled, **model.hyperparameters).train(**training, progress=False)
        tables.append(
            discoveries(own, relabelled, [name], n_particles=n_particles, seed=seed, progress=False)
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(share=table["lfsr"].rank(method="max") / len(table))


def _relabelled(screen: Screen, sgrna: str) -> Screen:
    """Return a screen in which the control cells of an sgRNA are those of a perturbation."""
    names = (*screen.perturbations, sgrna)
    order = sorted(range(len(names)), key=names.__getitem__)
    is_relabelled = screen.is_control & np.asarray(screen.sgrna == sgrna)
    column = sp.csr_matrix(is_relabelled[:, None], dtype=screen.dosage.dtype)
    condition = np.where(is_relabelled, len(screen.condition_names), screen.condition)
    absence = screen.absence
    if absence is not None:  # of the relabelled cells it is not asked
        absence = sp.hstack([absence, sp.csr_matrix((len(screen), 1))], "csr")[:, order]
    return replace(
        screen,
        absence=absence,
        registry=replace(screen.registry, perturbations=tuple(names[i] for i in order)),
        dosage=sp.hstack([screen.dosage, column], "csr")[:, order],
        condition_names=(*screen.condition_names, sgrna),
        condition=condition,
    )
