"""Are error rates what they say? Control sgRNAs in the place of perturbations tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rich.progress import track

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators import Estimator
from samsvae.evaluation.discoveries import discoveries
from samsvae.settings.arguments import checked
from samsvae.settings.takes import takes
from samsvae.settings.train import TrainSettings


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
    vocabulary = screen.vocabulary
    names = tuple(sorted((*vocabulary.perturbations, sgrna)))
    column = names.index(sgrna)
    place = {name: i for i, name in enumerate(names)}
    old = [place[name] for name in vocabulary.perturbations]
    received = sp.lil_matrix((len(screen), len(names)), dtype=screen.dosage.dtype)
    received[:, old] = screen.dosage
    rows = np.flatnonzero(screen.is_control & np.asarray(screen.sgrna == sgrna))
    received[rows, column] = 1
    condition = screen.condition.copy()
    condition[rows] = len(screen.condition_names)
    return replace(
        screen,
        vocabulary=replace(vocabulary, perturbations=names),
        dosage=received.tocsr(),
        condition_names=(*screen.condition_names, sgrna),
        condition=condition,
    )
