"""Which genes each condition changes, at what error rate: the model and the data together.

Are error rates what they say? Control sgRNAs in the place of perturbations tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rich.progress import track

from samsvae.analysis.effect_posterior import EffectPosterior
from samsvae.data.conditions import Conditions
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.estimators import Estimator
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import EffectSettings
from samsvae.settings.train import TrainSettings
from samsvae.types import Scale


@checked
def discoveries(
    model: Estimator,
    screen: Screen,
    conditions: Conditions | None = None,
    *,
    by: Literal["condition", "sgrna"] = "condition",
    cells: Literal["all", "responders"] = "all",
    scale: Scale = "log",
    n_particles: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Return the effect of every condition on every gene, with its local false sign rate.

    The estimate is the posterior mean of the effect given both the model's prediction and what the
    cells show, see `samsvae.analysis.shrinkage`: for weak effects the data answer, for few cells
    the model, and for unseen combinations the model alone. How far the model is to be trusted is
    learned on validation cells.

    Parameters
    ----------
    model
        Trained on the screen's training cells.
    screen
        With training and validation cells; all of its cells are observations.
    conditions
        As `model.effects` takes them; by default all that the model has seen, but control.
    by
        "condition", or "sgrna": a row for each sgRNA of a condition, by the cells of that sgRNA
        alone (the screen is to be read with `sgrna_key`); what is learned of a condition holds for
        each of its sgRNAs. Do they agree? `samsvae.sgrnas` tells.
    cells
        "all": the effect on the cells that received a condition; "responders": on those in which it
        acts, each cell counting as much as is probable that it responds (`model.responders`; for
        models with `learn_responders=True`). `n_cells` is then how many are expected to.
    scale
        "log", "normalized" or "mean", as in `model.effects`; at the cells' own library sizes.
    n_particles
        Of the model's effects. Their Monte Carlo error is part of what the model does not know, and
        small beside the standard errors of cells.
    seed
        Same seed, same numbers.
    progress
        Show progress bars.

    Returns
    -------
    One row per condition (and sgRNA: `sgrna`) and gene: `estimate`, `sd`, `lower` and `upper`
    (90 %), `lfsr` (local false sign rate: the probability that there is no effect, or one of the
    other sign), `q_value` (the share of such rows among all with an lfsr as small: its cumulative
    mean), `model` (ATE),
    `observed` (DE within batches; NaN without cells), `n_cells`. Where the model has no answer, or
    an effect cannot be told from that of batches, the row is NaN, with an lfsr of 1.

    Raises
    ------
    InputError
        If the model is not trained, or there are no validation cells to learn from; if responders
        are asked for of a model that takes all cells to respond.

    Examples
    --------
    >>> import samsvae
    >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
    >>> screen = samsvae.datasets.simulated_screen(**sizes)
    >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    >>> model = model.train(max_steps=5, progress=False)
    >>> table = samsvae.discoveries(model, screen, n_particles=50, progress=False)
    >>> len(table) == len(model.metadata.conditions[1:]) * len(screen.genes)
    True
    """
    if by not in ("condition", "sgrna"):
        raise unknown("rows by", by, ["condition", "sgrna"])
    posterior = EffectPosterior(model, screen, cells=cells, progress=progress)
    given = EffectSettings(scale=scale, n_particles=n_particles, seed=seed, progress=progress)
    asked = model.metadata.asked(conditions)
    names = [(name, "") for name in asked]
    if by == "sgrna":
        answer, names = posterior.answer_by_sgrna(asked, given)
    else:
        answer = posterior.answer(asked, given, np.ones(len(posterior.screen), bool))
    n_genes = len(screen.genes)
    found = answer.posterior
    unexpressed = np.broadcast_to(model.metadata.unexpressed, found.mean.shape)
    known = ~unexpressed & answer.estimable[:, None]
    rows = {
        "condition": _labels([name for name, _ in names], n_genes),
        "gene": pd.Categorical.from_codes(
            np.tile(np.arange(n_genes), len(names)), list(model.registry.genes)
        ),
        "estimate": np.where(unexpressed, 0, found.mean),
        "sd": np.where(known, found.sd, np.nan),
        "lower": np.where(known, found.lower, np.nan),
        "upper": np.where(known, found.upper, np.nan),
        "lfsr": np.where(known, found.lfsr, 1),
        "model": answer.predicted.effect,
        "observed": answer.shown.difference,
        "n_cells": np.repeat(answer.shown.n_cells, n_genes),
    }
    table = pd.DataFrame(
        {name: np.ravel(v) if isinstance(v, np.ndarray) else v for name, v in rows.items()}
    )
    order = np.argsort(table["lfsr"].to_numpy(), kind="stable")
    q_value = np.empty(len(table))
    q_value[order] = np.cumsum(table["lfsr"].to_numpy()[order]) / np.arange(1, len(table) + 1)
    table.insert(7, "q_value", q_value)
    prior = answer.prior
    if by == "sgrna":
        table.insert(1, "sgrna", _labels([sgrna for _, sgrna in names], n_genes))
    table.attrs |= {
        "model_share": prior.model_share,
        "slope": prior.slope,
        "scale": scale,
        "cells": cells,
    }
    return table


