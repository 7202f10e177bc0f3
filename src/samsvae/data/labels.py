"""Labels of cells as files hold them: missing ones, other names of control, misread separators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from samsvae.data.conditions import ConditionParser, written
from samsvae.errors import InputError, listed, note

MISSING = frozenset(("", "nan", "NaN", "None", "NA", "<NA>", "null"))
"""Texts that mean a missing label."""

_CONTROL = re.compile(
    r"""(nt|ntc|ntg|ctrl|control|mock|dmso|vehicle|saline|untreated|unperturbed|untransduced
    |parental|scramble[d]?|no[-_ ]?(guide|sg?rna|grna|target|perturbation|treatment|drug)
    |aavs1|rosa26|lacz|e?gfp|luciferase|intergenic|neg(ative)?
    |non[-_ ]?targeting|safe[-_ ]?targeting|safe[-_ ]?harbou?r
    |neg(ative)?[-_ ]?(ctrl|control))
    ([-_ ]?(ctrl|control|sgrna|grna|guide|g|sg))?
    ([-_ .:]?\d+([-_ .:]\d+)*)?
    |(pbs|wt|wild[-_ ]?type)([-_ .:]\d+)?""",  # WT1 is a gene
    re.VERBOSE | re.IGNORECASE,
)
_CONTROL_INSIDE = re.compile(
    rf"(?<![^\W_])(?:{_CONTROL.pattern})(?![^\W_])", re.VERBOSE | re.IGNORECASE
)
"""Such a name as a word, or words, of a longer one."""
SEPARATORS = ("+", "_", ";", "|", "&", ",", "/", ":")
"""Usual separators of perturbations in files."""
_BRACKETS = {")": "(", "]": "[", "}": "{"}


def looks_like_control(name: str) -> bool:
    """Whether a name means control in some screens.

    >>> [name for name in ("NT", "non-targeting_3", "NT5E", "AAVS1", "LUC7L") if
    ...  looks_like_control(name)]
    ['NT', 'non-targeting_3', 'AAVS1']
    """
    return _CONTROL.fullmatch(name) is not None


def control_hint(labels: Collection[str], control: str) -> str:
    """Return which labels there are instead of control's, and how to name those that may be it.

    >>> print(control_hint(["DMSO_TF", "A"], "control"))
    expected 'control'; there are 'DMSO_TF', 'A'; 'DMSO_TF' may be control: give \
