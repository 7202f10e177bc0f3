"""Several batch columns: each is a covariate of its own."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError

KEYS = ["batch", "donor"]
TRAINING = {"max_steps": 6, "batch_size": 64, "progress": False, "alignment": "none"}


def two_columns() -> AnnData:
    adata = make_adata()
    adata.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(240) // 2 % 3]
    return adata


@pytest.fixture(scope="module")
def model() -> samsvae.SAMSVAE:
    return samsvae.SAMSVAE(read(two_columns(), batch_key=KEYS), **SMALL).train(**TRAINING)


def test_each_column_is_one_hot(model: samsvae.SAMSVAE) -> None:
    adata = two_columns()
    screen = read(adata, batch_key=KEYS)
    assert screen.registry.batch_levels == (("one", "two"), ("d1", "d2", "d3"))
    names = ["one", "two", "d1", "d2", "d3"]
    own = adata.obs[KEYS].to_numpy()
    expected = [[name in row for name in names] for row in own]
    np.testing.assert_array_equal(screen.covariates, expected)
    assert model.module.decoder.first.in_features[-1] == 5


def test_one_column_as_a_list_is_that_column() -> None:
    one, listed = (read(make_adata(), batch_key=key) for key in ("batch", ["batch"]))
    assert one.digest == listed.digest


def test_effects_average_over_the_combinations_of_training(model: samsvae.SAMSVAE) -> None:
    given = {"n_particles": 4000, "n_draws": 0, "scale": "normalized", "progress": False}
    names = model.registry.batch_names
    assert names[0] == "one, d1"
    each = [model.effects(["A"], batch=name, **given).X[0] for name in names]
    shares = model.metadata.batch_shares
    whole = model.effects(["A"], **given)
    error = 4 * np.hypot(whole.layers["mc_se"][0], whole.layers["mc_se"][0])
    assert (np.abs(whole.X[0] - shares @ np.array(each)) < error + 1e-9).all()


def test_a_new_combination_of_known_levels_is_scored(model: samsvae.SAMSVAE) -> None:
    adata = two_columns()
    adata.obs["donor"] = np.where(adata.obs["batch"] == "one", "d1", "d3")
    new = read(adata, batch_key=KEYS)
    known = model.iwelbo(new.test, n_particles=3, progress=False)
    assert np.isfinite(known["iwelbo"]).all()
    own = adata.obs.loc[new.test.cells, KEYS].to_numpy()
    expected = [[name in row for name in ("one", "two", "d1", "d2", "d3")] for row in own]
    np.testing.assert_array_equal(model.loader(new.test).screen.covariates, expected)


def test_levels_that_are_not_known_are_named(model: samsvae.SAMSVAE) -> None:
    adata = two_columns()
    adata.obs["donor"] = "d9"
    with pytest.raises(InputError, match=r"never seen in training: 'd9'; .* 'd1', 'd2', 'd3'"):
        model.iwelbo(read(adata, batch_key=KEYS).test)
    with pytest.raises(InputError, match=r"with batches \(2 columns, not 1\): give batch_key"):
        model.iwelbo(read(two_columns(), batch_key="batch").test)
    with pytest.raises(InputError, match="trained with batches: give batch_key"):
        model.iwelbo(read(two_columns()).test)


def test_saved_and_loaded(model: samsvae.SAMSVAE, tmp_path) -> None:
    model.save(tmp_path)
    loaded = samsvae.load(tmp_path)
    assert loaded.registry == model.registry
    test = read(two_columns(), batch_key=KEYS).test
    ours, theirs = (one.iwelbo(test, n_particles=3, progress=False) for one in (model, loaded))
    np.testing.assert_array_equal(ours["iwelbo"], theirs["iwelbo"])


def test_written_columns_are_read_again() -> None:
    screen = read(two_columns(), batch_key=KEYS)
    adata = screen.to_anndata()
    again = read(adata, batch_key=["batch", "batch_2"])
    assert again.digest == screen.digest
