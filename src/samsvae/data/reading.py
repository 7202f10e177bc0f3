"""Screens from files, by the name that scverse packages give it."""

from __future__ import annotations

import os
from typing import Any

from samsvae.data.screen import Screen
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.screen import ScreenSettings


@checked
@takes(ScreenSettings)
def read_h5ad(path: str | os.PathLike[str], **settings: Any) -> Screen:
    """Read a screen from an h5ad file: `Screen.open`, which reads other kinds, too.

    Parameters
    ----------
    path
        The file.
    **settings
        As in `Screen.from_anndata`.
    """
    return Screen.open(path, **settings)
