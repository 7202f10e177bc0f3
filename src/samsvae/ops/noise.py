"""Noise: uniform and standard normal random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samsvae.ops import native

_CHEAPER = 4
"""A number costs so many times less than an element of a density."""


def normal(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, *, fast: bool = True
) -> Tensor:
    """Draw standard normal noise of a type and on a device like another tensor's.

    Parameters
    ----------
    shape
        Of the noise.
    like
        A tensor of the wanted type and device.
    generator
        On that device.
    fast
        Draw by C code where it serves, in several threads, from a seed that the generator draws;
        else by torch. The numbers differ, their distribution does not.
    """
    if fast and _served(like):
        n = torch.Size(shape).numel()
        return _filled("normal_noise", n + n % 2, generator)[:n].view(tuple(shape))
    return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)


def uniform(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, *, fast: bool = True
) -> Tensor:
    """Draw uniform noise strictly between 0 and 1; see `normal`."""
    if fast and _served(like):
        return _filled("uniform_noise", torch.Size(shape).numel(), generator).view(tuple(shape))
    drawn = torch.rand(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)
    tiny = torch.finfo(like.dtype).eps
    return drawn.clamp_(tiny, 1 - tiny)


def _served(like: Tensor) -> bool:
    on_host = like.dtype == torch.float32 and like.device.type == "cpu"
    return on_host and native.library() is not None


def _filled(name: str, n: int, generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(2**62, (1,), generator=generator))
    out = torch.empty(n)
    native.call(name, out, seed, n, native.threads(n // _CHEAPER))
    return out
