"""Which cells hold which sgRNA: rules, and how many cells each of them leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.optimize import brentq
from scipy.special import gammaln

from samsvae.data.counts import to_counts
from samsvae.data.sgrna_mixture import SgrnaMixture, sgrna_mixture
from samsvae.data.sgrna_targets import CONTROL, targets_of
from samsvae.errors import InputError, unknown
from samsvae.storage.anndata_files import Table
from samsvae.types import SgrnaRule

_MIN_UMIS = 3
_CLEAR = 5
"""UMIs that are rarely background."""
_DOMINANT = 0.8
"""Share of a cell's sgRNA counts above which its first one dominates."""
_PRESENT = 0.5
"""Posterior of presence above which an sgRNA is in a cell, for the rule "mixture"."""
_UNCERTAIN = 0.05, 0.95
"""Posteriors of presence between which it is uncertain."""
ONE, NONE, SEVERAL = "one sgRNA", "no sgRNA", "several sgRNAs"
_FEW, _NO_TOP = f"below {_MIN_UMIS} UMIs", f"no sgRNA above {_DOMINANT:.0%}"
_WORDS = {
    "dominant": f"at least {_MIN_UMIS} UMIs and more than {_DOMINANT:.0%} of the cell's",
    "mixture": f"posterior of presence above {_PRESENT:g}",
    "calls": "as the file says",
}


