"""What the cells themselves say against taking differences for effects of perturbations.

Each check compares the cells of a condition with control cells in the same batches. A difference
counts if it is large, and far beyond its standard error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.conditions import dosage_rows
from samsvae.data.expression import Expression, within_batches
from samsvae.data.fold_changes import condition_fold_changes
from samsvae.data.screen import Screen
from samsvae.settings.arguments import checked

COMPOSITION = "Composition"
"""Title of the caution of conditions that change the shares of unchanged genes by much."""
FEW_CELLS = 30
"""Number of cells of a condition below which its effect comes mostly from the model."""
_CLEAR = 4.0
"""Standard errors beyond which a difference is not chance, among hundreds of comparisons."""
_ENOUGH = 20
"""Cells of a condition from which on shares and means are about normal."""
_COMPOSITION = 0.1
"""Size of the typical gene's log2 fold change, from which on its causes are named."""
_LARGE = 0.25
"""Size of it that most of its unchanged genes would be called for."""
_LIBRARY_SIZE = 0.3
"""Size of a log2 ratio of library sizes: a factor of 1.23."""
_SHARE, _SHIFT = 0.1, 0.3
"""Differences of the share of a level, and of a mean in standard deviations, that count."""
MOLECULES = re.compile(r"count|umi|feature|n_?genes|_total$|grna|guide|library", re.I)
"""Names of columns that count the cell's molecules, genes and sgRNAs: see `library_sizes`."""
_SKEWNESS = 0.1
"""Of log library sizes, where one cell in twenty to ten is two; without doublets it is about 0."""
_MAX_NAMES = 8
_CAUSES = 3
"""Genes that are named for a change of composition."""

_OF_SCREEN: WeakKeyDictionary[Screen, list[Caution]] = WeakKeyDictionary()


class Caution(NamedTuple):
    """One reason to doubt a result."""

    title: str
    text: str
    is_serious: bool = True
    conditions: tuple[str, ...] = ()
    """Those that it concerns; empty: all of them."""


def cautions_of_cells(screen: Screen) -> list[Caution]:
    """Return what the cells of a screen give reason to doubt, computed once per screen."""
    if screen not in _OF_SCREEN:
        found = [*_few_cells(screen), *_not_told_apart(screen)]
        if screen.is_control.any() and not screen.is_control.all():
            found += [*_columns(screen), *_replicates(screen)]
            if screen.registry.counts:
                found += [*_library_sizes(screen), *_composition(screen), *_doublets(screen)]
        _OF_SCREEN[screen] = found
    return _OF_SCREEN[screen]


@checked
def library_sizes(screen: Screen) -> pd.DataFrame:
    """Return the library size of each condition, against control's.

    A perturbation that changes how much RNA a cell holds changes its library size; so do the
    capture of cells and their sequencing. Fold changes of expression do not show it.

    Returns
    -------
    By condition: n_cells, `median` (counts), `control_median` (of control cells, in the batches of
    the condition's cells), `log2_ratio` of the two, and `z`, how many standard errors the mean log
    library size is from control's. NaN for a condition without cells in batches with control cells.

    Examples
    --------
    >>> samsvae.library_sizes(screen).columns.tolist()
    ['n_cells', 'median', 'control_median', 'log2_ratio', 'z']
    """
    size, names = screen.library_size, list(screen.condition_names)
    n_cells = np.bincount(screen.condition, minlength=len(names))
    compared = _compared(screen, np.log2(np.maximum(size, 1))[:, None])
    of_batch = pd.Series(size[screen.is_control]).groupby(screen.batch[screen.is_control]).median()
    cells = pd.DataFrame({"condition": screen.condition, "size": size})
    cells["control"] = pd.Series(screen.batch).map(of_batch).to_numpy()
    by = cells.dropna().groupby("condition")
    table = pd.DataFrame({"n_cells": n_cells})
    table["median"], table["control_median"] = by["size"].median(), by["control"].mean()
    table["log2_ratio"] = np.log2(table["median"] / table["control_median"])
    table["z"] = compared.z[:, 0]
    table.index = pd.Index(names, name="condition")
    return table.iloc[1:]


class _Compared(NamedTuple):
    """Means of numbers of cells, of conditions against control, `condition number`."""

    difference: np.ndarray
    z: np.ndarray
    """The difference in standard errors; 0 where there is none."""
    sd: np.ndarray
    """Standard deviation between cells."""


