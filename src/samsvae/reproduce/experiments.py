"""The paper's three experiments, from raw files to tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.reproduce import figures, tables
from samsvae.reproduce.download import read
from samsvae.reproduce.prepare import fewer_cells, prepare
from samsvae.runs.jobs import ScoreJob
from samsvae.runs.run import ExperimentDirectory
from samsvae.runs.runner import ExperimentResults, ExperimentRunner, best_jobs
from samsvae.settings.experiment import LEAST, Experiment, PreparationSettings, read_experiment
from samsvae.storage.files import write_text
from samsvae.storage.tables import write_csv

PAPER = Path(__file__).with_name("paper")
EXPERIMENTS = ("replogle", "norman-ood", "norman-data-efficiency")
_FRACTION_OF = {
    "norman-ood": "share of combinations trained on",
    "norman-data-efficiency": "share of combinations' cells trained on",
}
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
    """One of the paper's experiments, on a raw file.

    Parameters
    ----------
    name
        "replogle", "norman-ood" or "norman-data-efficiency".
    data
        The raw file.
    directory
        Where everything is written.
    experiment
        What is trained and scored.
    scale
        Share of the cells of each condition that is used: at least 20 cells, of control ten times
        as many.
    preparation
        How the paper's screen is made from the file.
    annotation
        Pathways, or kinds of interaction, see `samsvae.reproduce.tables.read_groups`; by default
        the file next to the data whose name ends in .annotation.json, if there is one.
    published
        CSV file of other numbers than the paper's Table 1 to print next to ours, see
        `samsvae.reproduce.tables.read_published`.
    say
        Prints a line.
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

        Raises
        ------
        InputError
            If a file cannot be read, or the directory was made by another command.
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
        directory = self.directory
        ours = [variant.label for variant in self.experiment.variants if variant.ours]
        scores = tables.collected_scores(results.scores)
        write_csv(directory / "pooled.csv", scores)
        backend = mpl.get_backend()
        mpl.use("agg")  # figures are files here, even if there is a display
        try:
            if self.experiment.fractions:
                stem, table = self.name, tables.fraction_table(scores, ours)
                drawn = self._combination_figures(results, scores, groups)
            else:
                best = best_jobs(results.trained, lambda job: job.label)
                accuracies = figures.pathway_accuracies(best, groups) if groups else {}
                stem, table = "table1", tables.first_table(scores, ours, accuracies, published)
                main = best.get(figures.MAIN)
                score = next((job for job in results.scores if main and job.trained == main), None)
                drawn = {}
                if main is not None and score is not None:
                    drawn = figures.single_figures(directory / "tables", main, score, groups)
            paths = figures.save(directory / "figures", drawn)
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

    def _combination_figures(
        self, results: ExperimentResults, scores: pd.DataFrame, kinds: dict[str, list[str]]
    ) -> dict[str, Figure]:
        """Return the figures of combinations, and write the table of interactions."""
        folder, unseen = self.directory / "tables", _unseen(results.scores)
        fraction_of = _FRACTION_OF.get(self.experiment.split, "fraction")
        drawn = figures.combination_figures(folder, scores, unseen, kinds, fraction_of=fraction_of)
        if unseen is not None and kinds:
            write_csv(folder / "interactions.csv", tables.interactions(results.scores, kinds))
        return drawn


def _unseen(jobs: list[ScoreJob]) -> ScoreJob | None:
    """Return the main model's scores at the largest fraction whose tested pairs are unseen."""
    by_rank = {
        (job.replicate.fraction or 0, -job.replicate.seed): job
        for job in jobs
        if job.label == figures.MAIN and (job.replicate.fraction or 0) <= _UNSEEN_UP_TO
    }
    return by_rank[max(by_rank)] if by_rank else None
