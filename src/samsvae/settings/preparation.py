"""How a published file becomes the paper's screen."""

from __future__ import annotations

from dataclasses import dataclass

from samsvae._deprecated import takes_former_settings
from samsvae.settings.arguments import Count, Share
from samsvae.settings.questions import Checked


@takes_former_settings
@dataclass(frozen=True, kw_only=True)
class PreparationSettings(Checked):
    """What is kept of a published file.

    The published description (Lopez et al. 2022, for the filtered Replogle screen) says that
    perturbations with strong effects were kept, and the genes associated with them; its exact
    thresholds are not known to us. The defaults take over the rule by which Replogle et al. 2022
    call a response strong; the report stands beside the paper's numbers, so that they can be tuned.

    Parameters
    ----------
    min_cells
        Cells below which a perturbation is left out (Replogle et al. 2022: 25).
    min_de_share
        Share of the genes that a perturbation must change to be kept (Replogle et al. 2022: more
        than 50 of 8,248 genes).
    fdr
        False discovery rate of these genes, Benjamini and Hochberg, per perturbation (5 %).
    min_perturbation_share
        Share of the kept perturbations that must change a gene for it to be kept (ours).
    n_genes
        Highly variable genes that are kept of Norman's (the paper: 5,000).
    n_bins
        Bins of mean expression within which their dispersions are compared (Satija et al. 2015:
        20).
    """

    min_cells: Count = 25
    min_de_share: Share = 50 / 8248
    fdr: Share = 0.05
    min_perturbation_share: Share = 0.02
    n_genes: Count = 5000
    n_bins: Count = 20
