"""The names that give a screen's columns their meaning."""

from __future__ import annotations

from dataclasses import dataclass, field

from samsvae.data.notation import Notation

SPLITS = ("train", "valid", "test")
UNUSED = "unused"
"""Split of cells that an experiment leaves out on purpose."""


@dataclass(frozen=True)
class Vocabulary:
    """The names that give a screen's columns their meaning; saved with every model."""

    genes: tuple[str, ...]
    perturbations: tuple[str, ...]
    batches: tuple[str, ...] = ()
    notation: Notation = field(default_factory=Notation)
    counts: bool = True
    """Whether the data are counts (or real values)."""
    own_library_size: bool = True
    """Whether a cell's library size is the sum of its counts of these genes."""

    def stored(self, condition: object) -> str:
        """Return a condition as it is stored: sorted."""
        return self.notation.write(self.notation.read(condition, self.perturbations))
