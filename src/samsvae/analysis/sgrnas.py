"""Agreement of the sgRNAs of one target: which have no effect, or another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from rich.progress import track

from samsvae.analysis.gene_sets import adjusted
from samsvae.benchmark.metrics.effects import pearson
from samsvae.data.conditions import Conditions
from samsvae.data.expression import (
    Expression,
    check_control,
    expression,
    membership,
    places_within,
    rows_of,
    sums_of,
)
from samsvae.data.fold_changes import position_of
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import SgrnaSettings

_CHANGED = 3.0
"""Standard errors above which a gene counts as changed by the other sgRNAs."""
_DEAD = 0.5
"""An sgRNA is dead if its strength is significantly below this share of that of the others."""
_MIN_CELLS = 10
"""Cells of an sgRNA below which it is not flagged."""
_FDR = 0.05
_BLOCKS = 10
"""Of genes that are left out in turn (jackknife)."""
_CHUNK = 2**22
"""Sums (permutation, sgRNA, gene) that are held in memory at once."""


class Sgrnas(NamedTuple):
    """Agreement of sgRNAs."""

    sgrnas: pd.DataFrame
    """One row per condition and sgRNA: `n_cells`; `correlation` of its effect with that of the
    condition's other sgRNAs, over genes; `sign_agreement`, on the genes that the others change
    (`n_changed`); `strength`, its effect as a multiple of theirs, with `strength_se`;
    `p_different` (permutation test) and `q_different` (Benjamini-Hochberg over all rows); `flag`:
    "dead", "different", "few cells", "alone" or ""; `scale`."""
    conditions: pd.DataFrame
    """One row per condition: `n_sgrnas`, `n_cells`, `correlation` (mean over its sgRNAs), `Q`
    (Cochran's, summed over genes), `df` (its degrees of freedom, were genes independent),
    `p_heterogeneity` (permutation test of Q), `q_heterogeneity` and `scale`."""


@checked
@takes(SgrnaSettings)
def sgrnas(screen: Screen, conditions: Conditions | None = None, **settings: Any) -> Sgrnas:
    """Test whether the sgRNAs of each condition agree, from the cells alone.

    For a gene g and sgRNAs a with n_a cells and means m_ag, within batches,

    Q_g = sum_a n_a (m_ag - m_g)^2 / s_g^2,    m_g = sum_a n_a m_ag / sum_a n_a

    with s_g^2 the variance of the condition's cells about their batches' means (Cochran's Q). Genes
    are not independent, so p values, of sum_g Q_g and of one sgRNA against the others, are from
    permutations of the sgRNAs among the condition's cells within batches: valid whatever the
    distribution of counts. For correlation, sign and strength an sgRNA and the others are compared
    with separate halves of the control cells, whose noise then does not make them agree.

    Parameters
    ----------
    screen, conditions
        The screen, read with `sgrna_key`; by default all of its conditions but control.
    **settings
        scale ("log"), n_permutations (999), seed (0) and progress; see
        `samsvae.settings.questions.SgrnaSettings`.

    Raises
    ------
    InputError
        If no sgRNA is known, or there are no control cells.

    Examples
    --------
    >>> screen = samsvae.datasets.simulated_screen(
    ...     n_perturbations=3, n_combinations=0, n_genes=20, n_sgrnas=2
    ... )
    >>> agreement = samsvae.sgrnas(screen, n_permutations=99, progress=False)
    >>> list(agreement.sgrnas["sgrna"][:3]), len(agreement.conditions)
    (['G01g1', 'G01g2', 'G02g1'], 3)
    """
    chosen = SgrnaSettings(**settings)
    scale, seed = chosen.scale, chosen.seed
    if screen.sgrna is None:
        raise InputError("the sgRNAs of the cells are not known: read the screen with sgrna_key")
    check_control(screen)
    labels = screen.conditions[1:] if conditions is None else conditions
    names = {name: position_of(screen, name) for name in screen.registry.parser.labels(labels)}
    values = expression(screen, scale)
    halves = _control_halves(screen, values, seed)
    usable = (screen.sgrna.codes >= 0) & halves.with_control[screen.batch]
    of_condition = rows_of(np.where(usable, screen.condition, -1), len(screen.condition_names))
    rows: list[dict[str, object]] = []
    summaries: list[dict[str, object]] = []
    for name, position in track(names.items(), "sgRNAs", disable=not chosen.progress):
        cells = of_condition[position]
        codes, group = np.unique(screen.sgrna.codes[cells], return_inverse=True)
        if not len(codes):
            continue
        one = _Condition(values[cells], group, screen.batch[cells], halves)
        q, p, p_different = one.test(chosen.n_permutations, np.random.default_rng([seed, position]))
        own = [one.row(i) | {"p_different": float(p)} for i, p in enumerate(p_different)]
        for sgrna, row in zip(map(str, screen.sgrna.categories[codes]), own, strict=True):
            rows.append({"condition": name, "sgrna": sgrna, **row})
        summaries.append(
            {
                "condition": name,
                "n_sgrnas": len(codes),
                "n_cells": len(cells),
                "correlation": float(np.mean(np.array([row["correlation"] for row in own], float))),
                "Q": q,
                "df": (len(codes) - 1) * int(one.varies.sum()),
                "p_heterogeneity": p,
            }
        )
    if not rows:
        raise InputError("none of the conditions has cells with a known sgRNA")
    by_sgrna, by_condition = pd.DataFrame(rows), pd.DataFrame(summaries)
    by_sgrna["q_different"] = adjusted(by_sgrna["p_different"])
    flags = {
        "alone": by_sgrna["p_different"].isna(),
        "few cells": by_sgrna["n_cells"] < _MIN_CELLS,
        "": by_sgrna["q_different"] >= _FDR,
        "dead": by_sgrna["strength"] + 2 * by_sgrna["strength_se"].fillna(0) < _DEAD,
    }
    flag = np.select(list(flags.values()), list(flags), "different")
    by_sgrna["flag"] = flag.astype(object)
    by_condition["q_heterogeneity"] = adjusted(by_condition["p_heterogeneity"])
    return Sgrnas(by_sgrna.assign(scale=scale), by_condition.assign(scale=scale))


class _Halves(NamedTuple):
    """Means of control cells by batch, of two halves of them."""

    means: np.ndarray
    """`half batch gene`."""
    n_cells: np.ndarray
    """`half batch`."""
    with_control: np.ndarray
    """`batch`: whether it has control cells enough for two halves."""


def _control_halves(screen: Screen, values: Expression, seed: int) -> _Halves:
    """Split the control cells of each batch into random halves."""
    control = np.random.default_rng(seed).permutation(np.flatnonzero(screen.is_control))
    batch = screen.batch[control]
    n_batches = int(screen.batch.max(initial=0)) + 1
    group = np.full(len(screen), -1)
    group[control] = places_within(batch) % 2 * n_batches + batch
    sums, n_cells = sums_of(values.blocks(), group, 2 * n_batches)
    means = (sums / np.maximum(n_cells, 1)[:, None]).reshape(2, n_batches, -1)
    sizes = n_cells.reshape(2, n_batches)
    enough = np.all(sizes > 0, axis=0)
    if not enough.any():
        raise InputError("no batch has two control cells: expected halves of them to compare with")
    return _Halves(means, sizes, enough)


class _Condition:
    """The cells of one condition, by sgRNA."""

    def __init__(
        self, values: sp.csr_matrix, group: np.ndarray, batch: np.ndarray, halves: _Halves
    ) -> None:
        self.group, self.batch, self.n_groups = group, batch, int(group.max()) + 1
        n_batches = len(halves.with_control)
        n_batch = np.bincount(batch, minlength=n_batches)
        center = (membership(batch, n_batches) @ values).toarray() / np.maximum(n_batch, 1)[:, None]
        present = np.flatnonzero(n_batch)
        squares = np.asarray(values.multiply(values).sum(0)).ravel()
        free = max(1, len(group) - len(present))
        variance = (squares - (n_batch[:, None] * center**2).sum(0)) / free
        self.varies = variance > 1e-12 * np.maximum(squares, 1e-300)
        self.variance = np.where(self.varies, variance, 1.0)
        dense = values.toarray() - center[batch]  # a condition has few cells
        self.values = dense[:, self.varies]
        self.sums = membership(group, self.n_groups) @ self.values
        self.n_cells = np.bincount(group, minlength=self.n_groups)
        # Effects: means of what is left of the batches' own effects, and these.
        self.shares = np.zeros((self.n_groups, n_batches))
        np.add.at(self.shares, (group, batch), 1)
        self.effects = center - halves.means
        weights = (self.shares / self.shares.sum(1, keepdims=True)) ** 2
        self.control_noise = [weights @ (1 / np.maximum(n, 1)) for n in halves.n_cells]

    def test(self, n: int, rng: np.random.Generator) -> tuple[float, float, np.ndarray]:
        """Return Q, its p value, and that of each sgRNA, by n permutations within batches."""
        if self.n_groups == 1:
            return np.nan, np.nan, np.full(1, np.nan)
        q, different = (v[0] for v in self._statistics(self.sums[None]))
        more, more_different = 1, np.ones(self.n_groups)
        for sums in self._permuted(n, rng):
            permuted, each = self._statistics(sums)
            more += int((permuted >= q * (1 - 1e-12)).sum())
            more_different += (each >= different * (1 - 1e-12)).sum(0)
        return float(q), more / (n + 1), more_different / (n + 1)

    def _statistics(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sum_g Q_g, and that of each sgRNA against the others: `draw`, `draw sgrna`."""
        n, total = self.n_cells, len(self.group)
        scaled = sums / np.sqrt(self.variance[self.varies])
        mean = scaled / n[:, None]
        whole = scaled.sum(1, keepdims=True)
        q = (n[:, None] * (mean - whole / total) ** 2).sum((1, 2))
        rest = (whole - scaled) / np.maximum(total - n, 1)[:, None]
        weight = 1 / (1 / n + 1 / np.maximum(total - n, 1))
        return q, weight * ((mean - rest) ** 2).sum(2)

    def _permuted(self, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield sums of permuted sgRNAs, `draw sgrna gene`, some draws at a time."""
        n_cells, k = len(self.group), self.n_groups
        order = np.argsort(self.batch, kind="stable")
        n_at_once = max(1, _CHUNK // max(1, k * self.values.shape[1]))
        for start in range(0, n, n_at_once):
            size = min(n_at_once, n - start)
            # Sorting by batch, and at random within: a permutation of each batch's own cells.
            keys = self.batch[order] + rng.random((size, n_cells))
            labels = np.empty((size, n_cells), int)
            labels[:, order] = self.group[order[np.argsort(keys, 1)]]
            rows = (labels + k * np.arange(size)[:, None]).ravel()
            columns = np.tile(np.arange(n_cells), size)
            member = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (size * k, n_cells))
            yield (member @ self.values).reshape(size, k, -1)

    def _effect(self, groups: list[int], half: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the effect of some sgRNAs together, against half of control, and its variance."""
        n = self.n_cells[groups].sum()
        shares = self.shares[groups].sum(0) / n
        effect = shares @ self.effects[half]
        effect[self.varies] += self.sums[groups].sum(0) / n
        return effect, self.variance / n

    def row(self, one: int) -> dict[str, object]:
        """Return the comparison of an sgRNA with the others."""
        row: dict[str, object] = {"n_cells": int(self.n_cells[one])}
        names = ("correlation", "sign_agreement", "n_changed", "strength", "strength_se")
        others = [i for i in range(self.n_groups) if i != one]
        if not others:
            return row | dict.fromkeys(names, np.nan) | {"n_changed": 0}
        pairs = [(self._effect([one], h), self._effect(others, 1 - h)) for h in (0, 1)]
        correlation = np.mean([pearson(a[0], b[0]) for a, b in pairs])
        a, b, v = (np.mean(x, 0) for x in zip(*((p[0][0], *p[1]) for p in pairs), strict=True))
        noise = v + self.variance * np.mean([noise[others].mean() for noise in self.control_noise])
        changed = self.varies & (np.abs(b) > _CHANGED * np.sqrt(noise))
        agreement = float((np.sign(a) == np.sign(b))[changed].mean()) if changed.any() else np.nan
        strength, se = _strength(pairs, self.variance, noise, changed)
        values = (float(correlation), agreement, int(changed.sum()), strength, se)
        return row | dict(zip(names, values, strict=True))


def _strength(
    pairs: list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]],
    variance: np.ndarray,
    noise: np.ndarray,
    changed: np.ndarray,
) -> tuple[float, float]:
    """Return the slope of an sgRNA's effect on that of the others, and its jackknife error, or NaN.

    The noise of the others is subtracted from the denominator.
    """
    if not changed.any():
        return np.nan, np.nan
    up = (sum(a[0] * b[0] for a, b in pairs) / 2 / variance)[changed]
    down = ((sum(b[0] ** 2 for _, b in pairs) / 2 - noise) / variance)[changed]
    block = np.arange(len(up)) % _BLOCKS
    left = [some for i in range(_BLOCKS) if (some := block != i).any()]
    ups, downs = (np.array([values[some].sum() for some in left]) for values in (up, down))
    if down.sum() <= 0 or (downs <= 0).any():
        return np.nan, np.nan
    slope = float(up.sum() / down.sum())
    if len(up) < _BLOCKS:
        return slope, np.nan
    parts = ups / downs
    return slope, float(np.sqrt((1 - 1 / _BLOCKS) * ((parts - parts.mean()) ** 2).sum()))
