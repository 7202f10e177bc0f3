"""Screens from h5ad files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata as ad

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.takes import takes


@takes(ScreenSettings)
def read_h5ad(path: str | os.PathLike[str], **settings: Any) -> Screen:
    """Read a screen from an h5ad file, without ever holding its whole matrix as floats.

    Parameters
    ----------
    path
        The file.
    **settings
        As in `Screen.from_anndata`.

    Raises
    ------
    InputError
        If there is no such file, it is not h5ad or is truncated, or its content cannot be used.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> labels = ["control", "A", "B+A", "control"]
    >>> obs = pd.DataFrame({"perturbation": labels}, index=["c1", "c2", "c3", "c4"])
    >>> adata = AnnData(np.array([[1, 2], [3, 0], [2, 2], [0, 1]]), obs=obs)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adata.write_h5ad(f"{folder}/screen.h5ad")
    ...     screen = read_h5ad(f"{folder}/screen.h5ad")
    >>> len(screen), screen.perturbations
    (4, ('A', 'B'))
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected an h5ad file")
    try:
        adata = ad.read_h5ad(path, backed="r")
    except Exception as error:  # many kinds, for a file that is not what it should be
        raise _unreadable(path, error) from error
    try:
        return Screen.from_anndata(adata, **settings)
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
