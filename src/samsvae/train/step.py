"""Training steps, plain, compiled or recorded, and their optimiser.

Nothing between the draws and the optimiser touches the host.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from samsvae import objective
from samsvae.model.networks import JointLinear
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import TrainSettings
from samsvae.types import Batch, ShiftNoise

Work: TypeAlias = Callable[[], Tensor]


class Recorder(Protocol):
    """How work is recorded."""

    def plain(self, work: Work) -> Tensor: ...

    def record(self, work: Work) -> Work:
        """Record work, without doing it; return what does it again."""


class Replayed:
    """A function of tensors, of the same shapes at every call, that does all its work on a device.

    The first calls are plain: what the device sets up at first use cannot be recorded. Then the
    work is recorded, reading its arguments from where every later call puts them.
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
    """Records CUDA graphs that draw from a generator; plain work is outside the main stream."""

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


def parameter_groups(
    model: nn.Module, learning_rate: float, *, scaled: bool = True
) -> list[dict[str, Any]]:
    """Return the parameters of a model for Adam, by their learning rate.

    No step should move a unit by more than it varies at the start. A step of Adam moves every
    weight by about the learning rate, so a unit that sums n inputs of size 1 by up to n times as
    much; at the start its weights are uniform within 1 / sqrt(n), so it varies by 1 / sqrt(3).
    Weights of n inputs (part by part in a first layer, a one-hot one counting as 1) therefore get,
    unless `scaled` is False, min(learning_rate, 1 / (sqrt(3) n)). With thousands of genes training
    diverges at a rate that suits hundreds (docs/performance.md). See Yang et al.: Tensor Programs
    V, 2022, arXiv:2203.03466 (Adam, hidden weights: 1 / fan-in).
    """
    fan_in: dict[Tensor, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fan_in[module.weight] = module.in_features
        elif isinstance(module, JointLinear):
            fan_in |= zip(module.weights, module.fan_in, strict=True)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        n = fan_in.get(parameter) if scaled else None
        rate = learning_rate if n is None else min(learning_rate, 1 / (math.sqrt(3) * n))
        groups.setdefault(rate, []).append(parameter)
    return [{"params": group, "lr": rate} for rate, group in groups.items()]


class Optimizer:
    """Adam, each group of parameters at its own rate; `recorded` steps read it from the device."""

    def __init__(
        self, model: PerturbationVAE, settings: TrainSettings, *, recorded: bool = False
    ) -> None:
        self.adam = torch.optim.Adam(
            parameter_groups(model, settings.learning_rate, scaled=settings.scale_learning_rate),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=recorded,
        )
        self._rates = [group["lr"] for group in self.adam.param_groups]
        if recorded:
            device = next(model.parameters()).device
            for group in self.adam.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=device)

    def set_share(self, share: float) -> None:
        """Multiply all learning rates by a number."""
        for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(share * rate)
            else:
                group["lr"] = share * rate


Evaluation: TypeAlias = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Reduction: TypeAlias = Callable[[Sequence[Tensor]], None]
"""Replaces gradients and metrics, in place, by those of the cells of all processes together."""


def draw_noise(
    model: PerturbationVAE, batch: Batch, n_particles: int, generator: torch.Generator
) -> tuple[ShiftNoise, Tensor]:
    """Draw the noise of one evaluation: of the batch's columns of dosage, and of its cells."""
    return (
        model.mechanism.noise(batch.dosage.columns, n_particles, generator),
        model.encoder.noise(len(batch.counts), n_particles, generator),
    )


class PlainStep:
    """A training step as it is written: the definition that faster steps must equal.

    `importance_weighted` steps ascend `objective.iwelbo_surrogate` instead of the ELBO, those with
    `closed_form` use closed forms of KL terms; with `bfloat16` only matrix products are in it.
    `reduce` averages gradients over processes before their norm is clipped to `clip_norm`.
    """

    def __init__(
        self,
        model: PerturbationVAE,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float = math.inf,
        importance_weighted: bool = False,
        closed_form: bool = False,
        bfloat16: bool = False,
        reduce: Reduction = lambda values: None,
    ) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.per_cell = objective.iwelbo_surrogate if importance_weighted else objective.elbo
        self.closed_form = closed_form
        self.bfloat16 = bfloat16
        self.reduce = reduce

    def __call__(
        self,
        batch: Batch,
        shift_noise: ShiftNoise,
        basal_noise: Tensor,
        factors: Mapping[str, float | Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Take one step; `factors` weigh the latent variables, see `objective.weighted`.

        Return the objective, the ELBO and its terms (nats per cell), and the gradient's norm.
        """
        self.optimizer.zero_grad(set_to_none=True)
        value, terms = self._value(batch, shift_noise, basal_noise, factors)
        (-value).backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        means = torch.stack([value.detach(), *terms.values()])
        self.reduce([*gradients, means])
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if self.clip_norm < math.inf:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        self.optimizer.step()
        of_terms = dict(zip(terms, means[1:].unbind(), strict=True))
        return {"objective": means[0], "elbo": means[1:].sum(), "gradient_norm": norm, **of_terms}

    def _value(
        self,
        batch: Batch,
        shift_noise: ShiftNoise,
        basal_noise: Tensor,
        factors: Mapping[str, float | Tensor] | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective, and the terms of the ELBO without their history."""
        model, closed_form = self.model, self.closed_form
        with torch.autocast(basal_noise.device.type, torch.bfloat16, enabled=self.bfloat16):
            shifts = model.mechanism.draw(
                batch.dosage.columns, shift_noise, closed_form=closed_form
            )
            weights = model(batch, shifts, basal_noise, closed_form=closed_form)
        weighted = objective.weighted(weights, factors) if factors else weights
        with torch.no_grad():
            terms = objective.elbo_terms(weights, batch)
        return self.per_cell(weighted, batch).mean(), terms


class CompiledStep(PlainStep):
    """The same step, compiled by torch; plain, with one warning, where torch cannot."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._plain: Evaluation = super()._value
        self._evaluation: Evaluation | None = None

    def _value(self, *given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            if self._evaluation is None:
                self._evaluation = torch.compile(self._plain, dynamic=True)
            return self._evaluation(*given)
        except Exception as error:
            if self._evaluation is self._plain:
                raise
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"the training step cannot be compiled ({reason}): going on without", stacklevel=2
            )
            self._evaluation = self._plain
            return self._plain(*given)
