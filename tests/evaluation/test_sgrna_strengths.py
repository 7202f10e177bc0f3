"""How well sgRNAs work: known shares of cells that respond."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from samsvae.evaluation.sgrna_strengths import sgrna_strengths


def screen_of(share: dict[str, float], *, batches: bool = False) -> samsvae.Screen:
    """Return 200 cells per sgRNA, of which a share shows the effect; half of them in each batch."""
    rng = np.random.default_rng(0)
    names = ["none", *share]
    sgrna = np.repeat(names, 200)
    batch = np.tile(["one", "two"], 100 * len(names))
    responds = rng.random(len(sgrna)) < np.array([{"none": 0.0, **share}[s] for s in sgrna])
    mean = np.where(responds[:, None], [300, 50, 100], [100, 50, 300])
    if batches:
        mean = np.where((batch == "two")[:, None], mean[:, [1, 0, 2]], mean)
    obs = pd.DataFrame(
        {"perturbation": np.where(sgrna == "none", "control", "A"), "sgrna": sgrna, "batch": batch},
        index=[f"c{i}" for i in range(len(sgrna))],
    )
    counts = AnnData(rng.poisson(mean).astype(np.float32), obs=obs)
    key = {"batch_key": "batch"} if batches else {}
    return samsvae.Screen.from_anndata(counts, sgrna_key="sgrna", **key)


def test_strength_is_the_share_of_the_effect() -> None:
    screen = screen_of({"good": 1.0, "half": 0.5, "dead": 0.0})
    only = screen[np.isin(np.asarray(screen.sgrna), ["none", "good"])]
    effect = samsvae.differential_expression(only, ["A"], scale="normalized")
    found = sgrna_strengths(screen, effect, scale="normalized").set_index("sgrna")
    assert found["n_cells"].tolist() == [200, 200, 200]
    for name, share in {"good": 1.0, "half": 0.5, "dead": 0.0}.items():
        assert abs(found.loc[name, "strength"] - share) < 4 * found.loc[name, "se"] + 0.01
    assert found.loc["half", "se"] == pytest.approx(0.5 / np.sqrt(200), rel=0.1)


def test_cells_are_compared_within_their_batch() -> None:
    screen = screen_of({"dead": 0.0}, batches=True)
    effect = pd.DataFrame([[1.0, -1.0, 0.0]], ["A"], list(screen.genes))
    (row,) = sgrna_strengths(screen, effect).itertuples()
    assert abs(row.strength) < 4 * row.se  # though the batches differ along this very effect


def test_what_is_not_known_is_nan() -> None:
    screen = screen_of({"good": 1.0})
    found = sgrna_strengths(screen, pd.DataFrame(columns=list(screen.genes), dtype=float))
    assert found["strength"].isna().all()
    with pytest.raises(samsvae.InputError, match="sgrna_key"):
        sgrna_strengths(samsvae.datasets.simulated_screen(n_genes=20), pd.DataFrame())
