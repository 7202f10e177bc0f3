"""Work that is recorded once and then replayed without the host, as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Work: TypeAlias = Callable[[], Tensor]


class Recorder(Protocol):
    """How work is recorded."""

    def plain(self, work: Work) -> Tensor:
        """Do work as it is, before it is recorded."""

    def record(self, work: Work) -> Work:
        """Record work, without doing it; return what does it again."""


class Replayed:
    """A function of tensors, of the same shapes at every call, that does all its work on a device.

    The first calls are plain: what the device sets up at first use cannot be recorded. Then the
    work is recorded, reading its arguments from where every later call puts them.

    Parameters
    ----------
    work
        The function.
    recorder
        How to record: a `CudaRecorder` on a GPU.
    """

    n_plain = 3

    def __init__(self, work: Callable[..., Tensor], recorder: Recorder) -> None:
        self.work, self.recorder = work, recorder
        self.calls = 0
        self.arguments: tuple[Tensor, ...] = ()
        self.replay: Work | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.n_plain:
            return self.recorder.plain(lambda: self.work(*arguments))
        if self.replay is None:
            self.arguments = tuple(argument.clone() for argument in arguments)
            self.replay = self._recorded()
        for kept, given in zip(self.arguments, arguments, strict=True):
            kept.copy_(given, non_blocking=True)
        return self.replay()

    def _recorded(self) -> Work:
        def again() -> Tensor:
            return self.work(*self.arguments)

        try:
            return self.recorder.record(again)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"training steps cannot be recorded ({reason}): going on without", stacklevel=3
            )
            return again


class CudaRecorder:
    """Records CUDA graphs that draw from a generator.

    Work is done beside the main stream before it is recorded, as torch asks for what has gradients.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.stream = torch.cuda.Stream(generator.device)

    def plain(self, work: Work) -> Tensor:
        main = torch.cuda.current_stream(self.generator.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            result = work()
        main.wait_stream(self.stream)
        return result

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result.clone()  # the next replay writes over it

        return replay
