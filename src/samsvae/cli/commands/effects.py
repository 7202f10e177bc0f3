"""samsvae effects."""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import console, say
from samsvae.cli.options import NOTHING, given
from samsvae.settings.by_name import Settings
from samsvae.settings.effects import EffectSettings

EffectOptions = given(Settings(EffectSettings))


def effects(
    run: Path,
    /,
    *conditions: str,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    settings: EffectOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Tell what conditions do to every gene, and how sure the model is.

    Prints the genes that change most, or writes all of them.

    Parameters
    ----------
    run
        Run directory of samsvae train.
    conditions
        Such as KLF1, or "KLF1+CEBPA", seen in training or not; without any, all of the training
        cells. "@" gives a dose: "drugA@0.5".
    out
        File to write: .csv (one row per condition and gene) or .h5ad (conditions x genes).
    overwrite
        Replace an existing file.
    device
        Such as "cpu" or "cuda"; "auto" takes a GPU where there is one.
    """
    from samsvae.cli.tables import effect_table, tidy
    from samsvae.experiments.run import Run
    from samsvae.storage.files import check_new_file
    from samsvae.storage.h5ad import write_h5ad
    from samsvae.storage.tables import write_csv

    if out is not None:
        check_new_file(out, (".csv", ".h5ad"), overwrite=overwrite)
    model = Run(run).model(device)
    adata = model.effects(list(conditions) or None, **settings)
    if out is not None and out.suffix == ".h5ad":
        write_h5ad(out, adata)
    elif out is not None:
        write_csv(out, tidy(adata))
    else:
        for name in adata.obs_names:
            console.print(effect_table(adata[name]))
        return
    say(f"written to {out}")
