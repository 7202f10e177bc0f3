"""What further columns of cells could be: which are batches, to compare conditions within."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from samsvae.data.cautions import MOLECULES
from samsvae.data.expression import membership, normalised
from samsvae.data.screen import Screen
from samsvae.data.source import StoredCounts

_MAX_CELLS = 5000
"""Cells from which shares of the variance are estimated."""
_MIN_CELLS = 50
"""Cells of the typical level of a batch, below which a level costs more than it explains."""
_MAX_LEVELS = 50
"""Levels of a batch that is proposed by what it explains alone."""
_MAX_CONTEXTS = 8
"""Levels of a column that is called a context: further ones have few cells of each condition."""
_MIN_SHARE = 0.002
"""Share of the variance from which on a column is proposed."""
_EXPRESSED = re.compile(
    r"cluster|leiden|louvain|phase|umap|pca|tsne|score|predicted|doublet|state", re.I
)
"""Names of columns that are computed from expression, which perturbations change."""


@dataclass(frozen=True)
class Covariate:
    """A column of cells, and whether conditions can be compared within its levels."""

    name: str
    n_levels: int
    """0: it holds numbers, taken as a slope."""
    median_cells: int
    """Cells of the median level."""
    control: Mapping[str, int]
    """Control cells by level."""
    share: float
    """Share of the variance of log expression within conditions, beyond chance."""
    f: float
    """F statistic, averaged over genes."""
    problem: str
    """Why it is no batch; empty if it may be one."""
    is_context: bool = False
    """Whether perturbations may act differently in its levels, and the cells can tell."""

    def __str__(self) -> str:
        if not self.n_levels:
            text = f"{self.name}: numbers"
        else:
            text = f"{self.name}: {self.n_levels:,} levels of about {self.median_cells:,} cells"
            if self.n_levels <= 8 and len(self.control) > 1:
                cells = ", ".join(f"{level} {n:,}" for level, n in self.control.items())
                text += f" (control: {cells})"
            elif len(self.control) > 1:
                low, high = min(self.control.values()), max(self.control.values())
                text += f" (control: {low:,} to {high:,} in each)"
        if np.isfinite(self.share):
            text += f"; explains {self.share:.1%} of expression within conditions (F {self.f:.1f})"
        if self.is_context:
            text += (
                f"; could be a context, in which perturbations may act differently: --context-key "
                f"{self.name} instead of a batch"
            )
        return f"{text}; {self.problem}" if self.problem else text


def covariates(screen: Screen, columns: Mapping[str, pd.Series]) -> list[Covariate]:
    """Return what each column of the cells could be, those that explain most first."""
    values, rows = _residuals(screen)
    found = [_described(screen, name, column, values, rows) for name, column in columns.items()]
    return sorted(found, key=lambda one: -np.nan_to_num(one.share, nan=-1))


def proposed_batches(
    screen: Screen,
    columns: Mapping[str, pd.Series],
    found: Sequence[Covariate],
    usual: Collection[str],
) -> tuple[list[str], list[Covariate]]:
    """Return the columns to use as batches, and the covariates with what else is known of each.

    A column is added if it explains expression beyond those before it, or has the `usual` name of
    a batch, and its levels together with theirs still hold control cells.
    """
    values, rows = _residuals(screen)
    chosen: list[str] = []
    group = np.zeros(len(screen), int)
    described = []
    for one in found:
        matters = one.share > _MIN_SHARE and 1 < one.n_levels <= _MAX_LEVELS
        if not one.problem and (matters or one.name in usual):
            codes = _codes(columns[one.name])
            joint = pd.factorize(group * (codes.max() + 1) + codes)[0]
            with_control = np.isin(joint, joint[screen.is_control]).mean()
            share, _ = _explained(values, codes[rows], group[rows])
            if joint.max() == group.max():
                one = replace(one, problem=f"says nothing beyond {', '.join(chosen)}")
            elif with_control < 0.9:
                one = replace(one, problem=f"beside {', '.join(chosen)}, too few control cells")
            elif chosen and share <= _MIN_SHARE and one.name not in usual:
                one = replace(one, problem=f"explains little beyond {', '.join(chosen)}")
            else:
                chosen.append(one.name)
                group = joint
                is_technical = one.name in usual
                one = replace(one, is_context=not is_technical and _may_differ(screen, one, codes))
        described.append(one)
    return chosen, described


def _may_differ(screen: Screen, one: Covariate, codes: np.ndarray) -> bool:
    """Whether cells can tell if perturbations act differently in the levels of a column."""
    enough = one.n_levels <= _MAX_CONTEXTS and min(one.control.values()) >= _MIN_CELLS
    pairs = _pairs(screen, codes)
    n_levels = pairs[pairs["condition"] > 0].groupby("condition").size()
    return enough and bool((n_levels > 1).mean() > 0.5)


def _described(
    screen: Screen, name: str, column: pd.Series, values: np.ndarray, rows: np.ndarray
) -> Covariate:
    is_number = pd.api.types.is_float_dtype(column)
    if is_number:
        number = column.to_numpy(float)[rows]
        share, f = _slope(values, np.where(np.isfinite(number), number, np.nanmean(number)))
        return Covariate(name, 0, 0, {}, share, f, _problem_of_name(name) or "no levels: no batch")
    codes, levels = _codes(column), pd.factorize(column.astype(str), sort=True)[1]
    n_cells = np.bincount(codes, minlength=len(levels))
    n_control = np.bincount(codes[screen.is_control], minlength=len(levels))
    share, f = _explained(values, codes[rows], np.zeros(len(rows), int))
    control = dict(zip(map(str, levels), map(int, n_control), strict=True))
    problem = _problem_of_name(name) or _problem(screen, codes, n_cells, control)
    return Covariate(name, len(levels), int(np.median(n_cells)), control, share, f, problem)


def _problem_of_name(name: str) -> str:
    if MOLECULES.search(name):
        return "counts the cell's molecules, which perturbations change: no batch"
    if _EXPRESSED.search(name):
        return "computed from expression, which perturbations change: no batch"
    return ""


def _problem(
    screen: Screen, codes: np.ndarray, n_cells: np.ndarray, control: Mapping[str, int]
) -> str:
    """Return why conditions cannot be compared within the levels of a column; "" if they can."""
    pairs = _pairs(screen, codes)
    perturbed = pairs[pairs["condition"] > 0]
    with_control = [level for level, n in control.items() if n]
    if (perturbed.groupby("level").size() <= 1).all() and perturbed["condition"].nunique() > 1:
        return "nested in the condition: each level holds one, so the two are not separable"
    if (pairs.groupby("condition").size() == 1).all():
        return "each condition has a single level: not separable from conditions"
    if len(with_control) == 1:
        return f"constant in control ({with_control[0]}): nothing to compare other levels with"
    if np.median(n_cells) < _MIN_CELLS:
        return "many tiny levels: no batch"
    missing = [level for level, n in control.items() if not n]
    if len(missing) > 0.1 * len(control):
        return f"{len(missing):,} of {len(control):,} levels without control cells"
    return ""


def _pairs(screen: Screen, codes: np.ndarray) -> pd.DataFrame:
    """Return which levels and conditions have cells in common: level, condition (0: control)."""
    return pd.DataFrame({"level": codes, "condition": screen.condition}).drop_duplicates()


def _codes(column: pd.Series) -> np.ndarray:
    return pd.factorize(column.astype(str), sort=True)[0]


def _residuals(screen: Screen) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised log expression of some cells about the means of their conditions."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(screen))[:_MAX_CELLS])
    counts = screen.counts
    some = counts.read(rows) if isinstance(counts, StoredCounts) else counts[rows]
    values = normalised(some, "log" if screen.registry.counts else "mean").toarray()
    values = _centred(values, screen.condition[rows])
    sd = values.std(0)
    return values[:, sd > 0] / sd[sd > 0], rows


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return values, `cell gene`, about the means of their groups."""
    codes = pd.factorize(group)[0]
    sums = membership(codes, int(codes.max(initial=0)) + 1)
    return values - ((sums @ values) / np.asarray(sums.sum(1)))[codes]


def _explained(values: np.ndarray, codes: np.ndarray, within: np.ndarray) -> tuple[float, float]:
    """Return the share of the variance between levels beyond chance (omega squared), and F."""
    values = _centred(values, within)
    inside = _centred(values, codes)
    n, k = len(values), len(np.unique(codes))
    if k < 2 or n <= k or not values.size:
        return np.nan, np.nan
    total, rest = np.square(values).sum(), np.square(inside).sum()
    error = rest / (n - k)
    f = (total - rest) / (k - 1) / error if error > 0 else np.inf
    return float(max(0.0, (total - rest - (k - 1) * error) / (total + error))), float(f)


def _slope(values: np.ndarray, number: np.ndarray) -> tuple[float, float]:
    """Return the share of the variance that a line in a number explains beyond chance, and F."""
    centred = number - number.mean()
    n, size = len(values), np.square(centred).sum()
    if not (size > 0 and n > 2 and values.size):
        return np.nan, np.nan
    total = np.square(values).sum()
    explained = np.square(centred @ values).sum() / size
    error = (total - explained) / (n - 2)
    return float(max(0.0, (explained - error) / (total + error))), float(explained / error)
