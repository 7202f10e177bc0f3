"""Which cells does Mixscape call perturbed? `benchmarks/mixscape.py SCREEN.h5ad --out FILE.csv`.

With pertpy, in a venv of its own (`make bench-mixscape`); `benchmarks/responders.py --screen
SCREEN.h5ad --mixscape FILE.csv` prints the shares beside ours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import pandas as pd
import pertpy
import scanpy

ALL = "(all)"


def shares(path: str) -> pd.DataFrame:
    """Return the share of cells that are called perturbed, by perturbation and by sgRNA."""
    adata = ad.read_h5ad(path)
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    scanpy.pp.pca(adata)
    mixscape = pertpy.tl.Mixscape()
    keys = {"pert_key": "perturbation", "control": "control", "split_by": "bio_rep"}
    mixscape.perturbation_signature(adata, **keys)
    mixscape.mixscape(adata, **keys, layer="X_pert")
    cells = adata.obs[adata.obs["perturbation"] != "control"]
    called = cells["mixscape_class_global"] == "KO"
    cells = pd.DataFrame(
        {
            "perturbation": cells["perturbation"].astype(str),
            "sgrna": cells["guide"].astype(str),
            "mixscape": called.astype(float),
        }
    )
    whole = cells.groupby("perturbation", as_index=False)["mixscape"].mean().assign(sgrna=ALL)
    each = cells.groupby(["perturbation", "sgrna"], as_index=False)["mixscape"].mean()
    return pd.concat([whole, each], ignore_index=True)[["perturbation", "sgrna", "mixscape"]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("screen")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/mixscape.csv"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    table = shares(given.screen)
    table.to_csv(given.out, index=False)
    print(table.round(2).to_string(index=False))
