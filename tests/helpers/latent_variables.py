"""Masks, embeddings and encoders of a few perturbations and cells, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.documented import DOCUMENTED_MASKS
from helpers.tensors import normal, seeded
from samsvae.model.embedding import Embedding, FreeEmbedding, MaskedEmbedding, PointEmbedding
from samsvae.model.encoder import Encoder
from samsvae.model.mask import MASKS, FullMask, Mask, MaskPrior
from samsvae.types import Batch, Dosage, Draw

N_PERTURBATIONS, N_LATENT, N_CELLS, N_GENES, N_COVARIATES = 4, 3, 5, 6, 2
SIZE = (N_PERTURBATIONS, N_LATENT)
EVERY, CELLS = torch.arange(N_PERTURBATIONS), torch.arange(N_CELLS)
PRIOR = MaskPrior(prob=0.2, a=0.7, b=3.0)
SCALE = 0.6
Module = TypeVar("Module", bound=nn.Module)


def shaken(module: Module) -> Module:
    """Return a module in float64 with parameters that are nowhere special."""
    module.double()
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))
    return module


def make_mask(kind: type[Mask]) -> Mask:
    return shaken(FullMask(*SIZE) if kind is FullMask else kind(*SIZE, PRIOR))


EMBEDDINGS: dict[type[Embedding], Callable[[], Embedding]] = {
    FreeEmbedding: lambda: FreeEmbedding(*SIZE, scale=SCALE),
    MaskedEmbedding: lambda: MaskedEmbedding(*SIZE, scale=SCALE, width=7, n_layers=3),
    PointEmbedding: lambda: PointEmbedding(*SIZE),
}


def make_encoder(kind: type[Encoder], n_context: int, *, log1p: bool = True) -> Encoder:
    widths = (N_GENES, N_COVARIATES, N_LATENT)
    encoder = shaken(kind(*widths, n_context=n_context, width=7, n_layers=2, log1p=log1p))
    encoder.standardise_with(normal(N_GENES), normal(N_GENES, seed=1).exp())
    return encoder


MASK = (normal(*SIZE) > 0).double()
CONTEXT = normal(1, N_CELLS, N_LATENT, seed=2)
COUNTS = torch.poisson(normal(N_CELLS, N_GENES).exp() * 3, generator=seeded(0))
COVARIATES = torch.eye(N_COVARIATES, dtype=torch.float64)[CELLS % N_COVARIATES]


def batch_of(rows: Tensor) -> Batch:
    nothing = torch.zeros(len(rows), 0)
    dosage = Dosage(torch.arange(0), nothing.long(), nothing.double())
    counts = COUNTS[rows]
    return Batch(counts, counts.sum(1), COVARIATES[rows], dosage, nothing[0])


EVERY_MASK: list[type[Mask]] = [*MASKS, FullMask, *DOCUMENTED_MASKS]


def gradients(draw: Draw, module: nn.Module) -> tuple[Tensor, ...]:
    """Return those of a sum of everything drawn, by parameter."""
    total = (draw.value * normal(*draw.value.shape)).sum() + draw.log_ratio.sum()
    parameters = list(module.parameters())
    return torch.autograd.grad(total, parameters) if parameters else ()


def array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().numpy()