def _labels(names: list[str], n_genes: int) -> pd.Categorical:
    """Return names as they stand in rows, each for all genes."""
    codes, categories = pd.factorize(np.array(names, object))
    return pd.Categorical.from_codes(np.repeat(codes, n_genes), list(categories))


@checked
@takes(TrainSettings)
def control_calibration(
    model: Estimator, screen: Screen, *, n_particles: int = 1000, **training: Any
) -> pd.DataFrame:
    """Return the lfsr of effects that are known to be none: of control sgRNAs.

    The control cells of each sgRNA in turn are taken for cells of a perturbation of its own, a
    model with the same hyperparameters is trained on that screen, and its discoveries are asked
    for: each call is a false one.

    Parameters
    ----------
    model
        Whose hyperparameters are taken, trained or not.
    screen
        Read with `sgrna_key`, with several sgRNAs among the control cells, and with training and
        validation cells.
    n_particles
        Of the models' effects.
    **training
        As in `model.train`; by default as many steps as the model had, if it is trained.

    Returns
    -------
    One row per control sgRNA (the `condition`) and gene, as `discoveries` gives it. `share` is that
    of these rows with an lfsr at most as small: how often a call at that rate is made of nothing.
    A calibrated table has shares below the lfsr.

    Raises
    ------
    InputError
        If no sgRNA is known, or the control cells have fewer than two.
    """
    if screen.sgrna is None:
        raise InputError("the sgRNAs of the cells are not known: read the screen with sgrna_key")
    names = sorted(set(screen.sgrna[screen.is_control].dropna()))
    if len(names) < 2:
        raise InputError(f"control cells have {len(names)} sgRNAs: expected at least two")
    given = dict(training)
    if model.is_trained and not {"max_steps", "max_epochs"} & given.keys():
        given["max_steps"] = max(1, int(model.history["step"].max()))
    shown = bool(given.get("progress", True))
    tables = []
    for name in track(names, "control sgRNAs", disable=not shown):
        pretended = _pretending(screen, name)
        own = type(model)(pretended, **model.hyperparameters).train(**{**given, "progress": False})
        seed = int(given.get("seed", 0))
        tables.append(
            discoveries(own, pretended, [name], n_particles=n_particles, seed=seed, progress=False)
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(share=table["lfsr"].rank(method="max") / len(table))


def _pretending(screen: Screen, sgrna: str) -> Screen:
    """Return a screen in which the control cells of an sgRNA are those of a perturbation."""
    registry = screen.registry
    names = tuple(sorted((*registry.perturbations, sgrna)))
    column = names.index(sgrna)
    place = {name: i for i, name in enumerate(names)}
    old = [place[name] for name in registry.perturbations]
    received = sp.lil_matrix((len(screen), len(names)), dtype=screen.dosage.dtype)
    received[:, old] = screen.dosage
    rows = np.flatnonzero(screen.is_control & np.asarray(screen.sgrna == sgrna))
    received[rows, column] = 1
    condition = screen.condition.copy()
    condition[rows] = len(screen.condition_names)
    return replace(
        screen,
        registry=replace(registry, perturbations=names),
        dosage=received.tocsr(),
        condition_names=(*screen.condition_names, sgrna),
        condition=condition,
    )
