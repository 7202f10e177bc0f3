"""Labels of cells as files hold them: missing ones, controls by other names, split where they
should not be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from samsvae.data.conditions import ConditionParser, written
from samsvae.errors import InputError, listed, note

MISSING = frozenset(("", "nan", "NaN", "None", "NA", "<NA>", "null"))
"""Texts that stand for a missing label."""

_CONTROL = re.compile(
    r"""(nt|ntc|ntg|ctrl|control|mock|dmso|vehicle|untreated|unperturbed|scramble[d]?
    |aavs1|rosa26|lacz|e?gfp|luciferase|intergenic|neg(ative)?
    |non[-_ ]?targeting|safe[-_ ]?targeting|safe[-_ ]?harbou?r
    |neg(ative)?[-_ ]?(ctrl|control))
    ([-_ ]?(ctrl|control|sgrna|grna|guide|g|sg))?
    ([-_ .:]?\d+([-_ .:]\d+)*)?""",
    re.VERBOSE | re.IGNORECASE,
)
SEPARATORS = ("+", "_", ";", "|", "&", ",", "/", ":")
"""What joins perturbations in files."""
_BRACKETS = {")": "(", "]": "[", "}": "{"}


def looks_like_control(name: str) -> bool:
    """Whether a name is one that control goes by in some screens.

    >>> [name for name in ("NT", "non-targeting_3", "NT5E", "AAVS1", "LUC7L") if
    ...  looks_like_control(name)]
    ['NT', 'non-targeting_3', 'AAVS1']
    """
    return _CONTROL.fullmatch(name) is not None


def text_of(values: pd.Series, where: str, what: str) -> np.ndarray:
    """Return labels as text without spaces around them, `cell`; None where one is missing.

    Numbers without a fraction are written as whole ones.
    """
    labels, place = _distinct(values)
    read = np.array([label.strip() for label in labels], object)
    stripped = np.array([bool(a != b) for a, b in zip(labels, read, strict=True)], bool)[place]
    if stripped.any():
        note(
            f"{where} has spaces around the {what} of {int(stripped.sum())} cells: read without "
            "them"
        )
    read[:] = [None if label in MISSING else label for label in read]
    found: np.ndarray = read[place]
    return found


def _distinct(values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Return the texts of a column, sorted, and which of them each value is; "" is a missing one.

    As objects: an array of texts has room for the longest of them in each cell.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):  # few texts, however many cells
        texts = [written(name) for name in values.cat.categories] + [""]
        codes = values.cat.codes.to_numpy()
    else:
        every = np.array([written(value) for value in values.to_numpy(object)], object)
        every[values.isna().to_numpy()] = ""
        codes, found = pd.factorize(every)
        texts = list(map(str, found))
    labels = sorted(set(texts))
    position = {text: i for i, text in enumerate(labels)}
    return labels, np.array([position[text] for text in texts], np.int64)[codes]


def labelled(columns: Mapping[tuple[str, str], np.ndarray], *, drop: bool) -> np.ndarray:
    """Return `cell`: whether nothing is missing; what is, is left out on demand.

    Parameters
    ----------
    columns
        By name and what they are, labels as `text_of` gives them.
    drop
        Leave cells out; otherwise a missing label is an error.
    """
    complete = np.ones(len(next(iter(columns.values()))), bool)
    for (key, what), labels in columns.items():
        missing = np.array([label is None for label in labels], bool)
        if missing.any() and not drop:
            raise InputError(
                f"obs[{key!r}] lacks the {what} of {int(missing.sum())} of {len(missing)} cells "
                "(nothing stands there, or a text such as 'nan'): fill it in, or leave those cells "
                "out with drop_unlabelled=True (--drop-unlabelled)"
            )
        complete &= ~missing
    return complete


def note_controls(perturbations: Iterable[str], parser: ConditionParser) -> None:
    """Tell perturbations that look like further controls."""
    found = [name for name in perturbations if looks_like_control(name)]
    if found:
        these = [parser.control, *parser.also, *found[:3], *(["..."] if found[3:] else [])]
        note(
            f"perturbations that look like control: {listed(found)}; if they are, give "
            f"control={these} (--control, once for each)"
        )


def check_separator(labels: Collection[str], parser: ConditionParser) -> None:
    """Raise, or tell, where the separator takes names apart, or another one joins them.

    Raises
    ------
    InputError
        If parts have brackets without their counterparts, or are empty.
    """
    if not parser.separator:
        return
    split = {label: parser.split(label) for label in labels}
    several = {label: parts for label, parts in split.items() if len(parts) > 1}
    torn = [
        label
        for label, parts in several.items()
        if not all(part.strip() for part in parts)
        or (_balanced(label) and not all(map(_balanced, parts)))
    ]
    if torn:
        raise InputError(
            f"the separator {parser.separator!r} stands inside names: {listed(torn, 3)}; give "
            "another separator (--separator), or separator=None (--separator '') if every label is "
            "a single name"
        )
    alone = {label.strip() for label, parts in split.items() if len(parts) == 1}
    alone |= {
        names[0]
        for names in (_perturbations(p, parser) for p in several.values())
        if len(names) == 1
    }
    _note_strangers(several, alone, parser)
    _note_joined(alone, parser)


def _perturbations(parts: Sequence[str], parser: ConditionParser) -> list[str]:
    return [part.strip() for part in parts if not parser.is_control(part.strip())]


def _note_strangers(
    several: Mapping[str, Sequence[str]], alone: Collection[str], parser: ConditionParser
) -> None:
    """Tell labels of which no part occurs alone, where the parts of most others do."""
    combinations = {
        label: _perturbations(parts, parser)
        for label, parts in several.items()
        if len(_perturbations(parts, parser)) > 1
    }
    often = Counter(name for names in combinations.values() for name in names)
    strange = [
        label
        for label, names in combinations.items()
        if not any(name in alone or often[name] > 1 for name in names)
    ]
    perturbed = sum(not parser.is_control(label) for label in alone)
    if strange and 2 * len(strange) <= perturbed + len(combinations):
        note(
            f"{listed(strange, 3)} {'are' if len(strange) > 1 else 'is'} read as combinations of "
            "perturbations that occur nowhere else: whose effect is whose, the data do not tell; "
            f"if the separator {parser.separator!r} stands inside names, give another one, or "
            "separator=None (--separator '')"
        )


def joined(alone: Collection[str], parser: ConditionParser, separator: str) -> list[str]:
    """Return labels that a separator takes apart into others, or control; sorted."""
    return sorted(
        label
        for label in alone
        if separator in label
        and all(
            part in alone or parser.is_control(part) or looks_like_control(part)
            for part in label.split(separator)
        )
    )


def _note_joined(alone: Collection[str], parser: ConditionParser) -> None:
    """Tell labels that another separator takes apart into names that occur alone."""
    for separator in SEPARATORS:
        found = joined(alone, parser, separator) if separator != parser.separator else []
        if found:
            note(
                f"{listed(found, 3)} look like combinations joined by {separator!r}, and are read "
                f"as single names: if they are, give separator={separator!r} (--separator)"
            )


def _balanced(text: str) -> bool:
    """Whether every bracket has its counterpart."""
    open_: list[str] = []
    for c in text:
        if c in _BRACKETS.values():
            open_.append(c)
        elif c in _BRACKETS and (not open_ or open_.pop() != _BRACKETS[c]):
            return False
    return not open_
