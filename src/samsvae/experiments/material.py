"""The screen of an experiment, as a file that every job reads."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data import splits
from samsvae.data.screen import Screen
from samsvae.data.stored import StoredCounts
from samsvae.storage.h5ad import write_h5ad
from samsvae.storage.records import read_json, write_json

SCREEN, SETTINGS = "screen.h5ad", "screen.json"


def write_material(folder: Path, screen: Screen) -> None:
    """Write a screen, and how it is to be read.

    What a file of it holds beside the counts: conditions, doses, batches, library sizes, split,
    sgRNAs. Counts that are in a file go from there to here, and are left here by those who read it.
    """
    counts = screen.counts
    stored = isinstance(counts, StoredCounts)
    empty = sp.csr_matrix(counts.shape, dtype=np.uint8 if screen.vocabulary.counts else np.float32)
    adata = (replace(screen, counts=empty) if stored else screen).to_anndata()
    vocabulary = screen.vocabulary
    if vocabulary.symbols:
        adata.var["symbol"] = list(vocabulary.symbols)
    batches = [name for name in adata.obs if name.split("_")[0] == "batch"]
    settings = {
        "control": [vocabulary.notation.control],
        "separator": vocabulary.notation.separator,
        "dosage_key": "dosage" if "dosage" in adata.obs else None,
        "batch_key": batches,
        "library_size_key": None if vocabulary.own_library_size else "library_size",
        "split_key": "split" if "split" in adata.obs else None,
        "gene_key": "symbol" if vocabulary.symbols else None,
        "sgrna_key": "sgrna" if "sgrna" in adata.obs else None,
        "counts": vocabulary.counts,
        "in_memory": screen.is_in_memory,
    }
    write_json(folder / SETTINGS, settings)
    rows = (lambda: (block for _, block in screen.blocks())) if stored else None
    write_h5ad(folder / SCREEN, adata, rows)


def read_material(folder: Path) -> Screen:
    """Return the screen that was written into a folder; a process reads it once."""
    return _read(folder, (folder / SCREEN).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(folder: Path, written: int) -> Screen:
    settings = read_json(folder / SETTINGS)
    several = {name: tuple(settings[name]) for name in ("control", "batch_key")}
    return Screen.open(folder / SCREEN, **{**settings, **several})


def with_split(screen: Screen, split: str, *, fraction: float | None, seed: int) -> Screen:
    """Return the screen split as an experiment says, see `samsvae.settings.experiment`."""
    if split == "given":
        return screen
    if split == "random" or fraction is None:
        return screen.with_split(splits.random(screen, seed=seed))
    kind = splits.norman_ood if split == "norman-ood" else splits.norman_data_efficiency
    return screen.with_split(kind(screen, fraction=fraction, seed=seed))


def fewer_cells(screen: Screen, share: float, *, least: int, seed: int = 0) -> Screen:
    """Return some cells of each condition, at random: a share of them, but at least so many.

    Parameters
    ----------
    screen
        The cells.
    share
        Of the cells of each condition.
    least
        Cells of a condition that are kept (all, where it has fewer); of control ten times as many.
    seed
        Same seed, same cells.
    """
    n_cells = np.bincount(screen.condition, minlength=len(screen.condition_names))
    floor = np.full(len(n_cells), least)
    floor[0] = 10 * least
    kept = np.minimum(n_cells, np.maximum(floor, np.round(share * n_cells)))
    order = np.random.default_rng(seed).permutation(len(screen))
    rank = pd.Series(screen.condition[order]).groupby(screen.condition[order]).cumcount()
    return screen[np.sort(order[rank.to_numpy() < kept[screen.condition[order]]])]
