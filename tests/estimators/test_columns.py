"""A model with more columns of dosage than perturbations: an interaction, a deviation by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.data.names import Encoding, NameRegistry


class Extended(Encoding):
    """A column per perturbation; one for A and B together; one for A in the last batch."""

    def __init__(self, registry: NameRegistry, unit: np.ndarray) -> None:
        super().__init__(unit)
        self.registry = registry
        self.columns = (*registry.perturbations, "A x B", "A in the last batch")

    def rows(self, dosage: sp.csr_matrix, batch: np.ndarray | None) -> sp.csr_matrix:
        a, b = (dosage[:, self.registry.column[name]].toarray() for name in "AB")
        is_last = np.zeros(len(a)) if batch is None else batch == len(self.registry.batches) - 1
        encoded = sp.hstack([dosage, a * b, a * is_last[:, None]], "csr", dtype=np.float32)
        encoded.eliminate_zeros()
        return encoded


class ExtendedVAE(samsvae.SAMSVAE):
    """SAMS-VAE with these columns."""

    def _encoding(self) -> Encoding:
        return Extended(self.metadata.registry, self.metadata.median_dose)


@pytest.mark.parametrize(
    "options", [{}, {"saturating_dose": True}, {"mask": "beta_bernoulli"}], ids=str
)
def test_a_model_is_sized_by_its_columns(options: dict[str, Any]) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    model = ExtendedVAE(screen, **SMALL, **options)
    model.train(max_steps=12, progress=False)
    assert list(model.mask_probabilities().index) == ["A", "B", "C", "A x B", "A in the last batch"]
    effects = model.effects(["A", "A+B"], n_particles=20, progress=False)
    assert np.isfinite(effects.X).all()
    assert len(model.iwelbo(screen.test, n_particles=2, progress=False)) == len(screen.test)


def test_responders_are_of_columns() -> None:
    adata = make_adata(labels=("control", "A", "B", "C"))  # a cell has two columns at most
    screen = samsvae.Screen.from_anndata(adata, split_key="split", batch_key="batch")
    model = ExtendedVAE(screen, **SMALL, learn_responders=True)
    model.train(max_steps=12, progress=False)
    rates = model.responders(screen, n_particles=2, progress=False).rates
    assert set(rates["perturbation"]) == {"A", "B", "C", "A in the last batch"}


def test_cells_of_the_batch_have_the_deviation() -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    loader = ExtendedVAE(screen, **SMALL).loader(screen)
    has_a = screen.dosage[:, 0].toarray().ravel() > 0
    expected = has_a & (np.asarray(screen.batch) == 1)
    assert loader.cells_per_column[-1] == expected.sum()
    np.testing.assert_array_equal(loader.dosage[:, -1].toarray().ravel() > 0, expected)