@dataclass(frozen=True, eq=False)
class SgrnaAssignment:
    """Which cells hold which sgRNA, by a rule; of all cells of a file, those left out, too."""

    rule: SgrnaRule
    cells: pd.Index
    """Names of the cells."""
    sgrnas: pd.Index
    """Names of the sgRNAs."""
    targets: np.ndarray
    """`sgrna`: its target, "control" for one that targets nothing."""
    counts: sp.csr_matrix
    """`cell sgrna`, UMIs."""
    called: sp.csr_matrix
    """`cell sgrna`: the sgRNAs that the rule finds in a cell."""
    status: pd.Categorical
    """`cell`: "one sgRNA", or why the cell has not one: "no sgRNA", "several sgRNAs", and, for the
    rule "dominant", "below 3 UMIs" and "no sgRNA above 80%"."""
    source: str
    """Where counts and targets are from, in words."""
    file_calls: sp.csr_matrix | None = None
    """`cell sgrna`: the calls of the file, if it has any."""

    @cached_property
    def mixture(self) -> SgrnaMixture:
        """The mixture of background and signal: see `samsvae.data.sgrna_mixture`."""
        return sgrna_mixture(self.counts)

    @property
    def posterior(self) -> sp.csr_matrix:
        """`cell sgrna`: the posterior probability that the sgRNA is in the cell, by the mixture.

        Whatever the rule; sgRNAs without a count in the cell are taken to be absent.
        """
        return self.mixture.probability

    @property
    def has_one(self) -> np.ndarray:
        """`cell`: whether the rule finds one sgRNA in it."""
        return np.asarray(self.status == ONE)

    def with_rule(self, rule: SgrnaRule) -> SgrnaAssignment:
        """Return the assignment of the same counts by another rule."""
        called, status = _by_rule(self, rule)
        made = SgrnaAssignment(
            rule,
            self.cells,
            self.sgrnas,
            self.targets,
            self.counts,
            called,
            status,
            self.source,
            self.file_calls,
        )
        if "mixture" in self.__dict__:  # the counts are the same
            made.__dict__["mixture"] = self.mixture
        return made

    def per_cell(self) -> pd.DataFrame:
        """Return one row per cell.

        `n_umis`; `top`, the sgRNA with most counts, and `top_share`; `n_sgrnas`, those that are
        present by the mixture (posterior above 1/2); `sgrna` and `target`, by the rule, of cells
        with one; `status`.
        """
        total, top, largest = _tops(self.counts)
        one = self.has_one
        held = np.asarray(self.called.argmax(1)).ravel()
        names = np.asarray(self.sgrnas, object)
        return pd.DataFrame(
            {
                "n_umis": total,
                "top": np.where(total > 0, names[top], None),
                "top_share": largest / np.maximum(total, 1),
                "n_sgrnas": np.asarray((self.posterior > _PRESENT).sum(1)).ravel(),
                "sgrna": np.where(one, names[held], None),
                "target": np.where(one, self.targets[held], None),
                "status": self.status,
            },
            index=self.cells,
        )

    def per_sgrna(self) -> pd.DataFrame:
        """Return one row per sgRNA: its fit, and its cells.

        `target`; `n_cells`, cells that hold it alone, by the rule; `n_present`, cells in which it
        is present by the mixture; `n_uncertain`, with a posterior between 0.05 and 0.95; `signal`
        and `ambient`, UMIs in a cell with it and by background.
        """
        n_present, posterior = self.posterior > _PRESENT, self.posterior.tocsc()
        low, high = _UNCERTAIN
        is_uncertain = (posterior.data > low) & (posterior.data < high)
        columns = np.repeat(np.arange(len(self.sgrnas)), np.diff(posterior.indptr))
        return pd.DataFrame(
            {
                "target": self.targets,
                "n_cells": np.asarray(self.called[self.has_one].sum(0)).ravel().astype(int),
                "n_present": np.asarray(n_present.sum(0)).ravel(),
                "n_uncertain": np.bincount(columns[is_uncertain], minlength=len(self.sgrnas)),
                "signal": self.mixture.signal,
                "ambient": self.mixture.ambient,
            },
            index=self.sgrnas,
        )

    def per_target(self) -> pd.DataFrame:
        """Return one row per target: its sgRNAs and its cells, by the rule."""
        table = self.per_sgrna().groupby("target", sort=True)["n_cells"].agg(["size", "sum"])
        return table.rename(columns={"size": "n_sgrnas", "sum": "n_cells"})

    def quantiles(self) -> pd.DataFrame:
        """Return the 5, 25, 50, 75 and 95 % quantiles over cells with any sgRNA count.

        One row each of "sgRNA counts", "counts of the first sgRNA", "share of the first sgRNA".
        """
        total, _, largest = _tops(self.counts)
        total, largest = total[total > 0], largest[total > 0]
        rows = {
            "sgRNA counts": total,
            "counts of the first sgRNA": largest,
            "share of the first sgRNA": largest / total,
        }
        levels = (0.05, 0.25, 0.5, 0.75, 0.95)
        names = [f"{level:.0%}" for level in levels]
        return pd.DataFrame({k: np.quantile(v, levels) for k, v in rows.items()}, names).T

    def rules(self) -> pd.DataFrame:
        """Return how many cells have what `status`, by every rule: one row per rule."""
        rules: list[SgrnaRule] = ["dominant", "mixture", _CLEAR]
        rules += ["calls"] if self.file_calls is not None else []
        rules += [self.rule] if self.rule not in rules else []
        rows = {name_of(rule): self.with_rule(rule).status.value_counts() for rule in rules}
        table = pd.DataFrame(rows).fillna(0).astype(int).T
        order = [name for name in (ONE, NONE, _FEW, _NO_TOP, SEVERAL) if name in table]
        return table[order].rename_axis("rule").rename_axis(None, axis=1)

    def loading(self) -> pd.DataFrame:
        """Return how many cells hold so many sgRNAs, and how many would under Poisson loading.

        One row per number of sgRNAs (index `n_sgrnas`): `cells`, by the mixture, and `expected` of
        the cells with any, were their number Poisson of the same mean. Cells without one are not
        predicted (NaN): they are selected against, or their sgRNA is not detected.
        """
        n = np.asarray((self.posterior > _PRESENT).sum(1)).ravel()
        observed = np.bincount(n)
        k, positive = np.arange(len(observed)), n[n > 0]
        expected = np.full(len(k), np.nan)
        if len(positive) and positive.mean() > 1:
            mean = brentq(lambda m: m / -np.expm1(-m) - positive.mean(), 1e-9, positive.mean())
            log_p = k * np.log(mean) - mean - np.log(-np.expm1(-mean)) - gammaln(k + 1)
            expected[1:] = (len(positive) * np.exp(log_p))[1:]
        return pd.DataFrame({"cells": observed, "expected": expected}, pd.Index(k, name="n_sgrnas"))

    def summary(self) -> str:
        """Return what was assigned, in a line."""
        n = self.status.value_counts()  # in the order of categories
        others = ", ".join(f"{name} ({k:,})" for name, k in n.items() if name != ONE and k)
        n_control = int((self.targets == CONTROL).sum())
        n_targets = len(set(self.targets) - {CONTROL})
        return (
            f"{len(self.sgrnas):,} sgRNAs ({self.source}): {n_targets:,} targets and {n_control:,} "
            f"sgRNAs of control; by the rule {name_of(self.rule)} ({in_words(self.rule)}) "
            f"{int(n.get(ONE, 0)):,} of {len(self.cells):,} cells have one"
            + (f", the others {others}" if others else "")
        )


