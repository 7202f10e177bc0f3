"""Files and the paper's experiments: inspect, datasets fetch, datasets stand-in, reproduce."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from samsvae.cli.console import NOTHING, check_output, given, say
from samsvae.settings import questions
from samsvae.settings.experiment import PreparationSettings
from samsvae.settings.fields import Settings
from samsvae.types import SgrnaRule

if TYPE_CHECKING:  # help and completion do without pandas
    import pandas as pd


def inspect(
    data: Path,
    /,
    *,
    modality: str | None = None,
    labels: str | None = None,
    sgrna_assignment: SgrnaRule | None = None,
    feature_reference: str | None = None,
) -> None:
    """Show the contents of a file: matrices, columns, conditions, and the command to train on it.

    Parameters
    ----------
    data
        A file of any kind that is read: .h5ad, .h5mu, .zarr, 10x Genomics' .h5 or folder.
    modality
        Modality (or genome, of 10x Genomics) that holds the counts, in a file with several.
    labels
        CSV or TSV file of further columns of the cells, with their names in the first.
    sgrna_assignment
        Rule by which cells get their sgRNA, in a file with counts of sgRNAs: "dominant", "mixture",
        "calls", or a number of UMIs.
    feature_reference
        CSV file of sgRNAs, as Cell Ranger takes it: id, name, target_gene_name.
    """
    from samsvae.data.inspection import inspected
    from samsvae.errors import InputError
    from samsvae.runs.trial import seconds_of_training
    from samsvae.settings.train import TrainPlan
    from samsvae.storage.opening import opened

    places = {"modality": modality, "labels": labels, "feature_reference": feature_reference}
    with opened(data, **places) as table:
        contents = inspected(table, sgrna_assignment)
    say(f"{data}: {contents.n_cells:,} cells x {contents.n_genes:,} genes")
    for name, kind in contents.matrices.items():
        say(f"  {name}: {kind}")
    for role, column in contents.columns.items():
        say(f"  {role}: column {column!r}")
    if contents.convention is not None:
        say(f"  laid out like {contents.convention}")
    if contents.sgrnas is not None:
        say("  sgRNA counts; cells by rule of assignment:")
        for rule, n in contents.sgrnas.iterrows():
            say(f"    {rule}: " + ", ".join(f"{name} {k:,}" for name, k in n.items() if k))
    if contents.cells is not None:
        _say_conditions(contents.cells)
    if contents.covariates:
        say("  other columns:")
    for covariate in contents.covariates:
        say(f"    {covariate}")
    for remark in contents.remarks:
        say(f"  note: {remark}")
    if contents.screen is None:
        say("it cannot be read with these settings: the note above says what to give")
        return
    try:
        seconds = seconds_of_training(contents.screen, TrainPlan())
    except InputError as error:
        say(f"it cannot be trained on: {error}")
        return
    settings = {**contents.settings, **places}
    words = ["samsvae", "train", str(data), "--out", f"runs/{data.name.split('.')[0]}"]
    for name, value in settings.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                words += [f"--{name.replace('_', '-')}", str(one)]
    say(f"this trains, for at most {_duration(seconds)} on this machine:")
    say(shlex.join(words))


def _say_conditions(n: pd.Series) -> None:
    """Print how many cells conditions have."""
    others = n.iloc[1:] if len(n) > 1 else n.iloc[:0]
    text = f"  {len(n):,} conditions: {n.iloc[0]:,} cells of {n.index[0]!r}"
    if not len(others):
        say(text)
        return
    few, many, median = others.min(), others.max(), others.median()
    say(f"{text}, of the others {few:,} to {many:,} (median {median:,.0f})")
    rare = others.sort_values(kind="stable")[:5]
    say("  fewest cells: " + ", ".join(f"{name} {k:,}" for name, k in rare.items()))


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(20), _duration(600), _duration(20_000)
    ('20 seconds', '10 minutes', '5.6 hours')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


datasets = App(name="datasets", help="Published screens: download them, or simulate stand-ins.")
FetchOptions = given(Settings(questions.ProgressSettings))
StandInOptions = given(Settings(questions.SeedSettings, questions.OutputSettings))


@datasets.command
def fetch(
    name: Literal["replogle", "norman"],
    /,
    *,
    settings: FetchOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Download a published file once, and print its path.

    It is kept in the user's cache, or in SAMSVAE_DATA. An interrupted download goes on with the
    same command. It is checked that the file is a whole one of HDF5, and that it has the SHA-256
    of the first download: none was published.

    Parameters
    ----------
    name
        The data set.
    """
    from samsvae.reproduce.download import CATALOG
    from samsvae.reproduce.download import fetch as fetched

    say(f"{name}: {CATALOG[name].source}")
    say(str(fetched(name, progress=questions.ProgressSettings.among(settings).progress)))


