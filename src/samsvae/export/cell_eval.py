"""Predictions and data as files that other packages score: a check of our numbers from outside."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.benchmark.predictions import Predictor
from samsvae.data.alignment import align_screen
from samsvae.data.conditions import Conditions
from samsvae.data.expression import Block, control_cells, expression, sums_of
from samsvae.data.names import SPLITS
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed, note, unknown
from samsvae.settings.arguments import checked
from samsvae.storage.files import expanded, written_together
from samsvae.storage.tables import put_h5ad


@checked
def cell_eval(
    predictor: Predictor,
    screen: Screen,
    folder: str | os.PathLike[str],
    *,
    split: str = "test",
    conditions: Conditions | None = None,
    perturbation_key: str = "perturbation",
    **settings: Any,
) -> None:
    """Write predicted and real expression for the package cell-eval: pred.h5ad and real.h5ad.

    Expression is ln(1 + 1e4 x / sum x), the sum over the predictor's genes: ln 2 times scale "log".
    real.h5ad holds the scored cells and control cells. pred.h5ad holds one row per condition: for
    control the mean of these control cells, for any other that mean + ln 2 times the predicted
    effect. This is enough for scores of means over cells; scores of differential expression, which
    test for differences between rows, are meaningless here. cell-eval refuses negative expression:
    it is written as 0.

    Parameters
    ----------
    predictor, screen
        A trained model or a baseline, and the whole screen with its split, matched by name.
    folder
        Created if it does not exist. Files of these names in it are replaced.
    split, conditions
        Whose cells are scored: "train", "valid" or "test", and by default all of its conditions but
        control. Control cells are those of the split, or all, if it has none.
    perturbation_key
        Column of `obs` with the conditions as they are stored.
    **settings
        Of a model's `effects`, such as n_particles, seed and progress; library_size is "observed"
        by default. Not used for baselines.

    Raises
    ------
    InputError
        If a condition has no cells in the split or no prediction, the screen has no control cells
        or holds no counts, or the files cannot be written.

    Warns
    -----
    UserWarning
        If some expression would be below 0, or the screen has genes that the predictor lacks.

    References
    ----------
    cell-eval (Arc Institute): https://pypi.org/project/cell-eval

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cell_eval(samsvae.baselines.Additive(screen), screen, folder)
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['pred.h5ad', 'real.h5ad']
    """
    folder = expanded(folder)
    if folder.is_file():
        raise InputError(f"{str(folder)!r} is a file: expected a directory for the export")
    screen = align_screen(screen, predictor.registry)
    if not screen.registry.counts:
        raise InputError("the screen holds real values: cell-eval scores log-normalised counts")
    cells, names = _scored(screen, split, conditions)
    defaults: dict[str, Any] = {"library_size": "observed", "n_draws": 0}
    effects = predictor.effects(names, scale="log", **defaults | settings)
    values = expression(cells, "normalized")

    def blocks() -> Iterator[Block]:
        return ((part, some.log1p()) for part, some in values.blocks())

    sums, n_control = sums_of(blocks(), np.where(cells.is_control, 0, -1), 1)
    control = sums / n_control
    predicted = control + math.log(2) * effects.X
    n_below = int((predicted < 0).sum())
    if n_below:
        note(
            f"{n_below} of {predicted.size} predicted means are below 0, by up to "
            f"{-predicted.min():.2g}: written as 0, since cell-eval refuses negative expression"
        )
    means = np.vstack([control, np.maximum(predicted, 0)])
    labels = np.array(screen.condition_names)
    rows = [labels[0], *names]
    real = pd.DataFrame({perturbation_key: labels[cells.condition]}, cells.cells)
    pred = pd.DataFrame({perturbation_key: rows}, rows)
    var = pd.DataFrame(index=list(screen.genes))
    with written_together(folder / "real.h5ad", folder / "pred.h5ad") as (one, other):
        empty = AnnData(sp.csr_matrix(values.shape), real, var)
        put_h5ad(one, empty, lambda: (some for _, some in blocks()))
        put_h5ad(other, AnnData(means, pred, var))


def _scored(screen: Screen, split: str, conditions: Conditions | None) -> tuple[Screen, list[str]]:
    """Return the cells of the scored conditions and of control, and these conditions."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    in_split = np.asarray(screen.split == split)
    with_cells = getattr(screen, split).conditions
    labels = with_cells if conditions is None else screen.registry.parser.labels(conditions)
    stored = dict.fromkeys(screen.registry.stored(name) for name in labels)
    names = [name for name in stored if name != screen.condition_names[0]]
    missing = [name for name in names if name not in with_cells]
    if missing:
        raise InputError(f"no {split} cells to compare with for {listed(missing)}: leave them out")
    if not names:
        raise InputError(f"no condition to score: expected perturbed {split} cells, not control")
    scored = np.isin(np.array(screen.condition_names), names)[screen.condition] & in_split
    return screen[scored | control_cells(screen, in_split)], names