def assignment_of(table: Table, rule: SgrnaRule | None = None) -> SgrnaAssignment:
    """Return the assignment of the sgRNA counts of a table; raise if it has none."""
    if table.sgrnas is None:
        raise InputError(
            "there are no sgRNA counts: expected features of the type 'CRISPR Guide Capture', a "
            "modality such as 'guide', or a matrix such as obsm['guide_counts']"
        )
    own = table.sgrnas()
    counts = to_counts(own.counts, own.where)
    if not counts.nnz:
        raise InputError(f"{own.where}: all sgRNA counts are 0")
    targets = targets_of(own.features)
    calls = own.calls if own.calls is not None else _listed_calls(table, own.features.index)
    cells = pd.Index(table.cells.names.astype(str))
    bare = SgrnaAssignment(
        "dominant",
        cells,
        own.features.index,
        targets.names,
        counts,
        sp.csr_matrix(counts.shape, dtype=bool),
        pd.Categorical([ONE] * len(cells)),
        f"{own.where}; targets: {targets.source}",
        None if calls is None else sp.csr_matrix(calls, dtype=bool),
    )
    if rule is not None:
        return bare.with_rule(rule)
    return bare.with_rule("dominant" if _most_hold_one(counts) else "mixture")


def _most_hold_one(counts: sp.csr_matrix) -> bool:
    """Whether most cells with a clear sgRNA have no clear second one, and the first dominates.

    Clear are those with enough counts, and a quarter of the first one's. Where much is ambient, one
    may be clear and not dominate.
    """
    total, _, largest = _tops(counts)
    n_per_cell = np.diff(counts.indptr)
    least = np.repeat(np.maximum(_CLEAR, largest / 4), n_per_cell)
    of_cell = np.repeat(np.arange(len(largest)), n_per_cell)
    n_clear = np.bincount(of_cell[counts.data >= least], minlength=len(largest))
    has_one = n_clear == 1
    is_dominant = has_one & (largest > _DOMINANT * total)
    n_one = int(has_one.sum())
    return n_one >= int((n_clear > 1).sum()) and 2 * int(is_dominant.sum()) >= n_one


def _by_rule(one: SgrnaAssignment, rule: SgrnaRule) -> tuple[sp.csr_matrix, pd.Categorical]:
    """Return the sgRNAs that a rule finds in cells, `cell sgrna`, and what cells have, `cell`."""
    counts = one.counts
    if rule == "dominant":
        total, top, largest = _tops(counts)
        is_enough = largest >= _MIN_UMIS
        has_one = is_enough & (largest > _DOMINANT * total)
        rows = np.flatnonzero(has_one)
        parts = np.ones(len(rows), bool), (rows, top[rows])
        called = sp.csr_matrix(parts, shape=counts.shape)
        status = np.where(has_one, ONE, np.where(is_enough, _NO_TOP, _FEW))
        return called, pd.Categorical(status, [ONE, _FEW, _NO_TOP])
    if rule == "mixture":
        called = one.posterior > _PRESENT
    elif rule == "calls":
        if one.file_calls is None:
            raise InputError(
                "the file says of no cell which sgRNAs it holds: expected a layer "
                "'guide_assignment', or Cell Ranger's column 'feature_call' (give "
                "protospacer_calls_per_cell.csv by labels); or take another rule"
            )
        called = one.file_calls
    elif isinstance(rule, int) and rule >= 1:
        called = counts >= rule
    else:
        raise unknown("rule of sgRNA assignment", rule, [*_WORDS, "a number of UMIs"])
    n = np.asarray(called.sum(1)).ravel()
    status = np.where(n == 1, ONE, np.where(n == 0, NONE, SEVERAL))
    return sp.csr_matrix(called, dtype=bool), pd.Categorical(status, [ONE, NONE, SEVERAL])


def _tops(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `cell`: all sgRNA counts, the sgRNA with most of them, and how many it has."""
    total = np.asarray(counts.sum(1), np.int64).ravel()
    top = np.asarray(counts.argmax(1)).ravel()
    return total, top, np.asarray(counts.max(1).todense(), np.int64).ravel()


def _listed_calls(table: Table, sgrnas: pd.Index) -> sp.csr_matrix | None:
    """Return the calls in Cell Ranger's column `feature_call`, names joined by "|"."""
    if "feature_call" not in table.cells.columns:
        return None
    lists = table.cells.read("feature_call")
    lists = lists.where(lists.notna(), "").astype(str).str.split("|")
    names = pd.Series(np.concatenate([*lists.to_numpy(), [""]]))
    rows = np.repeat(np.arange(len(lists) + 1), [*lists.str.len(), 1])
    place = sgrnas.get_indexer(pd.Index(names))
    is_call = place >= 0
    parts = np.ones(is_call.sum(), bool), (rows[is_call], place[is_call])
    return sp.csr_matrix(parts, shape=(len(lists), len(sgrnas)))


def name_of(rule: SgrnaRule) -> str:
    """Return what a rule is called in tables and messages."""
    return rule if isinstance(rule, str) else f"threshold {rule}"


def in_words(rule: SgrnaRule) -> str:
    """Return what a rule asks for."""
    return _WORDS[rule] if isinstance(rule, str) else f"at least {rule} UMIs"
