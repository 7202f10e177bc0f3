"""Conditions as rows of AnnData: the numbers of the model, under the right names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.doses import dosed
from helpers.screens import SMALL, make_adata, read

QUICK: dict[str, Any] = {"n_particles": 30, "progress": False}
TRAINING: dict[str, Any] = {
    "alignment": "none",
    "max_steps": 6,
    "batch_size": 64,
    "n_particles": 2,
    "progress": False,
}


def test_rows_are_conditions_with_the_effects_of_the_model(trained: samsvae.SAMSVAE) -> None:
    space = samsvae.export.perturbation_space(trained, **QUICK)
    assert list(space.obs_names) == ["control", "A", "A+B", "B", "C"]
    assert list(space.obs["perturbation"]) == list(space.obs_names)
    assert space.obs["n_perturbations"].tolist() == [0, 1, 2, 1, 1]
    cells = dict(
        zip(trained.metadata.conditions, trained.metadata.cells_per_condition, strict=True)
    )
    assert space.obs["n_train_cells"].to_dict() == cells
    assert "group" not in space.obs
    effects = trained.effects(**QUICK)
    np.testing.assert_allclose(space[1:].X, effects[["A", "A+B", "B", "C"]].X, rtol=1e-5)
    np.testing.assert_allclose(space[1:].layers["upper"], effects.layers["upper"], rtol=1e-5)
    assert list(space.var_names) == list(effects.var_names)
    assert not space["control"].X.any()
    assert space.X.dtype == np.float32


def test_shifts_of_a_combination_are_sums_and_its_mask_is_of_any(trained: samsvae.SAMSVAE) -> None:
    space = samsvae.export.perturbation_space(trained, ["B+C", "B", "C"], **QUICK)
    assert list(space.obs_names) == ["control", "B+C", "B", "C"]  # one that nobody measured
    mask, embedding = trained.mask_probabilities(), trained.embeddings()
    shift = (mask * embedding).loc[["B", "C"]].to_numpy()
    np.testing.assert_allclose(space.obsm["X_samsvae"][2:], shift, rtol=1e-5)
    np.testing.assert_allclose(space.obsm["X_samsvae"][1], shift.sum(0), rtol=1e-5, atol=1e-6)
    whole = embedding.loc[["B", "C"]].sum().to_numpy()
    np.testing.assert_allclose(space.obsm["X_samsvae_embedding"][1], whole, rtol=1e-5, atol=1e-6)
    spared = (1 - mask.loc[["B", "C"]]).prod().to_numpy()
    np.testing.assert_allclose(space.obsm["X_samsvae_mask"][1], 1 - spared, atol=1e-5)
    assert not any(space.obsm[key][0].any() for key in space.obsm)  # control


@pytest.mark.parametrize("kind", [dict, pd.Series])
def test_a_combination_is_in_a_group_if_all_its_parts_are(
    trained: samsvae.SAMSVAE, kind: Any
) -> None:
    groups = kind({"A": "one", "B": "one", "C": "two"})
    names = ["A", "A+B", "A+C", "C"]
    group = samsvae.export.perturbation_space(trained, names, groups=groups, **QUICK).obs["group"]
    assert group.astype(object).where(group.notna(), None).tolist() == [
        *(None, "one", "one", None, "two")
    ]
    told = samsvae.export.perturbation_space(
        trained, names, groups=kind({"A+C": "both"}), **QUICK
    ).obs["group"]
    assert told.dropna().to_dict() == {"A+C": "both"}


def test_control_alone_is_a_space_of_one_row(trained: samsvae.SAMSVAE) -> None:
    space = samsvae.export.perturbation_space(trained, ["control", "A", "control+A"], **QUICK)
    assert list(space.obs_names) == ["control", "A"]


def test_a_saturating_dose_shifts_by_its_curve() -> None:
    model = samsvae.SAMSVAE(dosed(), **SMALL, saturating_dose=True).train(**TRAINING)
    names = ["C@0.5", "C@2"]
    space = samsvae.export.perturbation_space(model, names, **QUICK)
    k, h = model.dose_parameters().loc["C"]
    full = (model.mask_probabilities() * model.embeddings()).loc["C"].to_numpy()
    for row, dose in enumerate((0.5, 2.0), 1):
        wanted = full * dose**h / (k**h + dose**h)
        np.testing.assert_allclose(space.obsm["X_samsvae"][row], wanted, rtol=1e-4, atol=1e-7)


def test_a_model_that_displaces_nothing_has_effects_alone() -> None:
    screen = read(make_adata())
    model = samsvae.ConditionalVAE(screen, n_latent=3, n_hidden=6).train(**TRAINING)
    space = samsvae.export.perturbation_space(model, ["A"], **QUICK)
    assert space.shape == (2, 12)
    assert not list(space.obsm)


def test_combinations_that_are_perturbations_of_their_own_have_their_own_shift() -> None:
    screen = read(make_adata())
    model = samsvae.SVAEPlus(screen, n_latent=3, n_hidden=6).train(**TRAINING)
    space = samsvae.export.perturbation_space(model, **QUICK)
    shift = model.mask_probabilities() * model.embeddings()
    np.testing.assert_allclose(
        space["A+B"].obsm["X_samsvae"][0], shift.loc["A+B"], rtol=1e-5, atol=1e-7
    )


def test_what_is_unknown_is_refused(trained: samsvae.SAMSVAE) -> None:
    with pytest.raises(samsvae.InputError, match="no perturbation 'X'"):
        samsvae.export.perturbation_space(trained, ["X"], **QUICK)
    with pytest.raises(samsvae.InputError, match="n_particle"):
        samsvae.export.perturbation_space(trained, ["A"], n_particle=3)
