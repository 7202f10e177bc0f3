"""What is asked of whatever predicts effects: models and baselines alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samsvae.data.conditions import Conditions
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen


class Predictor(Protocol):
    """Predicts what conditions do to cells.

    The settings of its answers are those of `samsvae.SAMSVAE`; what is of no account for a
    predictor it takes and leaves.
    """

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def is_trained(self) -> bool:
        """Whether it can be asked."""

    @property
    def registry(self) -> NameRegistry:
        """The names that it knows."""

    @property
    def remembered(self) -> pd.Index:
        """Names of the cells that it was made from, as far as it knows them."""

    @property
    def seen(self) -> tuple[str, ...]:
        """Conditions of the cells that it was made from, as they are stored."""

    def answers_for(self, condition: str) -> bool:
        """Whether it has an answer for a condition."""

    def effects(self, conditions: Conditions | None = None, **settings: Any) -> AnnData:
        """Return effects, conditions x genes, as `samsvae.SAMSVAE.effects` does.

        Where they depend on the library size, `uns["library_size"]` tells which it was.
        """

    def cells(
        self, conditions: Iterable[str], *, n_cells: int, seed: int
    ) -> Iterator[sp.csr_matrix | np.ndarray | None]:
        """Yield counts of at most so many cells under each condition, at observed library sizes.

        None: it predicts means alone. The very same object: the very same cells.
        """

    @property
    def has_likelihood(self) -> bool:
        """Whether `iwelbo` can be asked."""

    def iwelbo(
        self, screen: Screen, *, n_particles: int, seed: int, progress: bool
    ) -> pd.DataFrame:
        """Return the likelihood of cells, as `samsvae.SAMSVAE.iwelbo` does."""
