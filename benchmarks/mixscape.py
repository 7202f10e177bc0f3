"""Which cells Mixscape calls perturbed (pertpy, by `make .venv-interop/.ready`)."""

from __future__ import annotations

import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd

import samsvae


def called(screen: samsvae.Screen) -> pd.DataFrame:
    """Return the cells of single perturbations: perturbation, probability, and what is called.

    As pertpy's tutorial does it: log-normalised counts, the signature against the 20 nearest
    control cells, within batches where the screen knows them.
    """
    with warnings.catch_warnings(action="ignore"):  # pertpy's own, at import and later
        import pertpy
        import scanpy
        from pertpy.tools import _mixscape

        adata = screen.to_anndata()
        adata.X = adata.X.astype(np.float32)
        names = np.array(screen.condition_names)[screen.condition]
        adata.obs["perturbation"] = pd.Categorical(names)
        batches = {}
        if len(screen.registry.batches) > 1:
            adata.obs["replicate"] = pd.Categorical.from_codes(
                screen.batch, list(screen.registry.batches)
            )
            batches = {"split_by": "replicate"}
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        # Its mixture does not know of the array namespace that scikit-learn 1.8 hands on.
        kind = _mixscape.MixscapeGaussianMixture
        step = kind._m_step
        mixscape = pertpy.tl.Mixscape()
        mixscape.perturbation_signature(adata, "perturbation", "control", **batches)
        with patch.object(
            kind, "_m_step", lambda self, x, log_resp, xp=None: step(self, x, log_resp)
        ):
            mixscape.mixscape(adata, "perturbation", "control", layer="X_pert", **batches)
    found = pd.DataFrame(
        {
            "perturbation": names,
            "probability": adata.obs["mixscape_class_p_ko"].to_numpy(float),
            "called": (adata.obs["mixscape_class_global"] == "KO").to_numpy(),
        },
        index=adata.obs_names,
    )
    return found[names != "control"]
