"""How the files of other projects are laid out: `convention="gears"` and the like."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from samsvae.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Convention:
    """The layout of a project's files.

    Parameters
    ----------
    settings
        What it says, by the names of `samsvae.settings.screen.ScreenSettings`. Columns and layers
        other than the perturbations' are read where a file has them.
    signs
        Columns of the cells by which a file of that layout is known: all those of any set.
    marks
        Labels by which it is known besides: one of them is among the parts of the labels.
    instead
        Other columns that hold the perturbations, in files without the first.
    rewritten
        Patterns and what takes their place in a label, in turn, before it is split.
    splits
        What its splits are called here.
    source
        Where the layout is described.
    """

    settings: Mapping[str, Any]
    signs: tuple[frozenset[str], ...]
    marks: frozenset[str] = frozenset()
    instead: tuple[str, ...] = ()
    rewritten: tuple[tuple[str, str], ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    source: str

    def label(self, text: str) -> str:
        """Return a label as the separator takes it apart."""
        for pattern, replacement in self.rewritten:
            text = re.sub(pattern, replacement, text)
        return text

    def fits(self, columns: Collection[str], labels: Iterable[str] = ()) -> int:
        """Return how many signs a file shows; 0: it is not laid out so.

        >>> CONVENTIONS["gears"].fits(["condition", "cell_type"], ["A+ctrl", "ctrl"])
        2
        >>> CONVENTIONS["gears"].fits(["condition", "cell_type"], ["A+control", "control"])
        0
        """
        shown = max((len(one) for one in self.signs if one <= set(columns)), default=0)
        if not (shown and self.marks):
            return shown
        separator = self.settings["separator"]
        parts = {part for text in labels for part in self.label(text).split(separator)}
        return shown if self.marks & parts else 0

    def perturbation_key(self, columns: Collection[str]) -> str:
        """Return the column with the perturbations: the first of those that there may be."""
        first = str(self.settings["perturbation_key"])
        return next((key for key in (first, *self.instead) if key in columns), first)


def _signs(*columns: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(some.split()) for some in columns)


CONVENTIONS: dict[str, Convention] = {
    "scperturb": Convention(
        settings={
            "perturbation_key": "perturbation",
            "control": ("control",),
            "separator": "_",
            "dosage_key": "dose_value",
            "sgrna_key": "guide_id",
        },
        signs=_signs("perturbation nperts"),
        source="Peidli et al. 2024, scPerturb, Nature Methods 21: 531; https://scperturb.org",
    ),
    "gears": Convention(
        settings={
            "perturbation_key": "condition",
            "control": ("ctrl",),
            "separator": "+",
            "dosage_key": "dose_val",
            "gene_key": "gene_name",
            "layer": "counts",
        },
        signs=_signs("condition condition_name", "condition cell_type"),
        marks=frozenset({"ctrl"}),
        source="Roohani et al. 2024, GEARS, Nature Biotechnology 42: 927; data tutorial of "
        "https://github.com/snap-stanford/GEARS",
    ),
    "cpa": Convention(
        settings={
            "perturbation_key": "condition",
            "control": ("control", "ctrl"),
            "separator": "+",
            "dosage_key": "dose_val",
            "batch_key": ("cell_type",),
            "split_key": "split",
            "layer": "counts",
        },
        signs=_signs(
            "condition cov_drug_dose_name", "condition cov_drug", "condition dose_val split"
        ),
        marks=frozenset({"control", "ctrl"}),
        splits={"test": "valid", "ood": "test"},  # what CPA stops by, and what it is judged by
        source="Lotfollahi et al. 2023, CPA, Molecular Systems Biology 19: e11517; "
        "https://cpa-tools.readthedocs.io",
    ),
    "pertpy": Convention(
        settings={
            "perturbation_key": "gene_target",
            "control": ("NT", "control"),
            "separator": "+",
            "batch_key": ("replicate",),
            "sgrna_key": "guide_ID",
        },
        signs=_signs("gene_target guide_ID", "perturbation_name"),
        instead=("perturbation_name",),
        source="Heumos et al. 2025, pertpy, Nature Methods; the data sets of "
        "https://pertpy.readthedocs.io (papalexi_2021, norman_2019)",
    ),
    "perturbench": Convention(
        settings={
            "perturbation_key": "condition",
            "control": ("control",),
            "separator": "+",
            "batch_key": ("cell_type", "treatment"),
            "layer": "counts",
        },
        signs=_signs("condition cell_type", "condition treatment"),
        marks=frozenset({"control"}),
        source="Wu et al. 2025, PerturBench, NeurIPS Datasets and Benchmarks; "
        "https://github.com/altoslabs/perturbench",
    ),
    "replogle": Convention(
        settings={
            "perturbation_key": "gene",
            "control": ("non-targeting",),
            "separator": "",  # a cell has one perturbation; names of genes hold no separator
            "batch_key": ("gem_group",),
            "sgrna_key": "sgID_AB",
            "gene_key": "gene_name",
        },
        signs=_signs("gene sgID_AB", "gene gene_transcript"),
        source="Replogle et al. 2022, Cell 185: 2559; the h5ad files of "
        "https://doi.org/10.25452/figshare.plus.20029387",
    ),
    "norman": Convention(
        settings={
            "perturbation_key": "guide_identity",
            "control": ("control", "NegCtrl*", "ctrl"),
            "separator": "_",
            "batch_key": ("gemgroup",),
        },
        signs=_signs("guide_identity"),
        instead=("perturbation", "condition"),
        rewritten=((r"__.*$", ""), (r"\+", "_")),
        source="Norman et al. 2019, Science 365: 786; cell identities of GEO GSE133344",
    ),
}
"""By name."""


def convention(name: str) -> Convention:
    """Return a convention by name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in CONVENTIONS:
        raise unknown("convention", name, list(CONVENTIONS))
    return CONVENTIONS[name]


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, and what their convention says of those that are not given.

    >>> completed({"convention": "gears", "control": "unperturbed"})["control"]
    'unperturbed'
    >>> completed({"convention": "gears"})["perturbation_key"]
    'condition'
    """
    name = given.get("convention")
    return {**({} if name is None else convention(name).settings), **given}
