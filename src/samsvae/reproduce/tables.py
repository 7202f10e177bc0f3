"""The paper's tables from an experiment's scores, and the tables that its figures show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import read_h5ad
from pydantic import TypeAdapter, ValidationError

from samsvae.benchmark.tasks import REPLICATE
from samsvae.data.conditions import parts_matrix
from samsvae.data.fold_changes import differential_expression
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.runs.jobs import ScoreJob, slug
from samsvae.storage.files import expanded
from samsvae.storage.tables import read_csv
from samsvae.types import ALL_CONDITIONS, Scale

METRICS = ("iwelbo", "ate_pearson")
PUBLISHED = ("iwelbo", "pathway_accuracy", "ate_pearson")
"""Columns of the paper's Table 1. A standard deviation is in a column "..._sd"."""
TABLE_1 = Path(__file__).with_name("paper") / "table1.csv"
"""Table 1 of Bereket and Karaletsos, NeurIPS 2023 (100 latent dimensions, K = 10,000; means and
standard deviations over seeds; pathway accuracy of a random forest on the mask)."""
_GROUPS = TypeAdapter(dict[str, list[str]])


def read_published(path: Path = TABLE_1) -> pd.DataFrame:
    """Return published numbers by label, from a CSV file; by default those of the paper's Table 1.

    Its columns are label (as in the table made here) and any of iwelbo, pathway_accuracy,
    ate_pearson and their standard deviations, such as iwelbo_sd.
    """
    path = expanded(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected the paper's numbers as CSV")
    table = read_csv(path)
    columns = [*PUBLISHED, *(f"{name}_sd" for name in PUBLISHED)]
    if "label" not in table or set(table) - {"label", *columns}:
        raise InputError(
            f"{str(path)!r} has the columns {listed(table)}: expected label, and any of "
            f"{listed(columns)}"
        )
    wrong = [name for name in columns if name in table and table[name].dtype.kind not in "fi"]
    if wrong or not table["label"].is_unique:
        raise InputError(f"{str(path)!r}: expected each label once, and numbers in {listed(wrong)}")
    return table.set_index("label")


def collected_scores(jobs: Iterable[ScoreJob]) -> pd.DataFrame:
    """Return the test scores of all models, baselines and the technical replicate.

    Columns label, fraction, seed, iwelbo (nats per cell), ate_pearson, validation_iwelbo. The
    technical replicate is that of the test conditions, seen or unseen, with more cells.
    """
    tables = []
    for job in jobs:
        table = job.pooled.rename(columns={"predictor": "label"})
        if job.trained is None:
            table = table[table["label"].isin(job.experiment.baselines)]
            scores = job.scores[job.scores["condition"] == ALL_CONDITIONS].sort_values("n_cells")
            is_own = (scores["predictor"] == REPLICATE) & (scores["metric"] == "ate_pearson")
            values = scores.loc[is_own, "value"].tail(1).array
            replicate = {"label": REPLICATE, "iwelbo": np.nan, "ate_pearson": values}
            table = pd.concat([table, pd.DataFrame(replicate)], ignore_index=True)
        table.insert(1, "fraction", job.replicate.fraction)
        table.insert(2, "seed", job.replicate.seed)
        table["validation_iwelbo"] = np.nan if job.trained is None else job.trained.validation
        tables.append(table.astype({"fraction": float}))
    return pd.concat(tables, ignore_index=True)


def first_table(
    scores: pd.DataFrame,
    ours: Sequence[str],
    accuracies: Mapping[str, float],
    published: pd.DataFrame,
) -> pd.DataFrame:
    """Return the paper's Table 1: a row per label, the paper's rows first, then `ours`.

    Test IWELBO is the mean and the standard deviation over seeds; pathway accuracy (`accuracies`,
    by label) and ATE-Pearson are of the model with the best validation IWELBO (of baselines, means
    over seeds). `scores` are those of `collected_scores`, `published` the paper's numbers.
    """
    rows = []
    for label, group in scores.groupby("label", sort=False):
        best = group.loc[group["validation_iwelbo"].fillna(-np.inf).idxmax()]
        is_model = group["validation_iwelbo"].notna().any()
        rows.append(
            {
                "label": label,
                "ours": label in ours or not is_model,
                "iwelbo": group["iwelbo"].mean(),
                "iwelbo_sd": group["iwelbo"].std(),
                "n_seeds": len(group),
                "pathway_accuracy": accuracies.get(str(label), np.nan),
                "ate_pearson": best["ate_pearson"] if is_model else group["ate_pearson"].mean(),
            }
        )
    table = pd.DataFrame(rows).sort_values("ours", kind="stable", ignore_index=True)
    errors = [name for name in published if str(name).endswith("_sd")]
    paper = published.reindex(index=table["label"], columns=[*PUBLISHED, *errors]).astype(float)
    return table.join(paper.add_prefix("paper_"), on="label")


def fraction_table(scores: pd.DataFrame, ours: Sequence[str]) -> pd.DataFrame:
    """Return mean and standard deviation over splits, by label and fraction."""
    grouped = scores.groupby(["label", "fraction"], sort=False)
    names = {"": "mean", "_sd": "std"}
    statistics = {f"{m}{end}": (m, how) for m in METRICS for end, how in names.items()}
    table = grouped.agg(**statistics).assign(n_seeds=grouped.size()).reset_index()
    models = set(scores.loc[scores["validation_iwelbo"].notna(), "label"])
    is_ours = table["label"].isin(ours) | ~table["label"].isin(models)
    return table.assign(ours=is_ours).sort_values("ours", kind="stable", ignore_index=True)


def as_text(table: pd.DataFrame) -> str:
    """Return a table as aligned text, with a line between the paper's rows and ours."""
    lines = _printed(table).rename_axis(columns="model").to_string().splitlines()
    rule = "-" * len(lines[0])
    lines.insert(1, rule)
    if table["ours"].any():
        lines.insert(2 + int((~table["ours"]).sum()), rule)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_latex(table: pd.DataFrame) -> str:
    r"""Return a table for LaTeX (booktabs), with a \midrule between the paper's rows and ours."""
    printed = _printed(table).reset_index(names="model")
    form = "l" + "r" * (printed.shape[1] - 1)
    lines = printed.to_latex(index=False, escape=True, column_format=form).splitlines()
    if table["ours"].any():
        lines.insert(4 + int((~table["ours"]).sum()), "\\midrule")
    return "\n".join(lines) + "\n"


def _printed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the texts that are printed, by label: means with their sd; "" for missing numbers."""
    columns = {}
    for name in table.columns.difference(["label", "ours"], sort=False):
        if not str(name).endswith("_sd"):
            spread = table.get(f"{name}_sd", pd.Series(np.nan, table.index))
            columns[str(name)] = list(map(_number, table[name], spread))
    return pd.DataFrame(columns, table["label"].astype(str).rename(None))


def _number(value: float, sd: float) -> str:
    if pd.isna(value):
        return ""
    if float(value).is_integer():
        return f"{value:g}"
    return f"{value:.3f}" if pd.isna(sd) else f"{value:.3f} ({sd:.3f})"


def read_groups(path: Path) -> dict[str, list[str]]:
    """Return names by group: perturbations by pathway, or pairs by kind of interaction.

    The file is JSON, `{"group": ["name", ...]}`; or CSV of two columns, the name and its group. A
    pair is written "A+B", in any order.
    """
    path = expanded(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected groups of names, as JSON or CSV")
    if path.suffix == ".csv":
        table = read_csv(path, as_text=True)
        if table.shape[1] != 2:
            raise InputError(
                f"{str(path)!r} has {table.shape[1]} columns: expected two, the name and its group"
            )
        names, groups = (table[column].astype(str) for column in table)
        return {str(group): list(own) for group, own in names.groupby(groups, sort=False)}
    try:
        return _GROUPS.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise InputError(
            f'{str(path)!r} is not JSON as expected, {{"group": ["name", ...]}}: '
            f"{error.errors()[0]['msg']}"
        ) from error


def single_group(groups: Mapping[str, list[str]], names: Iterable[str]) -> pd.Series:
    """Return the group of each of the names that is in exactly one."""
    pairs = [(name, group) for group, own in groups.items() for name in dict.fromkeys(own)]
    table = pd.DataFrame(pairs, columns=["name", "group"])
    group = table[~table["name"].duplicated(keep=False)].set_index("name")["group"]
    return group[group.index.isin(set(names))]


def predicted_effects(job: ScoreJob) -> pd.DataFrame:
    """Return the ATE of a scored model, test conditions x genes."""
    path = job.folder / f"effects.{slug(job.label)}.h5ad"
    effects: pd.DataFrame = read_h5ad(path).to_df()
    return effects


def combination_effects(ate: pd.DataFrame, screen: Screen, scale: Scale) -> pd.DataFrame:
    """Return effects of test combinations whose parts were trained on, gene by gene.

    Columns condition, gene; observed, DE of test cells; predicted, the model's `ate` (conditions x
    genes); additive, the sum of the DE of the parts' training cells.
    """
    control = np.asarray(screen.is_control)
    test = np.asarray(screen.split) == "test"
    train = np.asarray(screen.split) == "train"
    parser = screen.registry.parser
    trained = set(screen[train].conditions)
    parts = {name: parser.parts(name) for name in screen[test].conditions if name in ate.index}
    parts = {name: own for name, own in parts.items() if len(own) > 1 and trained >= {*own}}
    if not parts:
        return pd.DataFrame(columns=["condition", "gene", "observed", "predicted", "additive"])
    conditions, genes = list(parts), list(screen.genes)
    observed = differential_expression(screen[test | control], conditions, scale=scale)
    names = sorted({part for own in parts.values() for part in own})
    singles = differential_expression(screen[train | control], names, scale=scale)
    additive = parts_matrix(conditions, names, parser) @ singles.to_numpy()
    table = pd.DataFrame(
        {
            "condition": np.repeat(conditions, len(genes)),
            "gene": np.tile(genes, len(conditions)),
            "observed": observed.loc[conditions].to_numpy().ravel(),
            "predicted": ate.loc[conditions, genes].to_numpy().ravel(),
            "additive": additive.ravel(),
        }
    )
    return table.dropna()


def combination_errors(effects: pd.DataFrame) -> pd.DataFrame:
    """Return, by condition, the root mean squared errors of `combination_effects`.

    Columns model, sum, and better: whether the model's error is the smaller one.
    """
    predictions = effects[["predicted", "additive"]].set_axis(["model", "sum"], axis=1)
    squares = predictions.sub(effects["observed"], axis=0) ** 2
    errors = squares.groupby(effects["condition"], sort=False).mean() ** 0.5
    return errors.assign(better=errors["model"] < errors["sum"])


def sorted_pairs(pairs: Iterable[str]) -> list[str]:
    """Return pairs, written "A+B", with their parts sorted, as conditions are stored."""
    return ["+".join(sorted(pair.split("+"))) for pair in pairs]


def interactions(jobs: Iterable[ScoreJob], kinds: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Return how many pairs of each kind of interaction models predict better than the sum.

    One row per label, fraction, seed and kind.
    """
    rows = []
    for job in jobs:
        if job.trained is None:
            continue
        effects = combination_effects(predicted_effects(job), job.screen(), job.experiment.scale)
        errors = combination_errors(effects)
        for kind, pairs in kinds.items():
            of_kind = errors[errors.index.isin(sorted_pairs(pairs))]
            rows.append(
                {
                    "label": job.label,
                    "fraction": job.replicate.fraction,
                    "kind": kind,
                    "n_pairs": len(of_kind),
                    "n_better": int(of_kind["better"].sum()),
                    "share_better": of_kind["better"].mean(),
                    "rmse_model": of_kind["model"].mean(),
                    "rmse_sum": of_kind["sum"].mean(),
                    "seed": job.replicate.seed,
                }
            )
    return pd.DataFrame(rows)
