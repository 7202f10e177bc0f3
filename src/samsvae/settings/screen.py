"""How a screen is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScreenSettings:
    """Where an AnnData object holds what belongs to a screen.

    Parameters
    ----------
    perturbation_key
        Column of `adata.obs` with each cell's condition: the control label, a perturbation, or
        several joined by the separator. Labels of any type; "B+A" is "A+B".
    control
        Label of cells with no targeting perturbation.
    separator
        What joins the perturbations of a condition.
    layer
        Layer that holds the counts; by default `adata.X`.
    dosage_key
        Column with each cell's dose: a number, or one per perturbation of the label, in its
        order, like "0.5+2". By default every dose is 1.
    batch_key
        Column with each cell's batch.
    library_size_key
        Column with each cell's total counts, for a panel of a larger library. By default the
        sum of the cell's counts in the file.
    split_key
        Column with each cell's split: "train", "valid" or "test".
    drop_empty_cells
        Leave out cells with no counts; without it they are an error.
    counts
        False admits real values, for the Gaussian likelihood.
    """

    perturbation_key: str = "perturbation"
    control: str = "control"
    separator: str = "+"
    layer: str | None = None
    dosage_key: str | None = None
    batch_key: str | None = None
    library_size_key: str | None = None
    split_key: str | None = None
    drop_empty_cells: bool = False
    counts: bool = True