control='DMSO_TF' (--control, once for each)
    """
    alike = sorted(filter(looks_like_control, labels)) or _with_control_inside(labels)
    others = sorted(set(labels).difference(alike))
    text = f"expected {control!r}; there are {listed([*alike[:4], *others]) or 'no labels'}"
    if not alike:
        return f"{text}; give the label of cells without a perturbation by control= (--control)"
    names = repr(alike[0]) if len(alike) == 1 else f"{alike[:3]}"
    advice = f"give control={names} (--control, once for each)"
    return f"{text}; {listed(alike)} may be control: {advice}"


def _with_control_inside(labels: Collection[str]) -> list[str]:
    """Return labels that hold a name of control, unless they are so many that it joins names."""
    alike = sorted(filter(_CONTROL_INSIDE.search, labels))
    return alike if len(alike) <= max(3, len(labels) // 5) else []


def text_of(values: pd.Series, where: str, what: str) -> np.ndarray:
    """Return labels as text, without spaces around them, `cell`; None where one is missing."""
    if isinstance(values.dtype, pd.CategoricalDtype):  # few texts, however many cells
        texts = [written(name) for name in values.cat.categories] + [""]
        codes = values.cat.codes.to_numpy()  # -1, the last, for a missing one
    else:
        all_texts = np.array([written(value) for value in values.to_numpy(object)], object)
        all_texts[values.isna().to_numpy()] = ""
        codes, unique = pd.factorize(all_texts)
        texts = list(map(str, unique))
    stripped = [text.strip() for text in texts]
    is_changed = np.array([a != b for a, b in zip(texts, stripped, strict=True)], bool)[codes]
    if is_changed.any():
        note(
            f"{where} has spaces around the {what} of {int(is_changed.sum())} cells: read without "
            "them"
        )
    labels = [None if text in MISSING else text for text in stripped]
    return np.array(labels, object)[codes]


def labelled(
    columns: Mapping[tuple[str, str], np.ndarray], n_cells: int, *, drop: bool
) -> np.ndarray:
    """Return `cell`: whether no label is missing; a missing one is an error unless `drop`.

    `columns` are labels as `text_of` returns them, by the name of their column and what they are.
    """
    is_labelled = np.ones(n_cells, bool)
    for (key, what), labels in columns.items():
        is_missing = np.array([label is None for label in labels], bool)
        if is_missing.any() and not drop:
            raise InputError(
                f"obs[{key!r}] lacks the {what} of {int(is_missing.sum())} of {len(labels)} cells "
                "(it is empty, or a text such as 'nan'): fill it in, or leave those cells out with "
                "drop_unlabelled=True (--drop-unlabelled)"
            )
        is_labelled &= ~is_missing
    return is_labelled


def check_separator(labels: Collection[str], parser: ConditionParser) -> None:
    """Raise, or warn, if the separator splits names, or another one joins them."""
    if not parser.separator:
        return
    parts_of = {label: parser.split(label) for label in labels}
    several = {label: parts for label, parts in parts_of.items() if len(parts) > 1}
    wrong = [
        label
        for label, parts in several.items()
        if not all(part.strip() or parser.is_control("") for part in parts)
        or (_is_balanced(label) and not all(map(_is_balanced, parts)))
    ]
    if wrong:
        raise InputError(
            f"the separator {parser.separator!r} stands inside names: {listed(wrong, 3)}; give "
            "another separator (--separator), or separator=None (--separator '') if every label is "
            "a single name"
        )
    combinations = {
        label: [name for name in map(str.strip, parts) if not parser.is_control(name)]
        for label, parts in several.items()
    }
    singles = {label.strip() for label in parts_of.keys() - several.keys()}
    singles |= {names[0] for names in combinations.values() if len(names) == 1}
    combinations = {label: names for label, names in combinations.items() if len(names) > 1}
    # Parts that occur nowhere else, if the parts of most other combinations do.
    n_labels = Counter(name for names in combinations.values() for name in names)
    unknown = [
        label
        for label, names in combinations.items()
        if not any(name in singles or n_labels[name] > 1 for name in names)
    ]
    n_perturbed = sum(not parser.is_control(label) for label in singles)
    if unknown and 2 * len(unknown) <= n_perturbed + len(combinations):
        note(
            f"{listed(unknown, 3)} {'are' if len(unknown) > 1 else 'is'} read as combinations of "
            "perturbations that occur nowhere else, so that their effects cannot be told apart; "
            f"if the separator {parser.separator!r} is part of names, give another one, or "
            "separator=None (--separator '')"
        )
    for separator in SEPARATORS:
        alike = joined(singles, parser, separator) if separator != parser.separator else []
        if alike:
            note(
                f"{listed(alike, 3)} look like combinations joined by {separator!r}, and are read "
                f"as single names: if they are, give separator={separator!r} (--separator)"
            )


def joined(singles: Collection[str], parser: ConditionParser, separator: str) -> list[str]:
    """Return labels that a separator splits into other labels, or control; sorted."""
    return sorted(
        label
        for label in singles
        if separator in label
        and all(
            part in singles or parser.is_control(part) or looks_like_control(part)
            for part in label.split(separator)
        )
    )


def _is_balanced(text: str) -> bool:
    """Whether every bracket has its counterpart."""
    opened: list[str] = []
    for character in text:
        if character in _BRACKETS.values():
            opened.append(character)
        elif character in _BRACKETS and (not opened or opened.pop() != _BRACKETS[character]):
            return False
    return not opened
