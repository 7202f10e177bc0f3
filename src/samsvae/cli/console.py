"""Where the command line prints, and says what it wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from samsvae.errors import shown

if TYPE_CHECKING:
    import pandas as pd

console = Console(markup=False, emoji=False)  # a name may hold brackets, or be like HLA:b:27


def say(text: str) -> None:
    """Print lines as they are, but for what would steer the terminal."""
    lines = (shown(line, most=1000) for line in text.split("\n"))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)  # commands can be copied


def write_rows(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables one after the other, and say how many rows they have."""
    from samsvae.storage.tables import write_table  # pandas, which --help does without

    say(f"{write_table(path, tables):,} rows written to {path}")