def _compared(screen: Screen, values: np.ndarray) -> _Compared:
    """Compare numbers of cells, `cell number`, between conditions and control, within batches."""
    n, control = len(screen.condition_names), np.asarray(screen.is_control)
    group = np.where(control, -1, screen.condition)
    cells = Expression(sp.csr_matrix(np.asarray(values, float)))
    sums, compared, _ = within_batches(cells, group, control, screen.batch, n)
    with np.errstate(invalid="ignore", divide="ignore"):
        free = sums.n_cells + compared.n_cells - 2 * compared.n_batches
        variance = (sums.squares + compared.squares) / free[:, None]
        error = np.sqrt(variance * (1 / sums.n_cells + compared.inverse)[:, None])
        difference = sums.mean - compared.mean
        z = np.nan_to_num(difference / error, nan=0, posinf=0, neginf=0)
    return _Compared(difference, z, np.sqrt(variance))


def _few_cells(screen: Screen) -> Iterator[Caution]:
    n_cells = np.bincount(screen.condition, minlength=len(screen.condition_names))[1:]
    names = screen.condition_names[1:]
    few = [name for name, n in zip(names, n_cells, strict=True) if 0 < n < FEW_CELLS]
    if few:
        n_all = int((n_cells > 0).sum())
        verb = "has" if len(few) == 1 else "have"
        yield Caution(
            "Few cells",
            f"{len(few):,} of {n_all:,} conditions ({named(few)}) {verb} fewer than {FEW_CELLS} "
            "cells: their effects come mostly from what is known of the other conditions.",
            is_serious=len(few) > 0.2 * n_all,
            conditions=tuple(few),
        )


def _not_told_apart(screen: Screen) -> Iterator[Caution]:
    """Find perturbations whose own effects follow from no combination of measured conditions."""
    registry = screen.registry
    received = [registry.read(name) for name in screen.conditions]
    alone = {name for condition in received if len(condition) == 1 for name in condition}
    rest = [{k: 1.0 for k in condition if k not in alone} for condition in received]
    columns = sorted({name for condition in rest for name in condition})
    if not columns:
        return
    design = dosage_rows([condition for condition in rest if condition], columns).toarray()
    values, basis = np.linalg.eigh(design.T.astype(float) @ design)
    unseen = basis.T[values < 1e-9 * values.max()]
    mixed = [
        name
        for name, size in zip(columns, np.abs(unseen).max(0, initial=0), strict=True)
        if size > 1e-6
    ]
    if mixed:
        conditions = [
            name
            for name, condition in zip(screen.conditions, received, strict=True)
            if not condition.keys().isdisjoint(mixed)
        ]
        yield Caution(
            "Not told apart",
            f"{named(mixed)} occur only together with each other: the cells show what they do "
            "together, not which of them does it. How an effect is divided among them is the "
            "model's assumption.",
            conditions=tuple(dict.fromkeys((*mixed, *conditions))),
        )


def _library_sizes(screen: Screen) -> Iterator[Caution]:
    table = library_sizes(screen)
    ratio = table["log2_ratio"]
    differs = table[(ratio.abs() > _LIBRARY_SIZE) & (table["z"].abs() > _CLEAR)]
    if len(differs):
        order = differs.loc[differs["log2_ratio"].abs().sort_values(ascending=False).index]
        texts = [f"{name} {2**row.log2_ratio:.2f} times" for name, row in order.iterrows()]
        yield Caution(
            "Library size differs",
            f"Cells have another library size than control cells: {named(texts)}. Cells may hold "
            "more or less RNA, or have been captured or sequenced otherwise. Fold changes are of "
            "shares of the counts: they do not show it, and are not changed by it.",
            is_serious=False,
            conditions=tuple(map(str, differs.index)),
        )


def _composition(screen: Screen) -> Iterator[Caution]:
    change = condition_fold_changes(screen, "library")
    typical = change.typical
    shift, error = typical.shift, np.sqrt(typical.variance)
    with np.errstate(invalid="ignore"):
        is_clear = (np.abs(shift) > _COMPOSITION) & (np.abs(shift) > _CLEAR * error)
    if not is_clear.any():
        return
    totals = sum(np.asarray(counts.sum(0), float).ravel() for _, counts in screen.control.blocks())
    share = totals / np.sum(totals)
    is_large = np.nan_to_num(np.abs(shift)) > _LARGE
    for title, among in ((COMPOSITION, is_large), ("Slight change of composition", ~is_large)):
        differs = np.flatnonzero(is_clear & among)
        texts = []
        for row in differs[np.argsort(-np.abs(shift[differs]), kind="stable")]:
            gained = share * (2 ** change.difference[row] - 2 ** shift[row])
            causes = np.argsort(gained * np.sign(shift[row]), kind="stable")[:_CAUSES]
            genes = ", ".join(screen.genes[gene] for gene in causes)
            texts.append(f"{screen.condition_names[row]} {shift[row]:+.2f} ({genes})")
        if texts:
            yield Caution(
                title,
                "Genes that hold many of the counts change, and move the shares of all others "
                "(log2 fold change of the typical gene, and genes that cause most of it): "
                f"{named(texts)}. Effects are given relative to the typical gene; "
                'relative_to="library" shows shares.',
                is_serious=title == COMPOSITION,
                conditions=tuple(screen.condition_names[row] for row in differs),
            )


