"""The units in which doses are given change nothing that is inferred."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from helpers.screens import make_adata, read

FACTORS = {"A": 10.0, "B": 1e-4, "C": 3e5}
TRAINING = {"max_steps": 24, "batch_size": 64, "progress": False}


def dosed(*, graded: bool, factors: dict[str, float]) -> AnnData:
    """Return cells with doses in units of each perturbation's own."""
    adata = make_adata(n_cells=400, labels=("control", "A", "B", "C", "A+B"))
    rng = np.random.default_rng(0)
    doses = rng.choice([0.3, 1.0, 7.0], (len(adata), 2)) if graded else np.ones((len(adata), 2))
    adata.obs["dose"] = [
        "+".join(
            repr(float(dose * factors.get(part, 1.0)))
            for part, dose in zip(label.split("+"), row, strict=False)
        )
        for label, row in zip(adata.obs["perturbation"], doses, strict=True)
    ]
    return adata


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (samsvae.SAMSVAE, {}),
        (samsvae.SAMSVAE, {"saturating_dose": True}),
        (samsvae.SAMSVAE, {"learn_responders": True}),
        (samsvae.CPAVAE, {}),
        (samsvae.SVAEPlus, {}),
        (samsvae.ConditionalVAE, {}),
    ],
    ids=str,
)
def test_nothing_depends_on_the_units_of_doses(
    kind: type[samsvae.estimators.base.Estimator], options: dict[str, bool]
) -> None:
    graded = kind is not samsvae.SVAEPlus  # which takes one dose of each
    found = []
    for factors in ({}, FACTORS):
        screen = read(dosed(graded=graded, factors=factors), dosage_key="dose")
        model = kind(screen, n_latent=3, n_hidden=8, **options).train(**TRAINING)
        a = 1.0 * factors.get("A", 1.0)
        effects = model.effects(f"A@{a:g}", n_particles=20, progress=False)
        tables = [effects.to_df().reset_index(drop=True), model.iwelbo(screen.test, progress=False)]
        if kind is not samsvae.ConditionalVAE:
            tables += [model.embeddings(), model.mask_probabilities()]
        if "saturating_dose" in options:
            unit = pd.Series(factors, dtype=float).reindex(model.embeddings().index, fill_value=1.0)
            curve = model.dose_parameters()
            tables.append(curve.assign(half_dose=curve["half_dose"] / unit))
        found.append([table.to_numpy(float) for table in tables])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
