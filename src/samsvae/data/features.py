"""Features of perturbations: what is known of a gene or a drug without perturbing it.

Gene sets, embeddings, its expression in control cells: any table perturbations x features, several
at once. Of each source rows have length 1 (or 0, without features), so that products of rows are
the kernel of `samsvae.inference.kernel_prior`, with ones on its diagonal.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.expression import training_cells
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_unique, first_line, got, listed
from samsvae.settings.arguments import check
from samsvae.storage.files import expanded, read_text
from samsvae.storage.tables import read_csv

SUFFIXES = (".gmt", ".csv", ".tsv", ".parquet", ".npz", ".h5ad")
_MOST = 256
"""Most dimensions that are kept of the features of measured perturbations, and of others."""
_EXACT = 1500
"""Perturbations up to which they are those of an exact decomposition."""
_ROUNDING = 1e-10
"""Share of the largest variance below which a dimension is none."""
_MIN_COUNTS = 50
"""Counts of a gene in control cells from which its correlations tell something."""

Table: TypeAlias = np.ndarray | sp.csr_matrix


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """One table of features."""

    name: str
    perturbations: tuple[str, ...]
    values: Table
    """`perturbation feature`: rows of length 1; 0 for one without features."""

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.perturbations)}

    def rows(self, names: Sequence[str]) -> Table:
        """Return the features of some perturbations, `perturbation feature`; 0 where unknown."""
        place = np.array([self._row.get(name, -1) for name in names], int)
        rows = self.values[np.maximum(place, 0)] if len(self.perturbations) else self.values[:0]
        known = (place >= 0).astype(float)
        return sp.diags(known) @ rows if sp.issparse(rows) else rows * known[:, None]


@dataclass(frozen=True)
class Features:
    """Tables of features, one or several, as `samsvae.features.read` returns them."""

    sources: tuple[FeatureSource, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(source.name for source in self.sources)

    @cached_property
    def perturbations(self) -> tuple[str, ...]:
        """All perturbations that a source has features of."""
        known = (
            np.array(source.perturbations, object)[_norms(source.values) > 0]
            for source in self.sources
        )
        return tuple(dict.fromkeys(str(name) for names in known for name in names))

    def __repr__(self) -> str:
        sizes = (
            f"{s.name!r}: {len(s.perturbations):,} x {s.values.shape[1]:,}" for s in self.sources
        )
        return f"Features({', '.join(sizes)})"

    def factors(self, measured: Sequence[str], others: Sequence[str]) -> list[np.ndarray]:
        """Return F of each source, `perturbation rank`: F F' is its kernel, or close to it.

        Rows are those of the measured perturbations, then of the others. Kernels are exact for
        1,500 perturbations together; of more, 256 dimensions of the measured ones are kept, and
        64 of what is left of the others.
        """
        return [_factor(s.rows(measured), s.rows(others)) for s in self.sources]


FeatureInput: TypeAlias = (
    Features | pd.DataFrame | AnnData | Mapping[str, Any] | str | os.PathLike[str]
)
"""What features are read from, see `samsvae.features.read`."""


def read(*sources: FeatureInput, **named: FeatureInput) -> Features:
    """Return features of perturbations from tables and files.

    Perturbations are matched by name, which is that of the target, as a screen has it.

    Parameters
    ----------
    *sources, **named
        Each a DataFrame (perturbations x features), an AnnData (`X`, with perturbations as
        observations), gene sets by name, or a file: `.gmt` (name, description, genes), `.csv`,
        `.tsv` or `.parquet` (perturbations in the first column), `.npz` (an array of `names` and
        one of `features`, or a vector by name), `.h5ad`. Keywords name sources; a file has the name
        of its stem.

    Returns
    -------
    The features. Members of gene sets count the more the smaller the set (as 1 / size of the
    square of a row); numbers are standardised by column.

    Raises
    ------
    InputError
        If a file cannot be read, a perturbation occurs twice, or values are not finite numbers.

    Examples
    --------
    >>> sets = {"interferon": ["STAT1", "JAK2"], "cell cycle": ["CDK1", "MYC", "JAK2"]}
    >>> known = samsvae.features.read(sets=sets)
    >>> known.perturbations, known.names
    (('CDK1', 'JAK2', 'MYC', 'STAT1'), ('sets',))
    """
    for one in (*sources, *named.values()):
        check("a source of features", one, FeatureInput)
    found = [source for one in sources for source in _sources(None, one)]
    found += [source for name, one in named.items() for source in _sources(name, one)]
    if not found:
        raise InputError("no features: expected a table, gene sets or a file of them")
    check_unique([s.name for s in found], "sources of features", "name them by keywords")
    return Features(tuple(found))


def expression_profile(screen: Screen, *, name: str = "control expression") -> Features:
    """Return features of genes that control cells have: their expression goes with that of others.

    Of each gene of the screen with at least 50 counts in control training cells (all cells without
    a split): its correlations with the others, of log1p of counts per 10,000. A perturbation is
    matched by the name of its target; targets that are not measured have no features.

    Examples
    --------
    >>> samsvae.features.expression_profile(screen).names
    ('control expression',)
    """
    cells = screen if screen.split is None else training_cells(screen)
    control = cells[np.flatnonzero(cells.is_control)]
    if len(control) < 3:
        raise InputError(f"there are {len(control)} control cells: expected three or more")
    size = np.maximum(control.counted, 1)
    n_genes = len(screen.genes)
    total, square, counts = np.zeros(n_genes), np.zeros((n_genes, n_genes)), np.zeros(n_genes)
    for rows, block in control.blocks():
        values = (sp.diags(1e4 / size[rows]) @ block).log1p().tocsr()
        total += np.asarray(values.sum(0)).ravel()
        square += np.asarray((values.T @ values).todense())
        counts += np.asarray(block.sum(0)).ravel()
    covariance = square / len(control) - np.outer(total, total) / len(control) ** 2
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    told = np.flatnonzero((counts >= _MIN_COUNTS) & (sd > 1e-5))
    correlation = (covariance / np.outer(sd, sd))[np.ix_(told, told)]
    np.fill_diagonal(correlation, 0)
    names = [screen.genes[i] for i in told]
    return Features((FeatureSource(name, tuple(names), _unit(_standardised(correlation))),))


def _sources(name: str | None, given: FeatureInput) -> Iterator[FeatureSource]:
    """Yield the sources that something given holds."""
    if isinstance(given, Features):
        yield from given.sources
    elif isinstance(given, pd.DataFrame):
        yield _of_frame(name or "features", given)
    elif isinstance(given, AnnData):
        yield _of_matrix(name or "features", list(map(str, given.obs_names)), given.X)
    elif isinstance(given, Mapping):
        yield _of_mapping(name or "features", given)
    else:
        path = expanded(given)
        yield from _of_file(name or path.stem, path)


def _of_file(name: str, path: Path) -> Iterator[FeatureSource]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r} is no table of features: expected {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    try:
        if suffix == ".gmt":
            yield _of_sets(name, _gene_sets(path))
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                yield _of_mapping(name, dict(arrays))
        elif suffix == ".h5ad":
            yield from _sources(name, anndata.read_h5ad(path))
        else:
            if suffix == ".parquet":
                frame = pd.read_parquet(path)
            elif suffix == ".csv":
                frame = read_csv(path)
            else:
                frame = pd.read_csv(path, sep="\t")
            if not pd.api.types.is_numeric_dtype(frame.iloc[:, 0]):
                frame = frame.set_index(frame.columns[0])
            yield _of_frame(name, frame)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {first_line(error)}") from error


def _gene_sets(path: Path) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    short = [row[0] for row in rows if len(row) < 2]
    if short or not rows:
        raise InputError(f"expected name, description and genes, by tabs; got {listed(short[:1])}")
    return {f"{row[0]} {i}": [gene for gene in row[2:] if gene] for i, row in enumerate(rows)}


def _of_mapping(name: str, given: Mapping[str, Any]) -> FeatureSource:
    """Return a source from sets of names, from an array of names and a matrix, or from vectors."""
    values = {key: np.asarray(value) for key, value in given.items()}
    texts = [key for key, value in values.items() if value.ndim == 1 and value.dtype.kind in "UOS"]
    matrices = [key for key, value in values.items() if value.ndim == 2]
    if len(texts) == len(matrices) == 1 and len(values) == 2:
        names = [str(value) for value in values[texts[0]]]
        return _of_matrix(name, names, values[matrices[0]])
    if len(texts) == len(values) and values:
        return _of_sets(name, {key: list(map(str, value)) for key, value in values.items()})
    widths = {value.shape for value in values.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise InputError(
            f"{name!r} holds {listed(values, 3)}: expected sets of names, vectors of one length by "
            "name, or an array of names and one of features"
        )
    return _of_matrix(name, list(values), np.stack(list(values.values())))


def _of_sets(name: str, sets: Mapping[str, Collection[str]]) -> FeatureSource:
    members = {key: set(map(str, genes)) for key, genes in sets.items()}
    genes = sorted(set().union(*members.values())) if members else []
    place = {gene: i for i, gene in enumerate(genes)}
    column = np.repeat(np.arange(len(members)), [len(some) for some in members.values()])
    row = np.array([place[gene] for some in members.values() for gene in sorted(some)], int)
    size = np.maximum(np.bincount(column, minlength=len(members)), 1)
    values = sp.csr_matrix((size[column] ** -0.5, (row, column)), (len(genes), len(members)))
    return FeatureSource(name, tuple(genes), _unit(values))


def _of_frame(name: str, frame: pd.DataFrame) -> FeatureSource:
    strange = [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]
    if strange:
        raise InputError(f"the columns {listed(strange, 3)} of {name!r} hold no numbers")
    return _of_matrix(name, list(map(str, frame.index)), frame.to_numpy(float))


def _of_matrix(name: str, names: Sequence[str], values: Any) -> FeatureSource:
    matrix = sp.csr_matrix(values) if sp.issparse(values) else np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub" or len(names) != matrix.shape[0]:
        raise InputError(
            f"the features of {name!r} are {got(values)} of {matrix.dtype}, "
            f"{' x '.join(map(str, matrix.shape))}, for {len(names):,} names: expected numbers, a "
            "row for each name"
        )
    check_unique(list(names), f"perturbations of {name!r}", "expected one row for each")
    if not np.isfinite(matrix.data if sp.issparse(matrix) else matrix).all():
        raise InputError(f"the features of {name!r} hold values that are not finite: fill them")
    return FeatureSource(name, tuple(names), _unit(_standardised(matrix.astype(float))))


def _standardised(values: Table) -> Table:
    """Return columns of mean 0 and variance 1; sparse ones of mean square 1, 0 left as it is."""
    if _is_sparse(values):
        square = np.asarray(values.multiply(values).mean(0)).ravel()
        return (values @ sp.diags(1 / np.sqrt(np.where(square > 0, square, 1)))).tocsr()
    sd = values.std(0)
    standardised: np.ndarray = (values - values.mean(0)) / np.where(sd > 1e-12, sd, 1)
    return standardised


def _is_sparse(values: Table) -> TypeGuard[sp.csr_matrix]:
    return bool(sp.issparse(values))


def _norms(values: Table) -> np.ndarray:
    square = values.multiply(values).sum(1) if _is_sparse(values) else np.square(values).sum(1)
    return np.sqrt(np.asarray(square, float).ravel())


def _unit(values: Table) -> Table:
    """Return rows of length 1; rows of 0 as they are."""
    norm = _norms(values)
    scale = 1 / np.where(norm > 0, norm, 1)
    return (sp.diags(scale) @ values).tocsr() if sp.issparse(values) else values * scale[:, None]


def _factor(measured: Table, others: Table) -> np.ndarray:
    """Return F, `perturbation rank`, of measured perturbations and others."""
    n = measured.shape[0] + others.shape[0]
    stack = sp.vstack([measured, others], "csr") if sp.issparse(measured) else None
    both = np.concatenate([measured, others]) if stack is None else stack
    if n <= _EXACT:
        product = both @ both.T
        square, vectors = np.linalg.eigh(product if stack is None else product.toarray())
        kept = square > _ROUNDING * max(float(square[-1]), 1e-300) if n else np.zeros(0, bool)
        exact: np.ndarray = vectors[:, kept] * np.sqrt(square[kept])
        return exact
    first = _axes(measured)
    own = np.asarray(both @ first)
    rest = np.asarray(others @ first) if others.shape[0] else np.zeros((0, first.shape[1]))
    left = _axes(others, less=(rest, first)) if others.shape[0] else np.zeros((both.shape[1], 0))
    return np.concatenate([own, np.asarray(both @ left)], 1).astype(np.float32).astype(float)


def _axes(values: Table, less: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Return the main axes of rows, `feature axis`, orthonormal; of what other axes leave."""
    n_rows, n_features = values.shape
    rank = min(_MOST if less is None else _MOST // 4, n_rows, n_features)
    if less is not None:
        rank = min(rank, n_features - less[1].shape[1])
    if rank <= 0:
        return np.zeros((n_features, 0))
    rng = np.random.default_rng(0)

    def times(x: np.ndarray) -> np.ndarray:
        y = np.asarray(values @ x)
        return y if less is None else y - less[0] @ (less[1].T @ x)

    def transposed(y: np.ndarray) -> np.ndarray:
        x = np.asarray(values.T @ y)
        return x if less is None else x - less[1] @ (less[0].T @ y)

    # Randomised subspace iteration, Halko et al., SIAM Review 2011, algorithm 4.4.
    basis, _ = np.linalg.qr(transposed(rng.normal(size=(n_rows, rank))))
    for _ in range(3):
        basis, _ = np.linalg.qr(transposed(times(basis)))
    return basis


def unmatched(features: Features, names: Iterable[str]) -> list[str]:
    """Return which perturbations have no features."""
    known = set(features.perturbations)
    return [name for name in names if name not in known]
