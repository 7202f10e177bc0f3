"""What a step takes: which cells, and where their batch is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.data.source import PrefetchedSource, StoredCounts
from samsvae.model.vae import PerturbationVAE
from samsvae.train.order import BlockOrder, EpochOrder
from samsvae.train.processes import Processes
from samsvae.train.step import draw_noise
from samsvae.types import Batch, ShiftNoise


def order_of(loader: Loader, seed: int) -> EpochOrder:
    """Return the order in which steps take cells: by blocks, where they are in a file."""
    kind = EpochOrder if loader.screen.is_in_memory else BlockOrder
    return kind(len(loader.screen), seed)


@contextmanager
def batches_from(
    loader: Loader, order: EpochOrder, step: int, batch_size: int, part: slice = slice(None)
) -> Iterator[Callable[[Tensor], Batch]]:
    """Give what makes the batches of the steps from one on, given their cells.

    From data on the device, where that is not the host; from a file, which is read ahead. Of the
    cells of each step only a part is asked for.
    """
    counts = loader.screen.counts
    if isinstance(counts, StoredCounts):
        assert isinstance(order, BlockOrder)
        with closing(PrefetchedSource(counts, order.windows(step, batch_size, part))) as source:
            yield lambda rows: loader.batch(rows.cpu().numpy(), source)
    elif loader.device.type == "cpu":
        yield lambda rows: loader.batch(rows.numpy())
    else:
        yield loader.resident().batch


def noise_of_part(
    model: PerturbationVAE,
    loader: Loader,
    rows: Tensor,
    batch: Batch,
    n_particles: int,
    generator: torch.Generator,
    processes: Processes,
) -> tuple[ShiftNoise, Tensor]:
    """Draw the noise of some cells, and return that of this process's part of them.

    Parameters
    ----------
    model
        That the noise is for.
    loader
        Of the cells.
    rows
        All of them, by position.
    batch
        This process's part.
    n_particles
        Draws.
    generator
        In the same state in all processes.
    processes
        That each take a part.
    """
    if processes.size == 1:
        return draw_noise(model, batch, n_particles, generator)
    columns = loader.columns_of(rows.cpu().numpy())
    shifts = model.mechanism.noise(columns, n_particles, generator)
    basal = model.encoder.noise(len(rows), n_particles, generator)
    place = torch.searchsorted(columns, batch.dosage.columns).clamp(max=len(columns) - 1)
    part = ShiftNoise(*(noise.index_select(1, place) for noise in shifts))
    return part, basal[:, processes.part]
