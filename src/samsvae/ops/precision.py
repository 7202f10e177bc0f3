"""Where half precision ends: products may be taken in bfloat16, densities may not."""

from __future__ import annotations

import torch
from torch import Tensor


def single(values: Tensor) -> Tensor:
    """Return bfloat16 values in single precision, and any others as they are."""
    return values.float() if values.dtype == torch.bfloat16 else values
