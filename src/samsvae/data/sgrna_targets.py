"""Which gene each sgRNA targets: by a column of the file, or by its name."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.data.labels import MISSING, looks_like_control
from samsvae.errors import InputError, listed

CONTROL = "control"
"""The target of an sgRNA that targets nothing."""
_COLUMNS = (
    *("intended_target_name", "target_gene_name", "gene_target", "target_gene", "target"),
    *("gene_symbol", "gene_name", "gene", "target_gene_id"),
)
"""Columns of targets, the most specific first."""
_TARGETING = "targeting"
_FALSE = frozenset(("False", "FALSE", "false", "0", "0.0"))
_PREFIX = re.compile(r"(sg|gRNA|sgRNA)[-_.:]?(?=[^\W_])")
_FORMS = {
    "IRF1g2": re.compile(r"(.+?)[-_.:| ]?(?:sg|g|gRNA|sgRNA|grna|sgrna|guide)[-_.]?#?\d+"),
    "IRF1_2": re.compile(r"(.+)[-_.:| ]#?\d+"),
    "IRF1_b": re.compile(r"(.+)[-_.:|][A-Za-z]"),
    "IRF1_+_1234": re.compile(r"(.+?)[-_.:|][-+][-_.:|].*"),
    "IRF1_ACGTACGTACGTACGTACGT": re.compile(r"(.+)[-_.:|][ACGTU]{15,}"),
}
"""How names of sgRNAs are made of their targets, by an example."""
_MOST = 0.8
"""Share of the names of which a pattern must fit."""


class Targets(NamedTuple):
    """The targets of sgRNAs."""

    names: np.ndarray
    """`sgrna`: the target; `CONTROL`: it has none."""
    source: str
    """Where they are from, in words."""


def targets_of(features: pd.DataFrame) -> Targets:
    """Return the target of each sgRNA.

    By the first of the columns `intended_target_name`, `target_gene_name` and the like, or by the
    names: what follows the target in most of them is cut off, such as "g2", "_2" or "-2", and "sg"
    in front. Targets that are called like control, and sgRNAs with `targeting` False, are control.

    >>> names = ["IRF1g1", "IRF1g2", "NKX2-1g1", "NTg1"]
    >>> targets_of(pd.DataFrame(index=names)).names.tolist()
    ['IRF1', 'IRF1', 'NKX2-1', 'control']
    >>> targets_of(pd.DataFrame(index=["sgIRF1-2", "sgJAK2-1", "non-targeting_00012"]))
    Targets(names=array(['IRF1', 'JAK2', 'control'], dtype=object), \
source="names, read as 'IRF1_2' is, without 'sg'")
    """
    names = features.index.astype(str)
    if not names.is_unique:
        raise InputError(
            f"names of sgRNAs occur more than once: {listed(names[names.duplicated()].unique(), 3)}"
        )
    texts, source = _from_column(features)
    if texts is None:
        texts, source = _from_names(names)
    is_control = np.array([looks_like_control(t) for t in texts], bool)
    is_control |= np.array([looks_like_control(name) for name in names], bool) & (texts == names)
    if _TARGETING in features:
        is_control |= features[_TARGETING].astype(str).isin(_FALSE).to_numpy()
        source += f", control by {_TARGETING!r}"
    is_missing = np.array([text in MISSING for text in texts], bool) & ~is_control
    if is_missing.any():
        raise InputError(
            f"{int(is_missing.sum())} of {len(names)} sgRNAs have no target by {source}: "
            f"{listed(names[is_missing], 3)}; give a feature reference (--feature-reference)"
        )
    return Targets(np.where(is_control, CONTROL, texts).astype(object), source)


def _from_column(features: pd.DataFrame) -> tuple[np.ndarray | None, str]:
    """Return the column of targets, if there is one that says something."""
    for column in _COLUMNS:
        if column in features:
            values = features[column]
            texts = values.astype(str).str.strip().where(values.notna(), "").to_numpy(object)
            if {str(text) for text in texts} - MISSING:
                # A column of another kind, of which sgRNAs without a target have no value.
                empty = np.array([text in MISSING for text in texts], bool)
                alike = np.array([looks_like_control(name) for name in features.index], bool)
                return np.where(empty & alike, CONTROL, texts), f"column {column!r}"
    return None, ""


def _from_names(names: pd.Index) -> tuple[np.ndarray, str]:
    """Return names of sgRNAs without what is not their target, if most are of one form."""
    is_control = np.array([looks_like_control(name) for name in names], bool)
    if is_control.all():
        raise InputError(
            f"all {len(names)} sgRNAs are called like control, {names[0]!r} for one: give their "
            "targets by a feature reference (--feature-reference)"
        )
    others = names[~is_control]
    has_prefix = bool(np.mean([_PREFIX.match(name) is not None for name in others]) >= _MOST)
    stems = [_PREFIX.sub("", name, count=1) if has_prefix else name for name in others]
    found = {form: [pattern.fullmatch(name) for name in stems] for form, pattern in _FORMS.items()}
    form = next((one for one in found if np.mean([m is not None for m in found[one]]) >= _MOST), "")
    without = ", without 'sg'" if has_prefix else ""
    texts = np.full(len(names), CONTROL, object)
    if not form:
        texts[~is_control] = stems
        return texts, f"whole names{without}: most of them end in nothing that numbers sgRNAs"
    pairs = zip(found[form], stems, strict=True)
    texts[~is_control] = [name if match is None else match[1] for match, name in pairs]
    return texts, f"names, read as {form!r} is{without}"
