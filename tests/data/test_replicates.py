"""Replicates of a screen, and the variance between them."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.screens import make_adata, read
from samsvae import InputError, Screen


def with_clones() -> Screen:
    """Return a screen with two clones per condition."""
    adata = make_adata()
    second = np.where(np.arange(len(adata)) % 2, "a", "b")
    adata.obs["clone"] = adata.obs["perturbation"].astype(str) + second
    return read(adata, replicate_key="clone")


def test_replicates_stay_with_their_cells() -> None:
    screen = with_clones()
    names = np.asarray(screen.replicate)
    rows = np.random.default_rng(0).permutation(len(screen))[:50]
    np.testing.assert_array_equal(np.asarray(screen[rows].replicate), names[rows])
    np.testing.assert_array_equal(screen.to_anndata().obs["replicate"].astype(str), names)


def test_the_digest_is_of_the_replicates_too() -> None:
    screen = with_clones()
    adata = make_adata()
    assert read(adata).digest != screen.digest
    adata.obs["clone"] = "one"
    assert read(adata, replicate_key="clone").digest not in (read(adata).digest, screen.digest)


def test_cells_without_a_replicate() -> None:
    adata = make_adata()
    clone = adata.obs["perturbation"].astype(str).to_numpy(object)
    clone[:3] = None
    adata.obs["clone"] = clone
    with pytest.raises(InputError, match=r"'clone'.*lacks the replicate of 3 of \d+ cells"):
        read(adata, replicate_key="clone")
    with pytest.warns(UserWarning, match="3 without a label"):
        screen = read(adata, replicate_key="clone", drop_unlabelled=True)
    assert len(screen) == len(adata) - 3
