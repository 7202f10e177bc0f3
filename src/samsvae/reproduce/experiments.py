"""The paper's three experiments, from raw files to tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samsvae import plotting
from samsvae.analysis.gene_sets import pathway_score
from samsvae.analysis.projection import has_umap, projection
from samsvae.data.expression import control_cells
from samsvae.data.fold_changes import differential_expression
from samsvae.data.screen import Screen
from samsvae.errors import InputError, note, unknown
from samsvae.reproduce import tables
from samsvae.reproduce.download import read
from samsvae.reproduce.prepare import fewer_cells, prepare
from samsvae.runs.jobs import ScoreJob, TrainJob
from samsvae.runs.run import ExperimentDirectory, Run
from samsvae.runs.runner import ExperimentResults, ExperimentRunner, best_jobs
from samsvae.settings.experiment import LEAST, Experiment, PreparationSettings, read_experiment
from samsvae.storage.files import write_text, written_aside
from samsvae.storage.tables import write_csv

PAPER = Path(__file__).with_name("paper")
EXPERIMENTS = ("replogle", "norman-ood", "norman-data-efficiency")
_FRACTION_OF = {
    "norman-ood": "share of combinations trained on",
    "norman-data-efficiency": "share of combinations' cells trained on",
}
MAIN = "SAMS-VAE, correlated z_basal and E"
"""The model that most figures show."""
ABLATIONS = "SAMS-VAE", "CPA-VAE"
"""Beginnings of the labels of the inference ablations."""
_N_COMBINATIONS = 4
"""Combinations in Figure 7."""
_UNSEEN_UP_TO = 0.75
"""Fraction up to which tested combinations are unseen in training: that of Figure 7."""


def experiment_of(name: str, scale: float, options: Mapping[str, Any]) -> Experiment:
    """Return one of the paper's experiments, or that of a TOML file, at a scale."""
    path = Path(name)
    if path.suffix != ".toml":
        if name not in EXPERIMENTS:
            raise unknown("experiment", name, EXPERIMENTS)
        path = PAPER / f"{name}.toml"
    return read_experiment(path, options=options).scaled(scale)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One of the paper's experiments, on a raw file; everything is written into the directory.

    `scale` is the share of the cells of each condition that is used: at least 20, of control ten
    times as many. `annotation` is a file of pathways, or kinds of interaction, for
    `samsvae.reproduce.tables.read_groups`; by default that next to the data whose name ends in
    .annotation.json, if there is one. `published` has other numbers than the paper's Table 1, for
    `samsvae.reproduce.tables.read_published`.
    """

    name: str
    data: Path
    directory: ExperimentDirectory
    experiment: Experiment
    scale: float = 1.0
    preparation: PreparationSettings = field(default_factory=PreparationSettings)
    annotation: Path | None = None
    published: Path | None = None
    say: Callable[[str], None] = print

    def run(self, *, resume: bool = False, **how: Any) -> ExperimentRunner:
        """Run the jobs, and write tables and figures of those that are done in the end.

        `how` are the arguments of `samsvae.runs.runner.run_jobs`: engine, n_jobs, progress.
        """
        if not self.data.is_file():
            raise InputError(
                f"no file {str(self.data)!r}: samsvae datasets fetch downloads the published "
                "ones, samsvae datasets stand-in writes simulated ones"
            )
        annotation = self.annotation
        if annotation is None and self.data.with_suffix(".annotation.json").exists():
            annotation = self.data.with_suffix(".annotation.json")
        groups = {} if annotation is None else tables.read_groups(annotation)
        published = tables.read_published(self.published or tables.TABLE_1)
        runner = ExperimentRunner(self.directory, self.experiment)
        size = self.data.stat().st_size
        source = {"data file": self.data.name, "size of the data file": size, "scale": self.scale}
        source |= asdict(self.preparation)
        with self.directory.opened(self.experiment, self.screen, resume=resume, source=source):
            results = runner.run(say=self.say, **how)
            if len(results.choices):
                write_csv(self.directory / "choices.csv", results.choices)
            if not results.trained:
                runner.raise_failures()
            self._write(results, groups, published)
        return runner

    def screen(self) -> Screen:
        """Return the screen: read, prepared, reported, and with the scale's share of the cells."""
        layout = self.name.partition("-")[0]
        prepared = prepare(layout, read(layout, self.data), self.preparation)
        write_csv(self.directory / "preparation.csv", prepared.report)
        self.say(prepared.report.to_string(index=False))
        if self.scale == 1:
            return prepared.screen
        return fewer_cells(prepared.screen, self.scale, n_min=LEAST["cells"])

    def _write(
        self, results: ExperimentResults, groups: dict[str, list[str]], published: pd.DataFrame
    ) -> None:
        """Write tables and figures."""
        directory, paths = self.directory, []
        ours = [variant.label for variant in self.experiment.variants if variant.ours]
        scores = tables.collected_scores(results.scores)
        write_csv(directory / "pooled.csv", scores)
        backend = mpl.get_backend()
        mpl.use("agg")  # figures are files here, even if there is a display
        try:
            if self.experiment.fractions:
                stem, table = self.name, tables.fraction_table(scores, ours)
                figures = self._combination_figures(results, scores, groups)
            else:
                best = best_jobs(results.trained, lambda job: job.label)
                accuracies = pathway_accuracies(best, groups) if groups else {}
                stem, table = "table1", tables.first_table(scores, ours, accuracies, published)
                main = best.get(MAIN)
                scored = [job for job in results.scores if main and job.trained == main]
                figures = self._single_figures(scored[0], groups) if scored else {}
            for name, figure in sorted(figures.items()):
                paths.append(directory / f"figures/{name}.png")
                with written_aside(paths[-1]) as temporary:
                    figure.savefig(temporary, dpi=150)
                plt.close(figure)
        finally:
            mpl.use(backend)
        text = tables.as_text(table)
        write_csv(directory / f"tables/{stem}.csv", table)
        write_text(directory / f"tables/{stem}.txt", text)
        write_text(directory / f"tables/{stem}.tex", tables.as_latex(table))
        self.say("\n" + text)
        self.say(
            f"tables are in {directory.place / 'tables'}, {len(paths)} figures in "
            f"{directory.place / 'figures'}"
        )

    def _single_figures(
        self, score: ScoreJob, groups: Mapping[str, list[str]]
    ) -> dict[str, Figure]:
        """Return Figures 2, 3, 5 and 6 of a scored model, and write their tables."""
        assert score.trained is not None
        model, folder = Run(score.trained.folder).model("cpu"), self.directory / "tables"
        mask, embedding = model.mask_probabilities().dropna(), model.embeddings().dropna()
        pathway = tables.single_group(groups, mask.index)
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
        screen, scale = score.screen(), self.experiment.scale
        symbols = dict(zip(screen.genes, screen.registry.symbols or screen.genes, strict=True))
        test = np.asarray(screen.split) == "test"
        reference, ate = screen[test | control_cells(screen, test)], tables.predicted_effects(score)
        de = differential_expression(reference, list(ate.index), scale=scale)
        ate, de = (table.rename(columns=symbols) for table in (ate, de))
        figures["figure3"] = plotting.gene_projection(ate, de, pathway, scale=scale)
        return figures

    def _combination_figures(
        self, results: ExperimentResults, scores: pd.DataFrame, kinds: dict[str, list[str]]
    ) -> dict[str, Figure]:
        """Return Figures 4, 7 and 8, and write their tables and that of interactions.

        Figure 7 is of the main model at the largest fraction whose tested pairs are unseen; of the
        pairs by kind of interaction it shows those that are not additive, if there are any.
        """
        folder, models = self.directory / "tables", scores[scores["validation_iwelbo"].notna()]
        labels = list(dict.fromkeys(models["label"]))
        ablations = [label for label in labels if label.startswith(ABLATIONS)]
        others = [label for label in labels if not label.startswith(ABLATIONS)]
        shown = {
            "figure4": [MAIN, *others, "CPA-VAE, correlated z_basal", "SAMS-VAE aligned"],
            "figure8": ablations,
        }
        figures = {
            name: plotting.fraction_curves(
                models[models["label"].isin(names)],
                reference=MAIN if MAIN in labels else None,
                what=_FRACTION_OF.get(self.experiment.split, "fraction"),
            )
            for name, names in shown.items()
            if models["label"].isin(names).any()
        }
        unseen = {
            (job.replicate.fraction or 0, -job.replicate.seed): job
            for job in results.scores
            if job.label == MAIN and (job.replicate.fraction or 0) <= _UNSEEN_UP_TO
        }
        if not unseen:
            return figures
        score = unseen[max(unseen)]
        effects = tables.predicted_effects(score)
        scale = self.experiment.scale
        table = tables.combination_effects(effects, score.screen(), scale)
        if len(table):
            write_csv(folder / "combinations.csv", table)
            errors = tables.combination_errors(table).sort_values("sum", ascending=False)
            groups = [pairs for kind, pairs in kinds.items() if kind.upper() != "ADDITIVE"]
            interacting = [pair for pairs in groups for pair in tables.sorted_pairs(pairs)]
            is_interacting = errors.index.isin(interacting)
            names = errors.index[is_interacting] if is_interacting.any() else errors.index
            rows = table[table["condition"].isin(names[:_N_COMBINATIONS])]
            figures["figure7"] = plotting.nonadditive_genes(rows.assign(scale=scale))
        if kinds:
            write_csv(folder / "interactions.csv", tables.interactions(results.scores, kinds))
        return figures


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
            if hasattr(model, "n_latent") and job.variant.settings["model"] != "conditional-vae":
                note(f"no pathway accuracy of {label}: {error}")
    return accuracies
