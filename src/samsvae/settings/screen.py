"""How a screen is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from samsvae.settings.conventions import completed, convention
from samsvae.types import SgrnaRule

Name: TypeAlias = str | float | bool
_SEVERAL = {"as_text": tuple[str, ...]}


@dataclass(frozen=True, kw_only=True)
class ScreenSettings:
    """Where a file, or an AnnData object, holds what belongs to a screen.

    Parameters
    ----------
    convention
        Layout of another project: "scperturb", "gears", "cpa", "pertpy", "perturbench",
        "replogle" or "norman". It sets what is not given; see docs/data.md.
    perturbation_key
        Column of `adata.obs` with each cell's condition: the control label, a perturbation, or
        several joined by the separator. Labels of any type; "B+A" is "A+B".
    control
        Label of cells with no targeting perturbation; several, or a pattern such as
        "non-targeting*", where there are several. As a part of a label it adds nothing: "A+NT" is
        "A", "NT+NT" is control. Control goes by the first name that is no pattern; a name that is
        a label, such as "what?", is none. "": cells without a label are control.
    separator
        What joins the perturbations of a condition; None (at the command line ""): labels are
        single names.
    layer
        Layer that holds the counts; "raw" is `adata.raw`. By default `adata.X`.
    dosage_key
        Column with each cell's dose: a number, or one per perturbation of the label, in its
        order, like "0.5+2". By default every dose is 1.
    batch_key
        Column with each cell's batch, or several: each is a covariate of its own.
    context_key
        Column with each cell's context (cell line, stimulation, donor, time point), or several
        whose levels together are one: a batch in which perturbations may act differently.
    library_size_key
        Column with each cell's total counts, for a panel of a larger library. By default the
        sum of the cell's counts in the file.
    split_key
        Column with each cell's split: "train", "valid" or "test".
    sgrna_key
        Column with the reagent of each cell; training asks it only for `learn_responders=True`.
    replicate_key
        Column with each cell's replicate within its condition, such as its clone: cells of one
        are not independent, and differences between replicates enter standard errors. What is
        shared by conditions, such as a donor, is a batch.
    gene_key
        Column of `adata.var` with gene symbols, where `var_names` are identifiers; in Python also
        a mapping from identifier to symbol. Targets of perturbations are found by either.
    modality
        Of a file with several modalities, or genomes (10x Genomics): the one that holds the counts.
    labels
        CSV or TSV file of further columns, the cell's name (barcode) in the first.
    sgrna_assignment
        Rule by which cells get their sgRNA, and its target as their perturbation, in a file with
        counts of sgRNAs: "dominant" (one has at least 3 UMIs and more than 80 % of the cell's),
        "mixture" (posterior of presence above 1/2), a number (at least so many UMIs), or "calls"
        (as the file says). By default, in a file without the column of perturbations, "dominant"
        where most cells hold one sgRNA, else "mixture".
    several_sgrnas
        Cells with several sgRNAs: "drop", or "combine" to take them as combinations of their
        targets. By default they are left out where most cells hold one: there they are doublets.
    uncertain_sgrnas
        Keep cells in which the rule does not find one sgRNA, if by the mixture one or two targets
        may be there: the posterior of presence is the prior probability that the target's
        perturbation is. For `learn_responders=True`. Cells that surely hold several sgRNAs are left
        out still, unless they are combined.
    feature_reference
        CSV file of sgRNAs, as Cell Ranger takes it: id, name, target_gene_name. By default targets
        are read from the file, or from the names of the sgRNAs.
    drop_empty_cells
        Leave out cells with no counts; without it they are an error.
    drop_unlabelled
        Leave out cells whose condition, batch or split is missing, or is a text for that, such as
        "nan"; without it they are an error.
    counts
        False admits real values, for the Gaussian likelihood.
    in_memory
        False leaves counts in the file, an .h5ad, .h5mu or .zarr, from which they are read when
        they are needed: for screens beyond memory. Training mixes cells within windows of 16,384,
        not over all of them (docs/large.md).
    """

    convention: str | None = None
    perturbation_key: str = "perturbation"
    control: Name | Sequence[Name] | None = field(default=("control",), metadata=_SEVERAL)
    separator: str | None = field(default="+", metadata={"as_text": str})
    layer: str | None = None
    dosage_key: str | None = None
    batch_key: str | Sequence[str] | None = field(default=(), metadata=_SEVERAL)
    context_key: str | Sequence[str] | None = field(default=(), metadata=_SEVERAL)
    library_size_key: str | None = None
    split_key: str | None = None
    sgrna_key: str | None = None
    replicate_key: str | None = None
    gene_key: str | Mapping[str, str] | None = field(default=None, metadata={"as_text": str | None})
    modality: str | None = None
    labels: str | None = None
    sgrna_assignment: SgrnaRule | None = None
    several_sgrnas: Literal["drop", "combine"] | None = None
    uncertain_sgrnas: bool = False
    feature_reference: str | None = None
    drop_empty_cells: bool = False
    drop_unlabelled: bool = False
    counts: bool = True
    in_memory: bool = field(default=True, metadata={"off": "on-disk"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "control", _several(self.control))
        for key in ("batch_key", "context_key"):
            object.__setattr__(self, key, tuple(filter(None, _several(getattr(self, key)))))
        if self.separator is None:
            object.__setattr__(self, "separator", "")

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of cells that are used."""
        roles = ("perturbation", "dosage", "library_size", "split", "sgrna", "replicate")
        used = (getattr(self, f"{role}_key") for role in roles)
        return tuple(filter(None, [*used, *self.batch_columns]))

    @property
    def batch_columns(self) -> tuple[str, ...]:
        """The columns with batches, those with contexts first."""
        contexts, batches = _several(self.context_key), _several(self.batch_key)
        return (*contexts, *(name for name in batches if name not in contexts))

    @property
    def controls(self) -> tuple[Name, ...]:
        """All labels and patterns of control."""
        return _several(self.control)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings that are given; of the others, what the convention says."""
        return cls(**completed(given))

    def found(self, columns: Sequence[str], layers: Sequence[str]) -> dict[str, Any]:
        """Return what stands in for settings of the convention that a file has nothing of."""
        if self.convention is None:
            return {}
        layout = convention(self.convention)
        there = set(columns)
        changed: dict[str, Any] = {}
        for name, value in layout.settings.items():
            if name.endswith("_key") and _several(getattr(self, name)) == _several(value):
                if name == "perturbation_key":
                    changed[name] = layout.perturbation_key(columns)
                elif name == "batch_key":
                    changed[name] = tuple(key for key in value if key in there)
                elif name != "gene_key" and value not in there:
                    changed[name] = None
        if self.layer == layout.settings.get("layer") and self.layer not in layers:
            changed["layer"] = None
        return changed


def _several(value: Any) -> tuple[Any, ...]:
    """Return a name, or several, as a tuple; none for None."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
