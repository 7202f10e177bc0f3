"""Screens from h5ad files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata as ad

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.signature import takes


@takes(Screen.from_anndata)
def read_h5ad(path: str | os.PathLike[str], **keys: Any) -> Screen:
    """Read a screen from an h5ad file, without ever holding its whole matrix as floats.

    Parameters
    ----------
    path
        The file.
    **keys
        As in `Screen.from_anndata`.

    Raises
    ------
    InputError
        If there is no such file, it is not h5ad or is truncated, or its content cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected an h5ad file")
    try:
        adata = ad.read_h5ad(path, backed="r")
    except Exception as error:  # many kinds, for a file that is not what it should be
        raise _unreadable(path, error) from error
    try:
        return Screen.from_anndata(adata, **keys)
    except OSError as error:  # the counts are read only now
        raise _unreadable(path, error) from error
    finally:
        adata.file.close()


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{str(path)!r} cannot be read as h5ad (is it whole, and was it written by anndata?): "
        f"{reason}"
    )
