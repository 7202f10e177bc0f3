"""Fold changes without counts of other cells: ambient RNA, doublets, wrong labels.

Where a share a of the counts of each condition are of cells drawn from the whole screen, with
R the ratio of a gene's share to control's, and P that of the whole screen, the ratio of the
condition's own cells is (R - a P) / (1 - a P). Without it, effects are too small. Doublets of a
share d of the cells have a = d / (1 + d); ambient RNA of a share a of all counts, and wrong labels
of a share a of all cells, have a itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samsvae.data.fold_changes import fold_changes
from samsvae.data.screen import Screen

_LEAST = 0.25
"""Least share of a ratio that is left: of a gene whose counts contamination explains, nothing is
known but that it falls a lot."""


@dataclass(frozen=True)
class Contamination:
    """Counts of other cells in each condition."""

    share: float
    """a."""
    of_screen: np.ndarray
    """P, `gene`: the ratio of the whole screen's share to that of control cells."""

    @classmethod
    def of(cls, screen: Screen, share: float) -> Contamination | None:
        """Return a share of contamination by all cells of a screen; None for no share."""
        if not share:
            return None
        everyone, control = np.zeros(len(screen), int), np.asarray(screen.is_control)
        return cls(share, 2 ** fold_changes(screen, everyone, control, 1).difference[0])

    def removed(self, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log2 fold changes of the cells' own counts, and how much errors grow.

        `difference` is relative to the library, `condition gene`.

        >>> halved = Contamination(0.1, np.ones(1))
        >>> difference, growth = halved.removed(np.log2([[0.55]]))
        >>> (2**difference).round(3), growth.round(2)
        (array([[0.5]]), array([[1.22]]))
        """
        foreign = self.share * self.of_screen
        ratio = 2**difference
        own = np.maximum(ratio - foreign, _LEAST * ratio)
        of_control = np.maximum(1 - foreign, _LEAST)
        return np.log2(own / of_control), ratio / own