def _columns(screen: Screen) -> Iterator[Caution]:
    """Compare the columns of the cells that the model is not told of."""
    if screen.obs is None:
        return
    for name, column in screen.obs.items():
        if MOLECULES.search(str(name)):
            continue
        if isinstance(column.dtype, pd.CategoricalDtype):
            yield from _of_levels(screen, str(name), column)
            continue
        values = column.to_numpy(float)
        values = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(values).all() or np.nanstd(values) == 0:
            continue
        values = np.where(np.isnan(values), np.nanmedian(values), values)
        compared = _compared(screen, values[:, None])
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = compared.difference[:, 0] / compared.sd[:, 0]
        is_clear = (np.abs(compared.z[:, 0]) > _CLEAR) & _has_several(screen)
        differs = np.flatnonzero((np.abs(shift) > _SHIFT) & is_clear)
        texts = [f"{screen.condition_names[row]} {shift[row]:+.1f} sd" for row in differs]
        if texts:
            yield _not_told(screen, str(name), texts, differs)


def _of_levels(screen: Screen, name: str, column: pd.Series) -> Iterator[Caution]:
    """Compare the shares of the levels of a column; not one that only names the conditions."""
    codes = column.cat.codes.to_numpy()
    pairs, n_cells = np.unique(np.stack([codes, screen.condition]), axis=1, return_counts=True)
    largest = pd.Series(n_cells).groupby(pairs[0]).max().sum() / len(codes)
    of_control = set(pairs[0, pairs[1] == 0])
    if largest > 0.95 or not of_control & set(pairs[0, pairs[1] > 0]):
        return
    levels = list(column.cat.categories)
    compared = _compared(screen, codes[:, None] == np.arange(len(levels)))
    size = np.where(np.abs(compared.z) > _CLEAR, np.nan_to_num(np.abs(compared.difference)), 0)
    differs = np.flatnonzero((size.max(1) > _SHARE) & _has_several(screen))
    texts = [
        f"{screen.condition_names[row]} {compared.difference[row, level]:+.0%} {levels[level]}"
        for row in differs
        for level in [int(size[row].argmax())]
    ]
    if texts:
        yield _not_told(screen, name, texts, differs)


def _has_several(screen: Screen) -> np.ndarray:
    """Return `condition`: whether it has enough cells for a normal approximation."""
    return np.bincount(screen.condition, minlength=len(screen.condition_names)) >= _ENOUGH


def _not_told(screen: Screen, name: str, texts: list[str], rows: np.ndarray) -> Caution:
    return Caution(
        f"Cells differ in {name}",
        f"Conditions and control differ in obs[{name!r}], which the model does not know: "
        f"{named(texts)}. The effects given include that difference, whether the perturbation "
        "caused it or cells were selected. To leave it out, give the column (a number: cut into "
        "bins) as a batch_key: then conditions are compared with control cells alike in it.",
        conditions=tuple(screen.condition_names[row] for row in rows),
    )


def _replicates(screen: Screen) -> Iterator[Caution]:
    if screen.replicate is None:
        yield Caution(
            "Cells are taken as independent",
            "Standard errors are those of independent cells. Where the cells of a condition "
            "descend from a few clones, or come from a few wells, errors are larger: replicate_key "
            "tells which.",
            is_serious=False,
        )


def _doublets(screen: Screen) -> Iterator[Caution]:
    """Doublets hold twice the counts: they skew log library sizes to the right."""
    log_size = pd.Series(np.log(np.maximum(screen.library_size, 1)))
    log_size -= log_size.groupby([screen.condition, screen.batch]).transform("mean")
    skewness = float(log_size.skew()) if len(log_size) > 2 else 0.0
    if skewness > max(_SKEWNESS, 2.5 * np.sqrt(6 / max(1, len(log_size)))):
        yield Caution(
            "Doublet-like library sizes",
            f"Log library sizes are skewed to the right ({skewness:.2f}), as they are where "
            "droplets hold two cells: effects are then smaller than those of single cells. If "
            "doublets are known, leave them out.",
            is_serious=False,
        )


def named(names: Collection[str], n_max: int = _MAX_NAMES) -> str:
    """Return names in a sentence, the first of many."""
    more = f" and {len(names) - n_max:,} more" if len(names) > n_max else ""
    return ", ".join(map(str, [*names][:n_max])) + more
