"""The command line: samsvae demo | train | evaluate | effects | simulate."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import pandas as pd
from anndata import AnnData
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from samsvae import demo as demonstration
from samsvae._version import __version__
from samsvae.data.screen import Screen
from samsvae.errors import InputError, NonFiniteError, listed
from samsvae.estimator import Estimator
from samsvae.files import write_text
from samsvae.options import Options
from samsvae.run import KEYS, SETTINGS, Run, gathered, read_screen, write_h5ad
from samsvae.scoring.score import score
from samsvae.train.settings import TrainSettings

app = App(
    name="samsvae",
    version=__version__,
    help="Train SAMS-VAE, or a model of its family, on a Perturb-seq screen, score it, and ask it "
    "what perturbations do. "
    "Any command takes --debug, which shows the traceback of an error.",
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
console = Console(markup=False)  # a name may hold brackets

EFFECTS = Options(Estimator.effects)
SIMULATION = Options(Estimator.simulate, without=("cells",))
SCORE = Options(score, without=("split", "progress"))

Several = Annotated[list[str] | None, Parameter(name="--set", negative=())]


@app.command
@SETTINGS.taken_by
def train(
    data: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    assignments: Several = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Train a model on a screen and save it in a run directory.

    Every setting is an option, a key of the TOML file, or a name for --set; some are of certain
    models only. Without --split-key the cells are split 64/16/20 at random by the seed, and the
    split is saved.

    Parameters
    ----------
    data
        The screen, an h5ad file.
    out
        Run directory to make.
    config
        TOML file of settings; options win over it. A table in it, such as [cpa-vae], is of that
        model only.
    assignments
        A setting, as name=value; may be repeated.
    resume
        Go on with an interrupted run: the same command, with this flag.
    overwrite
        Replace the run in an existing directory.
    """
    run = Run(out)
    kind, chosen = gathered(settings, assignments=assignments or (), config=config)
    for one, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if one in settings and other not in settings:  # an option wins over its rival in a file
            chosen[other] = None
    run.check_new(overwrite=overwrite, resume=resume)
    training = SETTINGS.of(TrainSettings, chosen)
    TrainSettings(**training)  # a value out of range is told before the data are read
    screen = read_screen(data, chosen)
    _say(repr(screen))
    model = kind(screen, **SETTINGS.of(kind, chosen))
    model.check_training(**training)  # nor is a run replaced by one that cannot be trained
    run.start(chosen, screen, resume=resume)
    model.train(**training, checkpoint=run.checkpoint, resume=resume)
    run.finish(model)
    best = model.history["valid_elbo"].max()  # nan without validation cells
    told = "" if np.isnan(best) else f"best validation ELBO {best:.3f} nats per cell; "
    _say(f"{told}the model is in {out}")


@app.command
@SCORE.taken_by
@KEYS.taken_by
def evaluate(
    run: Path,
    data: Path,
    /,
    *,
    split: str = "test",
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> None:
    """Score a run on held-out cells: likelihood, and effects against the data.

    Prints a table and writes metrics.json, per_condition.csv and effects.h5ad into the run. The
    columns of the data are named as in the run; options name them otherwise.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    data
        The screen, an h5ad file.
    split
        Whose cells are scored: "train", "valid" or "test".
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    progress
        Show progress bars.
    """
    folder = Run(run)
    model = folder.model(device)
    screen = folder.screen(data, KEYS.of(Screen.from_anndata, settings))
    particles = SCORE.of(score, settings)
    result = score(model, screen, split=split, progress=progress, **particles)
    folder.write_score(result, split)
    table = Table("metric", "value", title=f"{split} cells")
    for name, value in result.summary.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value}")
    console.print(table)
    _say(f"written to {folder / 'metrics.json'}")


