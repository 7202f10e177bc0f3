"""Models away from where they start, and stand-ins for models."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from samsvae import SAMSVAE, Screen
from samsvae.data.loader import Loader
from samsvae.estimators.base import Estimator
from samsvae.inference.simulation import replicated_cells
from samsvae.model.vae import PerturbationVAE

TINY: dict[str, Any] = {"n_latent": 4, "n_hidden": 6}
Kind = type[Estimator]


def shaken(kind: Kind, screen: Screen, *, seed: int = 0, **options: Any) -> Estimator:
    """Return a model away from where its parameters start, taken as trained."""
    narrow: dict[str, Any] = {"n_hidden_embedding": 6} if kind is SAMSVAE else {}
    model = kind(screen, **TINY, **narrow, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.is_trained = True
    return model


def replicated(model: PerturbationVAE, loader: Loader, generator: torch.Generator) -> sp.csr_matrix:
    """Return new cells in the place of given ones, all at once."""
    return sp.vstack([drawn for _, drawn in replicated_cells(model, loader, generator)], "csr")


@dataclass
class Stub:
    """What is asked of a model, with answers that are given."""

    probabilities: pd.DataFrame
    table: pd.DataFrame
    """Effects on "normalized" by condition, or embeddings."""
    is_trained: bool = True
    scale: str = "normalized"
    embedding: pd.DataFrame | None = None
    """Embeddings, where they are not the table."""

    def __post_init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.metadata = SimpleNamespace(
            conditions=("control", *self.table.index),
            registry=SimpleNamespace(genes=tuple(self.table.columns)),
        )

    def mask_probabilities(self) -> pd.DataFrame:
        return self.probabilities

    def embeddings(self) -> pd.DataFrame:
        return self.table if self.embedding is None else self.embedding

    def effects(self, conditions: list[str] | None = None, **settings: Any) -> AnnData:
        self.asked.append(settings)
        names = list(self.table.index if conditions is None else conditions)
        stored = ["+".join(sorted(name.split("+"))) for name in names]
        values = self.table.reindex(stored).fillna(0.0).to_numpy()
        obs = pd.DataFrame({"condition": stored}, index=names)
        var = pd.DataFrame(index=list(self.table.columns))
        return AnnData(values, obs=obs, var=var, uns={"scale": self.scale})
