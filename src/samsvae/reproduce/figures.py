"""Annotations that come from files: pathways of perturbations, kinds of interactions.

Held-out combinations gene by gene: data, model, and the sum of the singles.

The paper's figures out of an experiment: the tables behind them, and their files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import read_h5ad
from matplotlib.figure import Figure

from samsvae import plotting
from samsvae.analysis.differential_expression import differential_expression
from samsvae.analysis.gene_sets import pathway_score
from samsvae.analysis.projection import has_umap, projection
from samsvae.data.conditions import parts_matrix
from samsvae.data.screen import Screen
from samsvae.errors import InputError, note
from samsvae.runs.jobs import Fit, Score, slug
from samsvae.runs.run import Run
from samsvae.storage.files import written_aside
from samsvae.storage.tables import read_csv, write_csv
from samsvae.types import Scale

_PAIR = 2


def read_groups(path: Path) -> dict[str, list[str]]:
    """Return names by group: pathways and their perturbations, or interactions and their pairs.

    Parameters
    ----------
    path
        JSON, `{"group": ["name", ...]}`; or CSV of two columns, the name and its group. A pair is
        written "A+B", in any order.

    Raises
    ------
    InputError
        If the file is not there, or not of this form.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected groups of names, as JSON or CSV")
    if path.suffix == ".csv":
        table = read_csv(path)
        if table.shape[1] != _PAIR:
            raise InputError(
                f"{str(path)!r} has {table.shape[1]} columns: expected two, the name and its group"
            )
        names, groups = (table[column].astype(str) for column in table)
        return {str(group): list(some) for group, some in names.groupby(groups, sort=False)}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}") from error
    lists = isinstance(found, dict) and all(
        isinstance(some, list) and all(isinstance(name, str) for name in some)
        for some in found.values()
    )
    if not lists:
        raise InputError(f'{str(path)!r}: expected {{"group": ["name", ...]}}')
    return {str(group): some for group, some in found.items()}


def one_each(groups: dict[str, list[str]], names: Iterable[str]) -> pd.Series:
    """Return the group of each name that is in one group only, and among the names given."""
    pairs = [(name, group) for group, some in groups.items() for name in dict.fromkeys(some)]
    table = pd.DataFrame(pairs, columns=["name", "group"])
    clear = table[~table["name"].duplicated(keep=False)].set_index("name")["group"]
    return clear[clear.index.isin(set(names))]


def combination_effects(ate: pd.DataFrame, screen: Screen, scale: Scale) -> pd.DataFrame:
    """Return effects of tested combinations whose parts were trained on, gene by gene.

    Parameters
    ----------
    ate
        Conditions x genes, of a model.
    screen
        With its split.
    scale
        Of the effects.

    Returns
    -------
    condition, gene; observed, DE of test cells; predicted, the model's; additive, the sum of the
    DE of the parts' training cells.
    """
    control = np.asarray(screen.is_control)
    test = np.asarray(screen.split) == "test"
    train = np.asarray(screen.split) == "train"
    parser = screen.registry.parser
    parts = {
        name: parser.parts(name)
        for name in screen[test].conditions
        if name in ate.index and len(parser.parts(name)) > 1
    }
    trained = set(screen[train].conditions)
    parts = {name: some for name, some in parts.items() if trained.issuperset(some)}
    if not parts:
        return pd.DataFrame(columns=["condition", "gene", "observed", "predicted", "additive"])
    observed = differential_expression(screen[test | control], list(parts), scale=scale)
    names = sorted({part for some in parts.values() for part in some})
    singles = differential_expression(screen[train | control], names, scale=scale)
    genes = list(screen.genes)
    additive = parts_matrix(list(parts), names, parser) @ singles.to_numpy()
    tables = [
        pd.DataFrame(
            {
                "condition": name,
                "gene": genes,
                "observed": observed.loc[name].to_numpy(),
                "predicted": ate.loc[name, genes].to_numpy(),
                "additive": total,
            }
        )
        for name, total in zip(parts, additive, strict=True)
    ]
    return pd.concat(tables, ignore_index=True).dropna()


def errors_of_combinations(effects: pd.DataFrame) -> pd.DataFrame:
    """Return, by condition, the root mean squared errors of model and sum, and how non-additive.

    Parameters
    ----------
    effects
        As `combination_effects` returns them.
    """

    def rmse(first: str, second: str) -> pd.Series:
        square = (effects[first] - effects[second]) ** 2
        found: pd.Series = square.groupby(effects["condition"], sort=False).mean() ** 0.5
        return found

    table = pd.DataFrame(
        {
            "model": rmse("predicted", "observed"),
            "sum": rmse("additive", "observed"),
        }
    )
    return table.assign(better=table["model"] < table["sum"])


def by_kind(errors: pd.DataFrame, kinds: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Return, by kind of interaction, how many pairs are predicted better than their sum.

    Parameters
    ----------
    errors
        As `errors_of_combinations` returns them; conditions "A+B", sorted.
    kinds
        Pairs by kind, in any order.
    """
    rows = []
    for kind, pairs in kinds.items():
        names = {"+".join(sorted(pair.split("+"))) for pair in pairs}
        some = errors[errors.index.isin(names)]
        rows.append(
            {
                "kind": kind,
                "n_pairs": len(some),
                "n_better": int(some["better"].sum()),
                "share_better": some["better"].mean() if len(some) else np.nan,
                "rmse_model": some["model"].mean() if len(some) else np.nan,
                "rmse_sum": some["sum"].mean() if len(some) else np.nan,
            }
        )
    return pd.DataFrame(rows)


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
    symbols = dict(zip(screen.genes, screen.registry.symbols or screen.genes, strict=True))
    ate, de = (t.rename(columns=symbols) for t in (effects_of(score), observed(score, scale)))
    figures["figure3"] = plotting.gene_projection(ate, de, kinds, scale=scale)
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
        shown = table[table["condition"].isin(told[:_SHOWN])].assign(scale=scale)
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
