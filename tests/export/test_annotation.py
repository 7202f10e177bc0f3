"""Latent states in AnnData: of the right cells, and nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest

import samsvae
from helpers.screens import SMALL, half_dead, make_adata

BOTH = ("X_samsvae_basal", "X_samsvae")


def test_states_are_those_of_latent(trained: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    adata = make_adata()
    before = adata.copy()
    assert samsvae.export.annotate(trained, adata, seed=3) is adata
    latent = trained.latent(screen, seed=3)
    np.testing.assert_allclose(adata.obsm["X_samsvae"], latent["state"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adata.obsm["X_samsvae_basal"], latent["basal"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(adata.X, before.X)
    assert adata.obs.equals(before.obs)
    control = (adata.obs["perturbation"] == "control").to_numpy()
    basal, state = (adata.obsm[key] for key in BOTH)
    np.testing.assert_array_equal(basal[control], state[control])  # nothing moves them
    assert np.abs(basal[~control] - state[~control]).max() > 1e-3
    assert "of its label, whether or not it acts" in adata.uns["samsvae_state"]


def test_states_of_responders_are_basal_and_weighted_shift() -> None:
    """Of each cell: its shift times the posterior probability that it acts."""
    screen = half_dead()
    model = samsvae.CPAVAE(screen, n_latent=4, n_hidden=16, learn_responders=True)
    model.train(max_steps=300, batch_size=128, learning_rate=0.01, progress=False)
    adata = screen.to_anndata()
    samsvae.export.annotate(model, adata, n_particles=40, sgrna_key="sgrna")
    cells = model.responders(screen, n_particles=40, progress=False).cells.set_index("cell")
    weight = cells["probability"].reindex(screen.cells).fillna(0).to_numpy()[:, None]
    label = np.array(screen.condition_names)[screen.condition]
    shift = model.embeddings().reindex(label).fillna(0).to_numpy()
    moved = adata.obsm["X_samsvae"] - adata.obsm["X_samsvae_basal"]
    assert np.abs(moved - weight * shift).mean() < 0.05 * np.abs(shift).mean()
    dead = np.asarray(screen.sgrna == "Ag2")  # of a target whose other sgRNA works
    assert np.abs(moved[dead]).mean() < 0.05 * np.abs(shift[dead]).mean()
    assert "probability that it acts in the cell" in adata.uns["samsvae_state"]


def test_genes_and_keys_are_matched_by_name(trained: samsvae.SAMSVAE) -> None:
    plain = samsvae.export.annotate(trained, make_adata())
    other = make_adata()
    other.layers["counts"] = other.X
    other.X = np.log1p(other.X)
    other.obs = other.obs.rename(columns={"perturbation": "target"})
    other = other[::-1, ::-1].copy()
    samsvae.export.annotate(trained, other, layer="counts", perturbation_key="target")
    for key in BOTH:
        np.testing.assert_allclose(other.obsm[key][::-1], plain.obsm[key], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_cells_that_are_left_out_are_nan(trained: samsvae.SAMSVAE) -> None:
    adata = make_adata()
    whole = samsvae.export.annotate(trained, adata.copy())
    adata.X[[0, 7]] = 0
    samsvae.export.annotate(trained, adata, drop_empty_cells=True)
    unknown = np.isnan(adata.obsm["X_samsvae"]).all(1)
    assert np.flatnonzero(unknown).tolist() == [0, 7]
    np.testing.assert_allclose(
        adata.obsm["X_samsvae"][~unknown], whole.obsm["X_samsvae"][~unknown], rtol=1e-4, atol=1e-5
    )
    adata.obs_names = ["same"] * len(adata)
    with pytest.raises(samsvae.InputError, match="1 cell names occur more than once"):
        samsvae.export.annotate(trained, adata, drop_empty_cells=True)


def test_what_cannot_be_used_writes_nothing(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    adata = make_adata()
    with pytest.raises(samsvae.InputError, match="not trained"):
        samsvae.export.annotate(samsvae.SAMSVAE(screen, **SMALL), adata)
    with pytest.raises(samsvae.InputError, match="no column"):
        samsvae.export.annotate(trained, adata, perturbation_key="perturbatoin")
    fewer = adata[:, 1:].copy()
    with pytest.raises(samsvae.InputError, match="genes"):
        samsvae.export.annotate(trained, fewer)
    assert not [*adata.obsm, *fewer.obsm]
