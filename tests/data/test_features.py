"""Features of perturbations: every kind of table gives the same kernel, and bad ones an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from samsvae import features
from samsvae.errors import InputError

NAMES = ["A", "B", "C", "D"]
VALUES = np.random.default_rng(0).normal(size=(4, 6))


def kernel(known: features.Features, names: list[str] = NAMES) -> np.ndarray:
    (factor,) = known.factors(names, [])
    return factor @ factor.T


def frame() -> pd.DataFrame:
    return pd.DataFrame(VALUES, index=pd.Index(NAMES, name="gene"), columns=list("uvwxyz"))


def test_every_kind_of_table_gives_the_same_kernel(tmp_path: Path) -> None:
    table = frame()
    table.reset_index().to_csv(tmp_path / "f.csv", index=False)
    table.reset_index().to_csv(tmp_path / "f.tsv", index=False, sep="\t")
    table.reset_index().to_parquet(tmp_path / "f.parquet")
    np.savez(tmp_path / "f.npz", names=np.array(NAMES), embeddings=VALUES)
    np.savez(tmp_path / "g.npz", **dict(zip(NAMES, VALUES, strict=True)))
    adata = AnnData(VALUES, obs=pd.DataFrame(index=NAMES))
    adata.write_h5ad(tmp_path / "f.h5ad")
    files: list[Any] = [tmp_path / f"f.{kind}" for kind in ("csv", "tsv", "parquet", "npz", "h5ad")]
    expected = kernel(features.read(table))
    np.testing.assert_allclose(np.diag(expected), 1)
    vectors = dict(zip(NAMES, VALUES, strict=True))
    for given in (*files, tmp_path / "g.npz", adata, vectors):
        np.testing.assert_allclose(kernel(features.read(given)), expected, atol=1e-6)


def test_gene_sets_give_the_cosine_in_which_small_sets_count_more(tmp_path: Path) -> None:
    (tmp_path / "sets.gmt").write_text("one\t\tA\tB\nbig\t\tA\tC\tD\tE\n")
    known = features.read(tmp_path / "sets.gmt")
    assert known.names == ("sets",)
    small, large = 1 / np.sqrt(2), 1 / 2
    a = np.array([small, large]) / np.hypot(small, large)
    found = kernel(known, ["A", "B", "C", "unknown"])
    expected = np.array([a, [1, 0], [0, 1], [0, 0]])
    np.testing.assert_allclose(found, expected @ expected.T, atol=1e-9)


def test_many_perturbations_keep_the_kernel_between_measured_ones_and_others() -> None:
    rng = np.random.default_rng(0)
    sets = sp.random(2000, 300, density=0.02, random_state=0, format="csr")
    names = [f"g{i}" for i in range(2000)]
    known = features.read(AnnData(sets, obs=pd.DataFrame(index=names)))
    measured, others = names[:100], names[100:]
    (factor,) = known.factors(measured, others)
    assert (np.square(factor).sum(1) < 1 + 1e-5).all()
    rows = known.sources[0].values
    some = rng.choice(1900, 50)
    expected = (rows[:100] @ rows[100 + some].T).toarray()
    np.testing.assert_allclose(factor[:100] @ factor[100 + some].T, expected, atol=1e-5)


def test_expression_profiles_find_genes_that_go_together() -> None:
    rng = np.random.default_rng(0)
    level = rng.gamma(2, 1, size=(400, 2))
    counts = rng.poisson(np.repeat(level, 5, axis=1) * 5)
    obs = pd.DataFrame(
        {"perturbation": ["control"] * 390 + ["g0"] * 10}, index=[f"c{i}" for i in range(400)]
    )
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)
    adata.var_names = [f"g{i}" for i in range(10)]
    screen = samsvae.Screen.from_anndata(adata)
    known = features.expression_profile(screen)
    found = kernel(known, ["g0", "g1", "g7"])
    assert found[0, 1] > 0.5 > 0 > found[0, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"A": [1.0, 2.0], "B": [1.0]}, "vectors of one length"),
        (pd.DataFrame({"x": ["a", "b"]}, index=["A", "B"]), "hold no numbers"),
        (pd.DataFrame({"x": [1.0, np.nan]}, index=["A", "B"]), "not finite"),
        (pd.DataFrame({"x": [1.0, 2.0]}, index=["A", "A"]), "more than once"),
        ("nowhere.gmt", "there is no file"),
        ("features.txt", "no table of features"),
    ],
)
def test_bad_features_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.read(given)


def test_nothing_or_one_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match="no features"):
        features.read()
    with pytest.raises(InputError, match="by keywords"):
        features.read(frame(), frame())
