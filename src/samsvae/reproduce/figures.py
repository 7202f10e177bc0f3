"""The paper's figures from an experiment, with the tables that they show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samsvae import plotting
from samsvae.analysis.gene_sets import pathway_score
from samsvae.analysis.projection import has_umap, projection
from samsvae.errors import InputError, note
from samsvae.reproduce.tables import (
    combination_effects,
    combination_errors,
    observed_effects,
    predicted_effects,
    single_group,
    sorted_pairs,
)
from samsvae.runs.jobs import ScoreJob, TrainJob
from samsvae.runs.run import Run
from samsvae.storage.files import written_aside
from samsvae.storage.tables import write_csv

MAIN = "SAMS-VAE, correlated z_basal and E"
"""The model that most figures show."""
ABLATIONS = "SAMS-VAE", "CPA-VAE"
"""Beginnings of the labels of the inference ablations."""
_N_COMBINATIONS = 4
"""Combinations in Figure 7."""


def pathway_accuracies(
    best: Mapping[str, TrainJob], groups: Mapping[str, list[str]]
) -> dict[str, float]:
    """Return how well pathways are predicted from the mask of the best model of each label."""
    accuracies = {}
    for label, job in best.items():
        model = Run(job.folder).model("cpu")
        try:
            accuracies[label] = float(pathway_score(model, dict(groups)).loc["mask", "accuracy"])
        except InputError as error:
            if hasattr(model, "n_latent") and job.settings["model"] != "conditional-vae":
                note(f"no pathway accuracy of {label}: {error}")
    return accuracies


def single_figures(
    folder: Path, job: TrainJob, score: ScoreJob, groups: Mapping[str, list[str]]
) -> dict[str, Figure]:
    """Return Figures 2, 3, 5 and 6 of a trained model, and write their tables into a folder."""
    model = Run(job.folder).model("cpu")
    mask, embedding = model.mask_probabilities().dropna(), model.embeddings().dropna()
    pathway = single_group(groups, mask.index)
    shift = mask * embedding
    write_csv(folder / "shifts.csv", shift.rename_axis("perturbation").reset_index())
    figures = {"figure5": plotting.clustered_shifts(shift, pathway)}
    if len(pathway):
        figures["figure2"] = plotting.grouped_shifts(mask, embedding, pathway)
    if has_umap():
        points = projection(shift, "umap")
        write_csv(folder / "plane.csv", points.rename_axis("perturbation").reset_index())
        figure = plotting.shift_map(points, pathway).get_figure(root=True)
        assert figure is not None
        figures["figure6"] = figure
    else:
        note("figure 6 is left out: it needs UMAP, pip install 'samsvae[umap]'")
    screen = score.screen()
    symbols = dict(zip(screen.genes, screen.registry.symbols or screen.genes, strict=True))
    ate, de = (
        table.rename(columns=symbols)
        for table in (predicted_effects(score), observed_effects(score))
    )
    figures["figure3"] = plotting.gene_projection(ate, de, pathway, scale=score.scale)
    return figures


def combination_figures(
    folder: Path,
    scores: pd.DataFrame,
    score: ScoreJob | None,
    kinds: Mapping[str, list[str]],
    *,
    fraction_of: str,
) -> dict[str, Figure]:
    """Return Figures 4, 7 and 8, and write their tables into a folder.

    Figure 7 is of `score`, at 75 % of the combinations; of the pairs by kind of interaction it
    shows those that are not additive, if there are any. `fraction_of` says what the fraction of the
    others is a fraction of.
    """
    models = scores[scores["validation_iwelbo"].notna()]
    labels = list(dict.fromkeys(models["label"]))
    ablations = [label for label in labels if label.startswith(ABLATIONS)]
    others = [label for label in labels if not label.startswith(ABLATIONS)]
    shown = {
        "figure4": [MAIN, *others, "CPA-VAE, correlated z_basal", "SAMS-VAE aligned"],
        "figure8": ablations,
    }
    reference = MAIN if MAIN in labels else None
    figures = {
        name: plotting.fraction_curves(
            models[models["label"].isin(names)], reference=reference, what=fraction_of
        )
        for name, names in shown.items()
        if models["label"].isin(names).any()
    }
    if score is None:
        return figures
    table = combination_effects(predicted_effects(score), score.screen(), score.scale)
    if len(table):
        write_csv(folder / "combinations.csv", table)
        errors = combination_errors(table).sort_values("sum", ascending=False)
        groups = [pairs for kind, pairs in kinds.items() if kind.upper() != "ADDITIVE"]
        is_interacting = errors.index.isin(
            [pair for pairs in groups for pair in sorted_pairs(pairs)]
        )
        names = errors.index[is_interacting] if is_interacting.any() else errors.index
        rows = table[table["condition"].isin(names[:_N_COMBINATIONS])]
        figures["figure7"] = plotting.nonadditive_genes(rows.assign(scale=score.scale))
    return figures


def save(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as PNG; return the paths."""
    paths = []
    for name, figure in sorted(figures.items()):
        paths.append(folder / f"{name}.png")
        with written_aside(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=150)
        plt.close(figure)
    return paths
