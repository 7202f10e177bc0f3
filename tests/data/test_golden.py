"""What was read before conventions, control sets and notes is read as it was.

The digests were recorded with version 0.1's reader (commit 319756f).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.screens import make_adata

Case = Callable[[], tuple[AnnData, dict[str, Any]]]


def changed(change: Callable[[AnnData], object] = lambda adata: None, **keys: Any) -> Case:
    def case() -> tuple[AnnData, dict[str, Any]]:
        adata = make_adata()
        change(adata)
        return adata, keys

    return case


def label(function: Callable[[pd.Series], Any]) -> Callable[[AnnData], object]:
    def change(adata: AnnData) -> None:
        adata.obs = adata.obs.assign(perturbation=function(adata.obs["perturbation"]))

    return change


def doses(adata: AnnData) -> None:
    adata.obs["dose"] = adata.obs["perturbation"].map(
        {"control": "7", "A": "1", "B": "0", "C": "3.5", "B+A": "0.5+2"}
    )


def total(adata: AnnData) -> None:
    adata.obs["total"] = 2 * adata.X.sum(1) + 1


CASES: dict[str, tuple[Case, str]] = {
    "plain": (changed(), "11c0fe0cadcce6e8"),
    "split": (changed(split_key="split"), "b2147689f5349a92"),
    "batch": (changed(batch_key="batch"), "b921fc36bde2bfb0"),
    "doses": (changed(doses, dosage_key="dose"), "5f115d1e95911865"),
    "library size": (changed(total, library_size_key="total"), "58ce70044eeb0278"),
    "categories": (changed(label(lambda s: s.astype("category"))), "11c0fe0cadcce6e8"),
    "whole numbers": (
        changed(label(lambda s: s.factorize()[0]), control="0"),
        "3e4bed108b44b76d",
    ),
    "control as a part": (
        changed(label(lambda s: s.replace("C", "control+C"))),
        "11c0fe0cadcce6e8",
    ),
    "separator": (
        changed(label(lambda s: s.str.replace("+", " & ")), separator="&"),
        "9f7c05dea6883b13",
    ),
    "columns": (changed(lambda a: setattr(a, "X", sp.csc_matrix(a.X))), "11c0fe0cadcce6e8"),
    "real values": (
        changed(lambda a: setattr(a, "X", np.log1p(a.X) - 1), counts=False),
        "30d7927cc886a526",
    ),
    "layer": (
        changed(lambda a: a.layers.__setitem__("n", a.X[:, ::-1] + 1), layer="n"),
        "a0fa385a9c23a169",
    ),
    "spaces": (changed(label(lambda s: " " + s + " ")), "11c0fe0cadcce6e8"),
}


def digest(screen: samsvae.Screen) -> str:
    found = hashlib.blake2b(digest_size=8)
    names = (tuple(screen.cells), screen.genes, screen.perturbations, screen.condition_names)
    found.update(repr(names).encode())
    counts, dosage = screen.counts.toarray(), screen.dosage.toarray()
    for values in (counts, dosage, screen.library_size, screen.condition, screen.batch):
        found.update(np.ascontiguousarray(values, np.float64).tobytes())
    found.update(repr(None if screen.split is None else list(screen.split)).encode())
    return found.hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_as_it_was(name: str) -> None:
    case, expected = CASES[name]
    adata, keys = case()
    with warnings.catch_warnings(action="ignore" if name == "spaces" else "error"):
        screen = samsvae.Screen.from_anndata(adata, **keys)
    assert digest(screen) == expected
