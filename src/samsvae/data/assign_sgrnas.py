"""`samsvae.assign_sgrnas`: sgRNAs of cells, from files and from what was read of them."""

from __future__ import annotations

import os

from anndata import AnnData

from samsvae.data.counts import to_counts
from samsvae.data.screen import Screen
from samsvae.data.sgrna_assignment import SgrnaAssignment, assignment_of
from samsvae.errors import InputError
from samsvae.settings.arguments import checked
from samsvae.storage.anndata_files import SgrnaCounts, Table
from samsvae.storage.opening import opened, read_reference
from samsvae.storage.sgrna_counts import with_sgrnas
from samsvae.types import SgrnaRule


@checked
def assign_sgrnas(
    data: Screen | AnnData | str | os.PathLike[str],
    *,
    rule: SgrnaRule | None = None,
    feature_reference: str | None = None,
    modality: str | None = None,
) -> SgrnaAssignment:
    """Assign sgRNAs to cells by their counts.

    Parameters
    ----------
    data
        A file, a screen that was read from sgRNA counts, or an AnnData object: with sgRNAs among
        its features or in obsm, or of sgRNAs alone.
    rule
        "dominant": one sgRNA has at least 3 UMIs and more than 80 % of the cell's. "mixture": its
        posterior of presence is above 1/2, of a negative binomial background (the ambient profile
        times the cell's ambient size) and a signal, fitted to all sgRNAs by EM: any number may be
        in a cell. A number: at least so many UMIs. "calls": as the file says. By default
        "dominant" where most cells have no second sgRNA with 5 UMIs and a quarter of the first
        one's, and the first dominates in most of those; else "mixture".
    feature_reference
        CSV file of the sgRNAs, as Cell Ranger takes it: id, name, target_gene_name.
    modality
        Of a file with several: the one of the genes.

    Returns
    -------
    The assignment: `posterior`, `called`, `status`, and tables `per_cell()`, `per_sgrna()`,
    `per_target()`, `rules()` and `loading()`; see `samsvae.data.sgrna_assignment.SgrnaAssignment`.

    Raises
    ------
    InputError
        If there are no sgRNA counts, or targets cannot be read.

    Examples
    --------
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> counts = AnnData(
    ...     np.array([[9.0, 0, 1], [0, 20, 0], [1, 0, 1], [8, 9, 0]]),
    ...     var=pd.DataFrame(index=["IRF1g1", "IRF1g2", "NTg1"]),
    ... )
    >>> assignment = samsvae.assign_sgrnas(counts, rule="dominant")
    >>> assignment.per_cell()[["sgrna", "target", "status"]]
        sgrna target              status
    0  IRF1g1   IRF1           one sgRNA
    1  IRF1g2   IRF1           one sgRNA
    2    None   None        below 3 UMIs
    3    None   None  no sgRNA above 80%
    """
    if isinstance(data, Screen):
        if data.sgrna_assignment is None:
            raise InputError(
                "the screen was read from labels, and keeps no sgRNA counts: give its file, or "
                "read it with sgrna_assignment"
            )
        before = data.sgrna_assignment
        return before if rule is None else before.with_rule(rule)
    reference = read_reference(feature_reference)
    if isinstance(data, AnnData):
        table = with_sgrnas(Table.of(data), data.obsm, data.uns, reference)
        if table.sgrnas is None:  # of sgRNAs alone
            own = SgrnaCounts(to_counts(data.X, "adata.X"), data.var, "adata.X")
            table = Table(table.cells, table.genes, {}, sgrnas=lambda: own)
        return assignment_of(table, rule)
    with opened(data, modality=modality, feature_reference=feature_reference) as table:
        return assignment_of(table, rule)
