"""The paper's screens, in Python: downloaded once, and prepared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from samsvae.data.screen import Screen
from samsvae.experiments.download import fetch
from samsvae.experiments.prepare import prepare
from samsvae.settings.arguments import checked
from samsvae.settings.preparation import PreparationSettings
from samsvae.settings.takes import takes


@checked
@takes(PreparationSettings)
def replogle(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the filtered screen of Replogle et al. 2022: strong perturbations and their genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded (66 GB), once.
    **settings
        Thresholds: min_cells, min_de_share, rate, min_perturbation_share; see
        `samsvae.settings.preparation.PreparationSettings`.

    Raises
    ------
    InputError
        If the file cannot be had or read, or nothing is left of it.
    """
    return _prepared("replogle", path, settings)


@checked
@takes(PreparationSettings)
def norman(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the screen of Norman et al. 2019 with its highly variable genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded (0.7 GB), once.
    **settings
        n_genes (5,000), n_bins; see `samsvae.settings.preparation.PreparationSettings`.

    Raises
    ------
    InputError
        If the file cannot be had or read.
    """
    return _prepared("norman", path, settings)


def _prepared(name: str, path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> Screen:
    given = PreparationSettings(**settings)
    place = fetch(name) if path is None else Path(path)
    return prepare(name, read(name, place), given).screen


def read(name: str, path: Path, **settings: Any) -> Screen:
    """Return all cells and genes of a raw file, without batches, as the paper takes them."""
    return Screen.open(path, **{"convention": name, "batch_key": None, **settings})
