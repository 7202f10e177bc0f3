"""Simulated cells and latent states."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

import samsvae
from helpers.statistics import errors


def test_simulated_cells_are_counts_at_the_asked_depth(trained: samsvae.SAMSVAE) -> None:
    cells = trained.simulate(["A", "A+C"], n_cells=3000, library_size=500.0)
    assert isinstance(cells, AnnData)
    assert cells.X.dtype == np.int32
    assert cells.obs["condition"].value_counts().to_dict() == {"A": 3000, "A+C": 3000}
    total = np.asarray(cells.X.sum(1)).ravel()
    assert abs(total.mean() - 500) < errors() * total.std() / len(total) ** 0.5 + 0.01
    again = trained.simulate(["A", "A+C"], n_cells=3000, library_size=500.0)
    assert (again.X != cells.X).nnz == 0
    observed = trained.simulate("A", n_cells=50).obs["library_size"]
    assert set(observed) <= set(trained.metadata.library_sizes("A"))


def test_given_cells_keep_their_names_sizes_and_basal_states(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    cells = trained.simulate(["control", "B"], cells=screen.test)
    assert cells.n_obs == 2 * len(screen.test)
    assert list(cells.obs["cell"][: len(screen.test)]) == list(screen.test.cells)
    assert np.array_equal(cells.obs["library_size"][: len(screen.test)], screen.test.library_size)
    observed, drawn = screen.test.counts.toarray(), cells.X.toarray()[: len(screen.test)]
    own, others = (
        np.corrcoef(observed.ravel(), cells.ravel())[0, 1] for cells in (drawn, drawn[::-1])
    )
    assert own > others + 0.1


def test_latent_states(certain: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    latent = certain.latent(screen)
    assert {name: values.shape for name, values in latent.items()} == {
        "basal": (len(screen), 4),
        "state": (len(screen), 4),
    }
    control = screen.is_control
    assert np.array_equal(latent["basal"][control], latent["state"][control])
    received = screen.condition == screen.condition_names.index("A")
    expected = certain.embeddings().loc["A"].to_numpy()
    moved = latent["state"][received] - latent["basal"][received]
    np.testing.assert_allclose(moved, np.tile(expected, (len(moved), 1)), atol=1e-4)
