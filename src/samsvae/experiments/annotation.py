"""Annotations that come from files: pathways of perturbations, kinds of interactions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from samsvae.errors import InputError
from samsvae.storage.tables import read_csv

_PAIR = 2


def read_groups(path: Path) -> dict[str, list[str]]:
    """Return names by group: pathways and their perturbations, or interactions and their pairs.

    Parameters
    ----------
    path
        JSON, `{"group": ["name", ...]}`; or CSV of two columns, the name and its group. A pair is
        written "A+B", in any order.

    Raises
    ------
    InputError
        If the file is not there, or not of this form.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected groups of names, as JSON or CSV")
    if path.suffix == ".csv":
        table = read_csv(path)
        if table.shape[1] != _PAIR:
            raise InputError(
                f"{str(path)!r} has {table.shape[1]} columns: expected two, the name and its group"
            )
        names, groups = (table[column].astype(str) for column in table)
        return {str(group): list(some) for group, some in names.groupby(groups, sort=False)}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}") from error
    lists = isinstance(found, dict) and all(
        isinstance(some, list) and all(isinstance(name, str) for name in some)
        for some in found.values()
    )
    if not lists:
        raise InputError(f'{str(path)!r}: expected {{"group": ["name", ...]}}')
    return {str(group): some for group, some in found.items()}


def one_each(groups: dict[str, list[str]], names: Iterable[str]) -> pd.Series:
    """Return the group of each name that is in one group only, and among the names given."""
    pairs = [(name, group) for group, some in groups.items() for name in dict.fromkeys(some)]
    table = pd.DataFrame(pairs, columns=["name", "group"])
    clear = table[~table["name"].duplicated(keep=False)].set_index("name")["group"]
    return clear[clear.index.isin(set(names))]
