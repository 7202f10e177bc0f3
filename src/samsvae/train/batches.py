"""What a step takes: which cells, and where their batch is made."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.data.order import BlockOrder, EpochOrder
from samsvae.data.source import AheadSource
from samsvae.data.stored import StoredCounts
from samsvae.types import Batch


def order_of(loader: Loader, seed: int) -> EpochOrder:
    """Return the order in which steps take cells: by blocks, where they are in a file."""
    kind = EpochOrder if loader.screen.is_in_memory else BlockOrder
    return kind(len(loader.screen), seed)


def batches_from(
    loader: Loader, order: EpochOrder, step: int, batch_size: int
) -> Callable[[Tensor], Batch]:
    """Return what makes the batches of the steps from one on, given their cells.

    From data on the device, where that is not the host; from a file, which is read ahead.
    """
    counts = loader.screen.counts
    if isinstance(counts, StoredCounts):
        assert isinstance(order, BlockOrder)
        source = AheadSource(counts, order.windows(step, batch_size))
        return lambda rows: loader.batch(rows.cpu().numpy(), source)
    if loader.device.type == "cpu":
        return lambda rows: loader.batch(rows.numpy())
    return loader.resident().batch
