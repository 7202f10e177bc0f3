"""Columns that a screen is made of, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from samsvae.data import labels
from samsvae.data.conditions import ConditionParser
from samsvae.data.files.anndata_files import Frame, Table
from samsvae.errors import InputError, listed, note, unknown
from samsvae.settings.conventions import CONVENTIONS


def genes(table: Table) -> tuple[str, ...]:
    """Return the names of the genes, refusing empty data and repeated names."""
    n_cells, n_genes = len(table.cells.names), len(table.genes.names)
    if n_cells == 0 or n_genes == 0:
        raise InputError(f"the data have {n_cells} cells and {n_genes} genes")
    names = pd.Index(table.genes.names.astype(str))
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise InputError(
            f"{len(twice)} gene names occur more than once, {listed(twice, 3)}: "
            "make them unique, say with adata.var_names_make_unique()"
        )
    return tuple(names)


def symbols(table: Table, key: str | Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the symbol of each gene, its name where it has none; empty without a key."""
    if key is None:
        return ()
    names = table.genes.names.astype(str)
    if isinstance(key, Mapping):
        known = pd.Series([key.get(name) for name in names], dtype=object)
        if known.isna().all():
            raise InputError(
                f"gene_key names none of the {len(names)} genes, such as {listed(names, 3)}: "
                "expected a mapping from their names to symbols"
            )
    else:
        known = pd.Series(_column(table.genes, key, "gene symbols in adata.var").to_numpy(object))
    return tuple(map(str, known.where(known.notna(), names).to_numpy()))


def note_symbols(table: Table, genes: Sequence[str], perturbations: Sequence[str]) -> None:
    """Tell which column of the genes holds perturbations, where their names do not."""
    if set(genes) & set(perturbations):
        return
    for key in table.genes.columns:
        values = table.genes.read(key)
        if values.dtype.kind not in "iufb" and set(values.astype(str)) & set(perturbations):
            note(
                f"perturbations are genes of var[{key!r}], not of var_names: gene_key={key!r} "
                "(--gene-key) finds their targets"
            )
            return


def column(table: Table, key: str, what: str) -> np.ndarray:
    """Return a column of obs as text, `cell`; None where it is missing."""
    values = _column(table.cells, key, f"the {what} in adata.obs")
    return labels.text_of(values, f"obs[{key!r}]", what)


def _column(frame: Frame, key: str, what: str) -> pd.Series:
    if key not in frame.columns:
        raise unknown(f"column for {what}:", key, list(frame.columns))
    return frame.read(key)


def fitting(table: Table) -> str | None:
    """Return the convention that the columns and labels show most signs of, if any."""
    shown = {}
    for name, layout in CONVENTIONS.items():
        key = layout.perturbation_key(table.cells.columns)
        if key in table.cells.columns:
            present = table.cells.read(key).dropna().astype(str).unique() if layout.marks else ()
            shown[name] = layout.fits(table.cells.columns, present)
    best = max(shown, key=lambda name: shown[name], default=None)
    return best if best is not None and shown[best] else None


def check_perturbation_key(table: Table, key: str) -> None:
    """Raise if there is no such column, with the convention whose columns there are."""
    if key not in table.cells.columns:
        missing = unknown(
            "column for the perturbation in adata.obs:", key, list(table.cells.columns)
        )
        raise InputError(f"{missing}{_convention_hint(table)}")


def has_control(table: Table, key: str, label: np.ndarray, parser: ConditionParser) -> bool:
    """Return whether there are control cells.

    Raises
    ------
    InputError
        If there are none, but labels that may be control, or the columns of a convention.
    """
    present = [str(name) for name in pd.unique(label)]
    if any(parser.is_control(part) for name in present for part in parser.split(name)):
        return any(not parser.parts(name) for name in present)
    missing = unknown(f"control label in obs[{key!r}]:", parser.control, sorted(present))
    alike = sorted(name for name in present if labels.looks_like_control(name))
    hint = _convention_hint(table)
    if alike and not hint:
        given = repr(alike[0]) if len(alike) == 1 else f"{alike[:3]}"
        hint = f"; {listed(alike)} may be control: give control={given} (--control, once for each)"
    if hint or "the nearest is" in str(missing):
        raise InputError(f"{missing}{hint}")
    return False


def _convention_hint(table: Table) -> str:
    fits = fitting(table)
    return "" if fits is None else f"; the columns look like convention={fits!r} (--convention)"


def conditions(
    parser: ConditionParser, label: np.ndarray, doses: np.ndarray | None
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Return the conditions, control first, and which of them each cell received."""
    given = doses is not None
    keyed: dict[tuple[str, object], str] = {}
    found: dict[str, dict[str, float]] = {parser.control: {}}
    names = []
    each = [None] * len(label) if doses is None else map(_hashable, doses)
    for key in zip(label, each, strict=True):
        if key not in keyed:
            condition = _condition(parser, *key, given=given)
            keyed[key] = parser.write(condition)
            found[keyed[key]] = condition
        names.append(keyed[key])
    order = [parser.control, *sorted(found.keys() - {parser.control})]
    position = {name: i for i, name in enumerate(order)}
    return [found[name] for name in order], np.array([position[n] for n in names], np.int32)


def doses(table: Table, key: str | None) -> np.ndarray | None:
    """Return a column of doses, `cell`; control cells need none, whatever stands there."""
    if key is None:
        return None
    return _column(table.cells, key, "the dosage in adata.obs").astype(object).to_numpy()


def _hashable(dose: object) -> object:
    """Return one value for all missing doses: nan does not equal itself."""
    return None if pd.isna(dose) else dose


def _condition(
    parser: ConditionParser, label: str, dose: object, *, given: bool
) -> dict[str, float]:
    if not given or not parser.condition(label):
        return parser.condition(label)
    if dose is None:
        raise InputError(f"a cell with the label {label!r} has no dosage")
    return parser.condition(label, parser.doses(dose))


def library_size(table: Table, key: str, counted: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return a column of total counts, none below what is `counted` of the cell in the file.

    Both are of the cells that are `kept`.
    """
    text = column(table, key, "library size")[kept]
    lacking = np.array([one is None for one in text], bool)
    if lacking.any():
        raise InputError(
            f"obs[{key!r}] lacks the library size of {int(lacking.sum())} of {len(text)} cells: "
            "fill it in, or leave those cells out"
        )
    size = pd.to_numeric(pd.Series(text), errors="coerce").to_numpy(np.float64)
    wrong = ~((size > 0) & (size <= 2.0**31))  # nan is neither
    if wrong.any():
        raise InputError(
            f"obs[{key!r}] is not a positive number of at most 2^31 for {int(wrong.sum())} cells, "
            f"{text[wrong][0]!r} for one: expected total counts"
        )
    below = size < counted * (1 - 1e-6)
    if below.any():
        raise InputError(
            f"obs[{key!r}] is below the cell's counts in the file for {int(below.sum())} cells, "
            f"{size[below][0]:g} against {counted[below][0]:g} for one: expected total counts, "
            "not size factors"
        )
    return size


def batches(columns: Sequence[np.ndarray]) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
    """Return the batches that occur, a level of each column, and that of each cell."""
    if not columns:
        return (), np.zeros(0, np.int32)
    levels = [np.unique(column.astype(str), return_inverse=True) for column in columns]
    code = np.stack([code for _, code in levels], 1)
    present, batch = np.unique(code, axis=0, return_inverse=True)
    names = [name for name, _ in levels]
    found = tuple(
        tuple(str(name[i]) for name, i in zip(names, row, strict=True)) for row in present
    )
    return found, batch.ravel().astype(np.int32)
