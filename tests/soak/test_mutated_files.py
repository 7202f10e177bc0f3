"""h5ad files that somebody changed: a line or the right answer; no crash, no hang, no harm."""

from __future__ import annotations

import hashlib
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.isolated import Outcome, outcome
from helpers.screens import make_adata
from samsvae.storage import probe

Times = Callable[[int, int], int]
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "dense": np.asarray,
}


@pytest.fixture(scope="module", params=list(KINDS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata: AnnData = make_adata(n_cells=60)
    adata.X = KINDS[request.param](adata.X)
    adata.layers["again"] = adata.X.copy()
    adata.obsm["X_pca"] = np.zeros((60, 2))
    path = tmp_path_factory.mktemp("files") / f"{request.param}.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def mutate(path: Path, rng: random.Random) -> str:
    """Change something in a file; return what."""
    if rng.random() < 0.35:
        return flip(path, rng)
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        kind = rng.choice(sorted(CHANGES))
        CHANGES[kind](file, name, rng)
    return f"{kind} of {name}"


def flip(path: Path, rng: random.Random) -> str:
    """Flip bytes, cut, or fill with zeros: as a bad disk or a broken download does."""
    content = bytearray(path.read_bytes())
    kind, place = rng.choice(["flip", "flips", "cut", "zeros"]), rng.randrange(len(content))
    if kind == "cut":
        content = content[:place]
    elif kind == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    else:
        for _ in range(1 if kind == "flip" else 40):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{kind} at {place}"


def _again(file: h5py.File, name: str, values: Any, **how: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values, **how).attrs.update(attributes)


def remove(file: h5py.File, name: str, rng: random.Random) -> None:
    del file[name]


def link(file: h5py.File, name: str, rng: random.Random) -> None:
    del file[name]
    file[name] = rng.choice(
        [
            h5py.SoftLink("/nowhere"),
            h5py.SoftLink(f"/{name}"),
            h5py.SoftLink("/"),
            h5py.ExternalLink("/etc/passwd", "/"),
            h5py.ExternalLink("nowhere.h5", "/X"),
        ]
    )


def attribute(file: h5py.File, name: str, rng: random.Random) -> None:
    strange = ["x", 5, [1, 2], "csc_matrix", "csr_matrix", "array", "dataframe", "", b"\xff"]
    names = list(file[name].attrs) or ["shape"]
    file[name].attrs[rng.choice(names)] = rng.choice(strange)


def declared(file: h5py.File, name: str, rng: random.Random) -> None:
    shape = rng.choice([(10**9,), (60, 10**9), (2**40,), (2**31, 12)])
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, shape, rng.choice(["f8", "i4"]), chunks=True).attrs.update(attributes)


def scalar(file: h5py.File, name: str, rng: random.Random) -> None:
    _again(file, name, rng.choice([3, 0.5, "text"]))


def compound(file: h5py.File, name: str, rng: random.Random) -> None:
    kind = rng.choice([np.dtype([("a", "i4"), ("b", "f8")]), np.dtype("S3"), np.dtype("c16")])
    _again(file, name, np.zeros(rng.choice([0, 12, 60, 61]), kind))


def value(file: h5py.File, name: str, rng: random.Random) -> None:
    node = file[name]
    if not isinstance(node, h5py.Dataset) or not node.shape or not node.size:
        return
    values = node[...]
    if values.dtype.kind not in "iuf":
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice([b"", b"\xff", b"z" * 9])
    else:
        wrong = rng.choice([-5, 300, 2**31 - 1, 10**9, 0.5, np.nan, np.inf, -0.5])
        with np.errstate(invalid="ignore"):
            values.reshape(-1)[rng.randrange(values.size)] = np.asarray(wrong).astype(values.dtype)
    _again(file, name, values)


def kind(file: h5py.File, name: str, rng: random.Random) -> None:
    node = file[name]
    if isinstance(node, h5py.Dataset) and node.dtype.kind in "iuf":
        _again(file, name, node[...].astype(rng.choice(["f8", "i1", "c8", "u8", "f2"])))


def cut(file: h5py.File, name: str, rng: random.Random) -> None:
    node = file[name]
    if isinstance(node, h5py.Dataset) and node.shape:
        _again(file, name, node[...][: -rng.choice([1, 5])])


def axis(file: h5py.File, name: str, rng: random.Random) -> None:
    node = file[name]
    if isinstance(node, h5py.Dataset) and node.shape:
        _again(file, name, node[...][None])


def emptied(file: h5py.File, name: str, rng: random.Random) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    group = file.create_group(name)
    if rng.random() < 0.5:
        group.attrs.update(attributes)


CHANGES: dict[str, Callable[[h5py.File, str, random.Random], None]] = {
    one.__name__: one
    for one in (
        *(remove, link, attribute, declared, scalar, compound, value, kind, cut, axis, emptied),
    )
}


def shown(path: Path, *, in_memory: bool) -> list[Any]:
    """Return what is read of a file, in short."""
    warnings.simplefilter("ignore")
    screen = samsvae.Screen.open(path, split_key="split", batch_key="batch", in_memory=in_memory)
    counts = screen.to_memory().counts.toarray()
    digest = hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest()
    return [len(screen), list(screen.genes), list(screen.condition_names), digest]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "disk"])
def test_a_changed_file_is_refused_or_right(
    whole: Path,
    in_memory: bool,
    tmp_path: Path,
    times: Times,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if whole.stem == "csc" and not in_memory:
        pytest.skip("cells of a matrix by columns are not left in the file")
    monkeypatch.setattr(probe, "SECONDS", 5.0)
    rng, n, path = random.Random(2 * seed + in_memory), times(200, 40), tmp_path / "file.h5ad"
    good = outcome(lambda: shown(whole, in_memory=in_memory))
    assert good.kind == "answer", good
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str, Outcome]] = []
    for i in range(n):
        shutil.copy(whole, path)
        what = mutate(path, rng)
        found = outcome(lambda: shown(path, in_memory=in_memory))
        counts[found.kind] += 1
        # A value that is another count, or another label, is not to be told from a right one.
        other = "value" in what or "flip" in what or "zeros" in what or "kind" in what
        if found.kind not in ("answer", "refused") or (
            found.kind == "answer" and not other and found.said[-1] != good.said[-1]
        ):
            wrong.append((i, what, found))
    print(dict(counts))  # make soak shows it
    assert not wrong, "\n".join(map(str, wrong)) + f"\n{counts}"
    assert counts["refused"] > n / 5
