"""What a model starts from: the scale of its input, and the shares of genes."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.screen import Screen


def input_statistics(
    screen: Screen, *, log1p: bool, unobserved: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (n - 1) of the encoder's input, `gene` each.

    With `unobserved`, the rest of the library is one more column; a constant gene gets scale 1.
    """
    n, width = len(screen), len(screen.genes) + unobserved
    total, square = np.zeros((2, width))
    for rows, block in screen.blocks():
        values = block.astype(np.float64)
        if unobserved:
            values = sp.hstack([values, _rest(screen)[rows, None]], "csr")
        if log1p:
            values = values.log1p()
        total += np.asarray(values.sum(0)).ravel()
        square += np.asarray(values.multiply(values).sum(0)).ravel()
    mean = total / n
    variance = np.maximum(square - n * mean**2, 0) / max(1, n - 1)
    scale = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()


def library_shares(screen: Screen) -> Tensor:
    """Return the share of each gene, and of the rest, in the library sizes, `gene + 1`, never 0."""
    counted = np.zeros(len(screen.genes))
    for _, block in screen.blocks():
        counted += np.asarray(block.sum(0), np.float64).ravel()
    total = np.append(counted, _rest(screen).sum()) + 1
    return torch.from_numpy(total / total.sum())


def _rest(screen: Screen) -> np.ndarray:
    """Return the counts of library sizes that are not of the screen's genes, `cell`."""
    return np.maximum(screen.library_size - screen.counted, 0)
