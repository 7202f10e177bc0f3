"""The paper's figures out of an experiment: the tables behind them, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import read_h5ad
from matplotlib.figure import Figure

from samsvae import plotting
from samsvae.errors import InputError, note
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.evaluation.pathways import pathway_score
from samsvae.experiments.annotation import one_each
from samsvae.experiments.interactions import combination_effects, errors_of_combinations
from samsvae.experiments.job import Fit, Score, slug
from samsvae.experiments.run import Run
from samsvae.inference.projection import has_umap, projection
from samsvae.storage.files import written_aside
from samsvae.storage.tables import write_csv
from samsvae.types import Scale

MAIN = "SAMS-VAE, correlated z_basal and E"
"""The model that figures are of."""
ABLATIONS = "SAMS-VAE", "CPA-VAE"
"""How the labels of the inference ablations begin."""
_SHOWN = 4
"""Combinations of Figure 7."""


def pathway_accuracies(
    best: Mapping[str, Fit], groups: Mapping[str, list[str]]
) -> dict[str, float]:
    """Return how well the best model of each label tells pathways by its mask."""
    found = {}
    for label, fit in best.items():
        model = Run(fit.folder).model("cpu")
        try:
            found[label] = float(pathway_score(model, dict(groups)).loc["mask", "accuracy"])
        except InputError as error:
            if hasattr(model, "n_latent") and fit.settings["model"] != "conditional-vae":
                note(f"no pathway accuracy of {label}: {error}")
    return found


def single_figures(
    folder: Path, fit: Fit, score: Score, groups: Mapping[str, list[str]], scale: Scale
) -> dict[str, Figure]:
    """Return Figures 2, 3, 5 and 6 of one trained model; the tables behind lie in the folder."""
    model = Run(fit.folder).model("cpu")
    mask, embedding = model.mask_probabilities().dropna(), model.embeddings().dropna()
    kinds = one_each(dict(groups), mask.index)
    shift = mask * embedding
    _written(folder / "shifts.csv", shift)
    figures = {"figure5": plotting.clustered_shifts(shift, kinds)}
    if len(kinds):
        figures["figure2"] = plotting.grouped_shifts(mask, embedding, kinds)
    points = _plane(shift)
    if points is not None:
        _written(folder / "plane.csv", points)
        drawn = plotting.shift_map(points, kinds).get_figure(root=True)
        assert drawn is not None
        figures["figure6"] = drawn
    screen = score.cell.screen(score.place)
    symbols = dict(zip(screen.genes, screen.vocabulary.symbols or screen.genes, strict=True))
    ate, de = (t.rename(columns=symbols) for t in (effects_of(score), observed(score, scale)))
    figures["figure3"] = plotting.gene_projection(ate, de, kinds)
    return figures


def combination_figures(
    folder: Path,
    pooled: pd.DataFrame,
    score: Score | None,
    *,
    scale: Scale,
    what: str,
    kinds: Mapping[str, list[str]],
) -> dict[str, Figure]:
    """Return Figures 4, 7 and 8.

    Parameters
    ----------
    folder
        Where the tables behind lie.
    pooled
        Scores of every label, fraction and seed.
    score
        Of the model in Figure 7, at 75 % of the combinations; None: it is not there.
    scale
        Of effects.
    what
        Of what the fraction is.
    kinds
        Pairs by interaction: strong non-additive ones are shown, where any is told.
    """
    models = pooled[pooled["validation_iwelbo"].notna()]
    labels = [MAIN, *(n for n in dict.fromkeys(models["label"]) if not n.startswith(ABLATIONS))]
    chosen = [*labels, "CPA-VAE, correlated z_basal", "SAMS-VAE aligned"]
    ablations = [n for n in dict.fromkeys(models["label"]) if n.startswith(ABLATIONS)]
    reference = MAIN if MAIN in set(models["label"]) else None
    figures = {
        name: plotting.fraction_curves(
            models[models["label"].isin(some)], reference=reference, what=what
        )
        for name, some in (("figure4", chosen), ("figure8", ablations))
        if models["label"].isin(some).any()
    }
    if score is None:
        return figures
    table = combination_effects(effects_of(score), score.cell.screen(score.place), scale)
    if len(table):
        write_csv(folder / "combinations.csv", table)
        errors = errors_of_combinations(table).sort_values("sum", ascending=False)
        strong = {
            "+".join(sorted(pair.split("+")))
            for kind, pairs in kinds.items()
            if kind.upper() != "ADDITIVE"
            for pair in pairs
        }
        told = [name for name in errors.index if name in strong] or list(errors.index)
        shown = table[table["condition"].isin(told[:_SHOWN])]
        figures["figure7"] = plotting.nonadditive_genes(shown)
    return figures


def effects_of(score: Score) -> pd.DataFrame:
    """Return the ATE of a scored model, test conditions x genes."""
    label = slug(score.label)
    effects: pd.DataFrame = read_h5ad(score.folder / f"effects.{label}.h5ad").to_df()
    return effects


def observed(score: Score, scale: Scale) -> pd.DataFrame:
    """Return the DE of test cells."""
    screen = score.cell.screen(score.place)
    test = np.asarray(screen.split) == "test"
    control = screen.is_control & test if screen.is_control[test].any() else screen.is_control
    reference = screen[test | control]
    return differential_expression(reference, list(effects_of(score).index), scale=scale)


def _plane(shift: pd.DataFrame) -> pd.DataFrame | None:
    """Return UMAP's places of perturbations; None, with a note, where it is not installed."""
    if not has_umap():
        note("figure 6 is left out: it needs UMAP, pip install 'samsvae[umap]'")
        return None
    return projection(shift, "umap")


def save(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as PNG; return the paths."""
    paths = []
    for name, figure in sorted(figures.items()):
        paths.append(folder / f"{name}.png")
        with written_aside(paths[-1]) as aside:
            figure.savefig(aside, dpi=150)
        plt.close(figure)
    return paths


def _written(path: Path, table: pd.DataFrame) -> None:
    write_csv(path, table.rename_axis("perturbation").reset_index())
