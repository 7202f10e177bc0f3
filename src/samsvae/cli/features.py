"""Features of perturbations for a trained run: `samsvae features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from samsvae.cli.console import NOTHING, DataPath, Keys, RunPath, given, opened, say
from samsvae.errors import InputError
from samsvae.settings import questions
from samsvae.settings.fields import Settings

_FILES = "Tables of features: .gmt, .csv, .tsv, .parquet, .npz or .h5ad."
FeatureFiles = Annotated[Path, Parameter(help=_FILES)]
Device = given(Settings(questions.DeviceSettings))
_COPIED = ("split.csv", "history.csv", "config.toml")
"""Files of a run that go with its model; the last one makes a directory a run."""


def features(
    run: RunPath,
    data: DataPath,
    /,
    *files: FeatureFiles,
    out: Path,
    expression: bool = False,
    settings: Device = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """Give a run features of perturbations, and so answers for some that were never measured.

    Nothing is trained again. Prints how far each table of features explains measured effects, and
    writes a run that is asked as others are; see docs/unmeasured.md.

    Parameters
    ----------
    out
        Directory of the new run.
    expression
        Also take how each target is expressed in control cells, and with which genes.
    """
    from samsvae.data.features import expression_profile, read
    from samsvae.storage.files import expanded, read_text, write_text

    target = expanded(out)
    if target.exists():
        raise InputError(f"{str(target)!r} exists: give the directory of a new run")
    if not files and not expression:
        raise InputError("no features: give files of them, or --expression")
    given_files = read(*files) if files else None
    model, screen = opened(run, settings, data, keys)
    parts = [] if given_files is None else [given_files]
    known = read(*parts, *([expression_profile(model.matched(screen))] if expression else []))
    told = model.with_features(known, screen)
    unmeasured = told.metadata.unmeasured
    assert unmeasured is not None
    told.save(target)
    for name in _COPIED:
        path = expanded(run) / name
        if path.exists():
            write_text(target / name, read_text(path))
    for name, weight in zip(known.names, unmeasured.weight, strict=True):
        say(f"{name}: explains {weight:.0%} of the variance of effects between perturbations")
    if unmeasured.rho < 0.1:
        say("the features say next to nothing: answers are close to the mean of perturbations")
    n = int((unmeasured.has_features & (told.metadata.cells_per_perturbation == 0)).sum())
    say(f"{n:,} perturbations without cells can be asked about; written to {target}")