@app.command
@EFFECTS.taken_by
def effects(
    run: Path,
    /,
    *conditions: str,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    **settings: Any,
) -> None:
    """Tell what conditions do to every gene, and how sure the model is.

    Prints the genes that change most, or writes all of them.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA", seen in training or not; without any, all of the training
        cells.
    out
        File to write: .csv (one row per condition and gene) or .h5ad (conditions x genes).
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    if out is not None:
        _check_file(out, (".csv", ".h5ad"), overwrite=overwrite)
    model = Run(run).model(device)
    adata = model.effects(list(conditions) or None, **settings)
    if out is not None and out.suffix == ".h5ad":
        write_h5ad(out, adata)
    elif out is not None:
        write_text(out, _tidy(adata).to_csv(index=False))
    else:
        for name in adata.obs_names:
            _print_effect(adata[name])
        return
    _say(f"written to {out}")


@app.command
@SIMULATION.taken_by
def simulate(
    run: Path,
    /,
    *conditions: str,
    out: Path,
    cells: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    **settings: Any,
) -> None:
    """Draw counts of cells under conditions.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA".
    out
        File to write, .h5ad.
    cells
        A screen (h5ad): what its very cells would have shown under the conditions.
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    _check_file(out, (".h5ad",), overwrite=overwrite)
    folder = Run(run)
    model = folder.model(device)
    screen = None if cells is None else folder.screen(cells, {})
    adata = model.simulate(list(conditions), cells=screen, **settings)
    write_h5ad(out, adata)
    _say(f"{adata.n_obs:,} cells written to {out}")


@app.command
def demo(
    *,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Simulate a screen whose truth is known, train on it, and tell what was recovered.

    Parameters
    ----------
    out
        Run directory to make.
    seed
        Of the simulation and of training.
    overwrite
        Replace the run in an existing directory.
    progress
        Show progress bars.
    """
    run = Run(out)
    run.check_new(overwrite=overwrite, resume=False)
    demonstration.demo(run, seed=seed, progress=progress, say=_say)


def _say(text: str) -> None:
    console.print(text, highlight=False)


def _check_file(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    if path.suffix not in suffixes:
        raise InputError(f"--out {str(path)!r}: expected a name that ends in {listed(suffixes)}")
    if path.exists() and not overwrite:
        raise InputError(f"the file {str(path)!r} exists: give another --out, or --overwrite")


def _tidy(effects: AnnData) -> pd.DataFrame:
    """Return effects with one row per condition and gene."""
    index = pd.MultiIndex.from_product(
        [effects.obs_names, effects.var_names], names=["condition", "gene"]
    )
    columns = {"ate": effects.X, **effects.layers}
    values = {name: np.asarray(table).ravel() for name, table in columns.items()}
    return pd.DataFrame(values, index).reset_index()


def _print_effect(effect: AnnData, n_genes: int = 15) -> None:
    table = _tidy(effect).sort_values("ate", key=np.abs, ascending=False).head(n_genes)
    n_cells = int(effect.obs["n_train_cells"].iloc[0])
    seen = f"{n_cells:,} training cells" if n_cells else "never seen in training"
    title = f"{effect.obs_names[0]} ({seen}): ATE on scale {effect.uns['scale']!r}"
    printed = Table("gene", "ATE", "mc_se", "90 % interval", title=title)
    for row in table.itertuples():
        known = not np.isnan(row.lower)  # the conditional VAE has none
        interval = f"{row.lower:+.3f} to {row.upper:+.3f}" if known else "-"
        printed.add_row(row.gene, f"{row.ate:+.3f}", f"{row.mc_se:.3f}", interval)
    console.print(printed)


def main() -> None:
    """Run the command line: one line and exit code 2 for what the user can mend."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = _note
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except (InputError, CycloptsError) as error:
        _fail(2, str(error), debug=debug)
    except NonFiniteError as error:
        _fail(1, str(error), debug=debug)
    except KeyboardInterrupt as error:
        _fail(130, str(error) or "interrupted", debug=debug)
    except Exception as error:  # noqa: BLE001  what is not the user's to mend, is ours
        message = f"internal error, {type(error).__name__}: {error} (--debug tells more)"
        _fail(1, message, debug=debug)


def _fail(code: int, message: str, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print("samsvae:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    print("samsvae: note:", " ".join(str(message).split()), file=sys.stderr)
