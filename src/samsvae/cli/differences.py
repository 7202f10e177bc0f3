"""What goes beyond shared, additive effects: differences between contexts, and interactions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samsvae.cli.console import (
    NOTHING,
    RunPath,
    check_outputs,
    console,
    given,
    opened,
    say,
    say_cautions,
    write_rows,
)
from samsvae.settings import questions
from samsvae.settings.fields import Settings

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

Options = given(Settings(questions.OutputSettings, questions.DeviceSettings))


def contexts(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    settings: Options = NOTHING,  # type: ignore[valid-type]
) -> None:
    """List in which contexts perturbations act differently, and through which mechanisms.

    For a model that was trained with --context-key; see docs/contexts.md. Prints the differences
    that are more likely than not, the surest first; --out writes all of them.

    Parameters
    ----------
    out
        File to write, .csv or .parquet, one row per perturbation, context and latent dimension.
    """
    from samsvae.cli.tables import context_table

    check_outputs(settings, out)
    model, _ = opened(run, settings)
    _show(model.context_differences(), "differences between contexts", context_table, out)
    say_cautions(model)


def interactions(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    settings: Options = NOTHING,  # type: ignore[valid-type]
) -> None:
    """List what pairs of perturbations do beyond the sum of their parts, mechanism by mechanism.

    For a model that was trained with --learn-interactions; see docs/interactions.md. Prints the
    interactions that are more likely than not, the surest first; --out writes all of them.

    Parameters
    ----------
    out
        File to write, .csv or .parquet, one row per pair and latent dimension.
    """
    from samsvae.cli.tables import interaction_table

    check_outputs(settings, out)
    model, _ = opened(run, settings)
    _show(model.interactions(), "interactions", interaction_table, out)
    say_cautions(model)


def _show(
    table: pd.DataFrame, what: str, shown: Callable[[pd.DataFrame], Table], out: Path | None
) -> None:
    """Print the rows that are likely, and write all."""
    from samsvae.report.tables import likely

    rows = likely(table)
    say(f"{len(rows):,} of {len(table):,} possible {what} are more likely than not")
    if len(rows):
        console.print(shown(rows))
    write_rows(out, [table])
