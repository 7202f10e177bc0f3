"""The training loop: steps, phases, progress, and how training may end early."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.errors import LostProcessError, NonFiniteError, TrainingInterrupted, listed, note
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import VARIABLES, TrainSettings
from samsvae.storage.tensors import prefixed
from samsvae.train.alignment import align, can_align
from samsvae.train.batches import batches_from, noise_of_part, order_of
from samsvae.train.checkpointer import (
    Checkpoint,
    Checkpointer,
    optimizer_tensors,
    restore_optimizer,
)
from samsvae.train.inclusion import update_inclusion
from samsvae.train.phases import History, Phases, ProgressBar
from samsvae.train.processes import Processes, SingleProcess
from samsvae.train.step import CompiledStep, CudaRecorder, Optimizer, PlainStep, Replayed
from samsvae.train.validator import Validator

_STOP_EVERY = 10
"""Steps between two exchanges among processes of whether one of them is to stop."""


class Training:
    """One training run of a model, in place: its state is all that a checkpoint holds.

    The model has fresh parameters, on the loaders' device; without validation cells the last model
    is kept. `identity` is its name and hyperparameters, as JSON, which a resumed run must share.
    `history` gets a row per evaluation, even if training ends early.
    """

    def __init__(
        self,
        model: PerturbationVAE,
        train: Loader,
        valid: Loader,
        settings: TrainSettings,
        *,
        identity: Mapping[str, Any],
        history: History,
        saved: Callable[[], None] = lambda: None,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.train, self.valid, self.settings = model, train, valid, settings
        self.processes = processes = processes or SingleProcess()
        self.identity, self.history = dict(identity), history
        self.checkpointer = Checkpointer(settings.checkpoint, processes, saved)
        patience = settings.patient_evaluations(len(train.screen))
        self.validator = Validator(model, valid, settings, processes, patience)
        self.variant = settings.step_on(
            train.device.type, recorded=train.screen.is_in_memory and processes.size == 1
        )
        self.order = order_of(train, settings.seed)
        self.generator = torch.Generator(train.device)
        n_steps, aligned = settings.n_steps(len(train.screen)), settings.alignment == "rotate"
        self.phases = Phases(n_steps, n_steps // 2 if aligned and can_align(model) else None)
        self.latest_alignment = self.phases.aligned_after
        self.step = 0
        self.began = 0
        """The step at which the phase began, with a new optimiser."""
        self.optimizer = self._new_optimizer()
        self.share = processes.of_batch(min(settings.batch_size, len(train.screen)))
        kind = CompiledStep if self.variant == "compiled" else PlainStep
        self.take_step = kind(
            model,
            self.optimizer.adam,
            clip_norm=math.inf if settings.clip_norm is None else settings.clip_norm,
            importance_weighted=settings.objective == "iwelbo",
            closed_form=settings.takes_closed_form,
            bfloat16=settings.precision == "bfloat16",
            reduce=lambda values: processes.sum(values, self.share),
        )
        self._prepare_steps()
        self.bar = ProgressBar(settings.progress and processes.writes)
        self.metric_names: list[str] = []
        self.pending: list[Tensor] = []  # metrics of the steps since the last row, on the device

    @property
    def masks_fixed(self) -> bool:
        """Whether all masks are still fixed at one: the model is aligned later."""
        return self.phases.masks_fixed(self.step)

    def _new_optimizer(self) -> Optimizer:
        return Optimizer(self.model, self.settings, recorded=self.variant == "graph")

    def _prepare_steps(self) -> None:
        """Prepare the steps of a phase: a recorded step is recorded again."""
        additive = self.model.mechanism.additive
        if additive is not None:
            additive.masks_fixed = self.masks_fixed
        self.step_of: Callable[[Tensor, Tensor], Tensor] = self._step_of
        if self.variant == "graph":
            self.step_of = Replayed(self._step_of, CudaRecorder(self.generator))

    def _start_phase(self) -> None:
        """Start a phase with a new optimiser: the state of the old one belongs to other axes."""
        self.optimizer = self._new_optimizer()
        self.take_step.optimizer = self.optimizer.adam
        self.began = self.phases.span(self.step)[0]
        self._prepare_steps()

    @property
    def _is_over(self) -> bool:
        """Whether the last phase has ended."""
        out_of_patience = self.validator.is_out_of_patience and not self.masks_fixed
        return out_of_patience or self.step >= self.phases.n_steps

    def _end_first_phase(self) -> None:
        """Align the best model of the phase with masks fixed at one, where that ends."""
        if self.masks_fixed and self.validator.is_out_of_patience:
            self.phases = self.phases._replace(aligned_after=self.step)
        if self.step != self.phases.aligned_after or self.began == self.step:
            return
        self._check_finite()
        self.validator.restore_best()
        self._align()
        self.validator.forget()  # models of before are not compared with those that follow
        self._start_phase()

    def _align(self) -> None:
        align(self.model, self.train, seed=self.settings.seed)
        self.processes.same(self.model)  # each computed it, and last digits may differ

    def run(self) -> None:
        """Train to the end; leave the model at its best, even on an error, after a checkpoint."""
        if self.settings.resume:
            checkpoint = self.checkpointer.read()
            if checkpoint is not None:
                self._load(checkpoint)
        with self.bar as bar, products_in("high" if self.settings.precision == "tf32" else None):
            self._take_steps(bar)
            self._leave()

    def _take_steps(self, bar: ProgressBar) -> None:
        """Take the steps that are left, until patience or a signal ends them."""
        source = batches_from(
            self.train, self.order, self.step, self.settings.batch_size, self.processes.part
        )
        bar.start(self.phases.n_steps)
        with source as self.batch, stop_signals() as came:
            bar.show(self.step, self.phases, self.history)
            clock, clock_step = time.perf_counter(), self.step
            if self._is_due:  # another process was lost during the evaluation
                self._check_finite()
                self._evaluate(math.nan)
                self._end_first_phase()
            while not self._is_over:
                with self._saved_if_lost():
                    self._one_step()
                    stopped = self._stopped(came())
                    if self._is_due:
                        self._check_finite()
                        seconds = time.perf_counter() - clock
                        self._evaluate((self.step - clock_step) / seconds)
                        clock, clock_step = time.perf_counter(), self.step
                    self._end_first_phase()
                if self.step % self.settings.checkpoint_every == 0 or self._is_over or stopped:
                    self._save()
                if stopped:
                    self._leave()
                    message = f"training stopped after step {self.step} of {self.phases.n_steps}"
                    raise TrainingInterrupted(self._with_how_to_resume(message))
                bar.show(self.step, self.phases, self.history)
            bar.end(self.step)

    def _one_step(self) -> None:
        settings, (start, n_steps) = self.settings, self.phases.span(self.step)
        rows = self.order.of_step(self.step, settings.batch_size)
        factors = list(settings.factors(self.step).values())
        inputs = torch.from_numpy(rows), torch.tensor(factors)
        device = self.train.device
        # Each step has its own seed: no state of a generator is saved, so a run resumes anywhere.
        seed = np.random.SeedSequence([settings.seed, self.step]).generate_state(1, np.uint64)[0]
        self.generator.manual_seed(int(seed))
        self.optimizer.set_share(settings.share_of_rate(self.step - start, n_steps))
        metrics = self.step_of(*(x.to(device, non_blocking=True) for x in inputs))
        self.pending.append(metrics)
        self.step += 1

    def _step_of(self, rows: Tensor, factors: Tensor) -> Tensor:
        """Take a step on some cells, by position, and return its metrics."""
        part, n_particles = rows[self.processes.part], self.settings.n_particles
        batch = self.batch(part)
        noise = noise_of_part(
            self.model, self.train, rows, batch, n_particles, self.generator, self.processes
        )
        weights = dict(zip(VARIABLES, factors.unbind(), strict=False))  # none: all are 1
        metrics = self.take_step(batch, *noise, weights)
        self.metric_names = list(metrics)
        return torch.stack(list(metrics.values()))

    @contextmanager
    def _saved_if_lost(self) -> Iterator[None]:
        """Write a checkpoint if another process is lost: the steps taken so far are complete."""
        try:
            yield
        except LostProcessError as error:
            if self.began == self.phases.span(self.step)[0]:  # else it is half aligned
                self._save()
            raise LostProcessError(self._with_how_to_resume(str(error))) from error

    @property
    def _is_due(self) -> bool:
        """Whether the validation cells are to be evaluated: steps were taken since the last row."""
        ends_phase = self.step in (self.phases.n_steps, self.phases.aligned_after)
        return bool(self.pending) and (self.step % self.settings.validate_every == 0 or ends_phase)

    def _stopped(self, came: bool) -> bool:
        """Whether training is to stop: the same in all processes, which exchange it seldom."""
        if self.processes.size > 1 and self.step % _STOP_EVERY:
            return False
        return self.processes.any(came)

    def _check_finite(self) -> None:
        """Raise if a step since the last row was not finite: the one read of the host."""
        if not self.pending:
            return
        rows = torch.stack(self.pending).cpu()
        bad = (~rows.isfinite()).any(1).nonzero().flatten()
        if not len(bad):
            return
        first = int(bad[0])
        step = self.step - len(rows) + first + 1
        values = dict(zip(self.metric_names, rows[first].tolist(), strict=True))
        wrong = ", ".join(f"{k} {v}" for k, v in values.items() if not math.isfinite(v))
        self._end_not_finite(step, wrong)

    def _end_not_finite(self, step: int, wrong: str) -> NoReturn:
        """Leave the model at its best, and say which step went wrong."""
        self._leave()
        path = self.settings.checkpoint
        kept = f"; the last good checkpoint is kept in {path}" if self.checkpointer.exists else ""
        raise NonFiniteError(
            f"step {step} of training is not finite ({wrong}){kept}: try a lower learning_rate, "
            "or clip_norm"
        )

    def _check_parameters(self) -> None:
        """Raise if a parameter is not finite: the ELBO need not depend on it, or only later."""
        wrong = self.model.not_finite()
        if wrong:
            self._end_not_finite(self.step, f"parameters {listed(wrong)}")

    def _evaluate(self, steps_per_second: float) -> None:
        """Add a row to the history; the validator keeps the model if it is the best so far."""
        means = torch.stack(self.pending).mean(0).tolist()
        row = {"step": self.step, **dict(zip(self.metric_names, means, strict=True))}
        self._check_parameters()
        elbo, mc_se = self.validator.evaluate()
        if len(self.valid.screen) and not math.isfinite(elbo):
            self._end_not_finite(self.step, f"validation ELBO {elbo}")
        row |= {"valid_elbo": elbo, "valid_elbo_mc_se": mc_se}
        row["is_best"] = self.validator.is_best
        if self.phases.aligned_after is not None:
            row |= {"is_aligned": self.step > self.phases.aligned_after, "mask_sparsity": math.nan}
        row |= {name: value.item() for name, value in self.model.mechanism.metrics().items()}
        n_cells = min(self.settings.batch_size, len(self.train.screen))
        row["cells_per_second"] = steps_per_second * n_cells
        self.history.append(row)
        self.pending = []

    def _leave(self) -> None:
        """Leave the model at its best, aligned, with the inclusion probabilities updated."""
        self.validator.restore_best()
        if self.phases.aligned_after is None or self.model.not_finite():
            return
        if self.masks_fixed:
            self._align()
        update_inclusion(
            self.model, self.train, self.valid, self.processes, progress=self.bar.follow
        )
        self.processes.same(self.model)

    def _with_how_to_resume(self, message: str) -> str:
        if not self.checkpointer.exists:
            return message
        path = self.checkpointer.path
        return f"{message}; it is saved in {path}: go on with resume=True, or --resume"

    def _header(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "history": self.history,
            "metric_names": self.metric_names,
            **self.validator.header(),
            "aligned_after": self.phases.aligned_after,
            "latest_alignment": self.latest_alignment,
            "settings": self.settings.decisive,
            "model": self.identity,
            "data": [self.train.screen.digest, self.valid.screen.digest],
            "order": type(self.order).__name__,
        }

    def _save(self) -> None:
        """Write a checkpoint, if there is to be one; never of a model that is not finite."""
        if self.settings.checkpoint is None:
            return
        self._check_finite()
        self._check_parameters()
        tensors = {
            **prefixed("model", self.model.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer.adam)),
            **prefixed("best", self.validator.best or {}),
        }
        if self.pending:
            tensors["pending"] = torch.stack(self.pending)
        self.checkpointer.write(tensors, self._header())

    def _load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.checkpointer.check(checkpoint, header=self._header(), model=self.model)
        tensors, header = checkpoint
        self.step = header["step"]
        aligned_after = header["aligned_after"]
        latest = header.get("latest_alignment", aligned_after)
        self.phases, difference = self.phases.resumed(self.step, aligned_after, latest)
        if difference and self.processes.writes:
            note(f"{self.checkpointer.path}: {difference}")
        self._start_phase()
        self.model.load_state_dict(checkpoint.part("model"))
        restore_optimizer(self.optimizer.adam, checkpoint.part("optimizer"))
        self.validator.load(header, checkpoint.part("best"))
        device = self.train.device
        self.pending = list(tensors["pending"].to(device)) if "pending" in tensors else []
        self.history[:] = header["history"]
        self.metric_names = header["metric_names"]


@contextmanager
def products_in(precision: str | None) -> Iterator[None]:
    """Take float32 products in another precision of torch's, if any, while training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision or before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function: whether Ctrl-C, SIGTERM or SIGHUP came; a second ends at once."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    # What is ignored, as by nohup, stays so.
    before = {k: v for k, v in handlers.items() if v is signal.SIG_DFL or callable(v)}

    def note(number: int, frame: object) -> None:
        came.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