@datasets.command(name="stand-in")
def stand_in(
    name: Literal["replogle", "norman"],
    /,
    *,
    out: Path,
    scale: float = 1.0,
    settings: StandInOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Simulate a screen with the shape and raw layout of a published one, with invented names.

    Its annotation (pathways, or kinds of interaction) is written to NAME.annotation.json in the
    same folder.

    Parameters
    ----------
    name
        The data set.
    out
        The h5ad file to write.
    scale
        Share of the perturbations, with as many cells each; genes shrink by its square root.
    """
    from samsvae.reproduce.prepare import stand_in as simulated
    from samsvae.storage.files import write_json
    from samsvae.storage.tables import write_h5ad

    check_output(out, [".h5ad"], settings)
    screen = simulated(name, scale=scale, seed=questions.SeedSettings.among(settings).seed)
    write_h5ad(out, screen.adata)
    write_json(out.with_suffix(".annotation.json"), screen.annotation)
    n_cells, n_genes = screen.adata.shape
    say(f"{out}: {n_cells:,} cells x {n_genes:,} genes, laid out like {name}'s")


PreparationOptions = given(Settings(PreparationSettings))
ReproductionOptions = given(
    Settings(questions.JobSettings, questions.DeviceSettings, questions.ProgressSettings)
)


def reproduce(
    name: Literal["replogle", "norman-ood", "norman-data-efficiency"],
    /,
    *,
    data: Path,
    out: Path,
    scale: float = 1.0,
    annotation: Path | None = None,
    published: Path | None = None,
    seeds: int | None = None,
    experiment: Path | None = None,
    work: ReproductionOptions = NOTHING,  # type: ignore[valid-type]
    preparation: PreparationOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Run a whole experiment of the paper: from the raw file to its tables and figures.

    docs/reproduce.md says what to expect. The directory contains a folder per trained and per
    scored model. If a model fails, the others go on, and the failure is reported at the end.

    Parameters
    ----------
    name
        The experiment.
    data
        Raw counts, as published (samsvae datasets fetch) or simulated (samsvae datasets stand-in).
    out
        Directory to write.
    scale
        Share of steps, particles, seeds and cells, for a quick test: 0.01 takes minutes.
    annotation
        JSON or CSV file of pathways (replogle) or kinds of interaction (norman); by default the
        .annotation.json next to the data.
    published
        CSV file of other numbers to print next to ours than those of the paper's Table 1: label,
        and any of iwelbo, pathway_accuracy, ate_pearson and their standard deviations (..._sd).
    seeds
        Number of seeds of each model, if it is to differ from the experiment's.
    experiment
        TOML file of an experiment of your own, instead of the paper's.
    """
    from samsvae.reproduce.experiments import Reproduction, experiment_of
    from samsvae.runs.run import ExperimentDirectory
    from samsvae.storage.files import expanded

    jobs, directory = questions.JobSettings.among(work), ExperimentDirectory(out)
    directory.check_new(overwrite=jobs.overwrite, resume=jobs.resume)
    options: dict[str, Any] = {"device": questions.DeviceSettings.among(work).device}
    wanted = experiment_of(name if experiment is None else str(experiment), scale, options)
    if seeds is not None:
        wanted = replace(wanted, seeds=seeds)
    reproduction = Reproduction(
        name=name,
        data=expanded(data),
        directory=directory,
        experiment=wanted,
        scale=scale,
        preparation=PreparationSettings(**preparation),
        annotation=annotation,
        published=published,
        say=say,
    )
    progress = questions.ProgressSettings.among(work).progress
    runner = reproduction.run(
        resume=jobs.resume, engine=jobs.engine, n_jobs=jobs.jobs, progress=progress
    )
    runner.raise_failures()
