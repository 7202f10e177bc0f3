"""The training cells of a screen, and the statistics of their counts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.data.screen import Screen
from samsvae.errors import InputError


def training_cells(screen: Screen) -> Screen:
    """Return a screen's training cells.

    Raises
    ------
    InputError
        If there are none, or no control cells or no perturbed cells among them.
    """
    train = screen.train
    if not len(train):
        raise InputError("the split leaves no training cells")
    if not train.is_control.any():
        raise InputError(
            "no control cells in training: expected cells labelled "
            f"{screen.vocabulary.notation.control!r} whose split is 'train'"
        )
    if train.is_control.all():
        raise InputError("no perturbed cells in training: all of them are controls")
    return train


def input_statistics(
    screen: Screen, *, log1p: bool, unobserved: bool = False
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (n - 1) of the encoder's input, `gene` each.

    With `unobserved` those of the rest of the library sizes follow. A gene of zero variance gets
    scale 1.
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
    """Return the share of each gene, and of what is not among them, in the library sizes.

    `gene + 1`, sums to 1. Each of them gets one count more: none is 0.
    """
    counted = np.zeros(len(screen.genes))
    for _, block in screen.blocks():
        counted += np.asarray(block.sum(0), np.float64).ravel()
    total = np.append(counted, _rest(screen).sum()) + 1
    return torch.from_numpy(total / total.sum())


def _rest(screen: Screen) -> np.ndarray:
    """Return what library sizes count besides the screen's genes, `cell`."""
    return np.maximum(screen.library_size - screen.counted, 0)
