"""The training loop: steps, validation, the best model, checkpoints, and how it may end early."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from samsvae.data.loader import Loader
from samsvae.errors import LostProcessError, NonFiniteError, TrainingInterrupted, listed
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.vae import PerturbationVAE
from samsvae.settings.train import VARIABLES, TrainSettings
from samsvae.storage import tensors as files
from samsvae.train import checkpointer
from samsvae.train.alignment import align, can_align
from samsvae.train.batches import batches_from, noise_of_part, order_of
from samsvae.train.inclusion import settle
from samsvae.train.phases import Optimizer, Phases
from samsvae.train.processes import Alone, Processes
from samsvae.train.progress import ProgressBar, stop_signals
from samsvae.train.step import CompiledStep, CudaRecorder, PlainStep, Replayed
from samsvae.train.validator import valid_elbo

_ASKED_EVERY = 10
"""Steps after which processes ask each other whether one of them is to stop."""
History = list[dict[str, float]]
"""One row per evaluation of the validation cells."""


class Training:
    """One training run of a model, in place: its state is all that a checkpoint holds.

    Parameters
    ----------
    model
        With fresh parameters, on the loaders' device.
    train, valid
        Training and validation cells. Without validation cells the last model is kept.
    settings
        How.
    identity
        What the model is, as JSON: its name and hyperparameters. A resumed run must share it.
    history
        Gets one row per evaluation: step, objective, ELBO and each of its terms (means over the
        steps since the last row, nats per cell), validation ELBO with its Monte Carlo standard
        error and whether it is the best so far, mask sparsity, norm of the gradient, cells per
        second; of a run that is aligned, whether it was by then. It is there too if training ends
        early.
    saved
        Called after every checkpoint.
    processes
        That train the model together; by default this one alone does. Only the first one writes.
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
        self.processes = processes = processes or Alone()
        self.identity, self.saved = dict(identity), saved
        self.model, self.train, self.valid, self.settings = model, train, valid, settings
        self.variant = settings.step_on(
            train.device.type, recorded=train.screen.is_in_memory and processes.size == 1
        )
        self.order = order_of(train, settings.seed)
        self.generator = torch.Generator(train.device)
        n_steps, aligned = settings.n_steps(len(train.screen)), settings.alignment == "rotate"
        self.phases = Phases(n_steps, n_steps // 2 if aligned and can_align(model) else None)
        self.step = 0
        kind = CompiledStep if self.variant == "compiled" else PlainStep
        self.optimizer = self._fresh_optimizer()
        self.share = processes.of_batch(min(settings.batch_size, len(train.screen)))
        self.take_step = kind(
            model,
            self.optimizer.adam,
            clip_norm=math.inf if settings.clip_norm is None else settings.clip_norm,
            importance_weighted=settings.objective == "iwelbo",
            closed_form=settings.takes_closed_form,
            bfloat16=settings.precision == "bfloat16",
            reduce=lambda values: processes.sum(values, self.share),
        )
        self.began = 0
        """The step at which the optimiser was made anew."""
        self._set_up()
        self.history = history
        self.metric_names: list[str] = []
        self.pending: list[Tensor] = []  # metrics of the steps since the last row, on the device
        self.best: dict[str, Tensor] | None = None
        self.best_elbo = -math.inf
        self.since_best = 0
        self.has_checkpoint = False

    @property
    def dense(self) -> bool:
        """Whether all masks are still open: the model is aligned later."""
        return self.phases.dense(self.step)

    def _fresh_optimizer(self) -> Optimizer:
        return Optimizer(self.model, self.settings, recorded=self.variant == "graph")

    def _set_up(self) -> None:
        """Set up the steps of a phase: what was recorded is recorded again."""
        if isinstance(self.model.mechanism, AdditiveShift):
            self.model.mechanism.dense = self.dense
        self.step_of: Callable[[Tensor, Tensor], Tensor] = self._step_of
        if self.variant == "graph":
            self.step_of = Replayed(self._step_of, CudaRecorder(self.generator))

    def _start_phase(self) -> None:
        """Start a phase: what the optimiser knows is of other axes, so it starts anew."""
        self.optimizer = self._fresh_optimizer()
        self.take_step.optimizer = self.optimizer.adam
        self.began = self.phases.span(self.step)[0]
        self._set_up()

    def _align(self) -> None:
        """End the phase of open masks: their best model is aligned, and none to be kept."""
        self._check_finite()
        self._restore_best()
        self._align_model()
        self.best, self.best_elbo, self.since_best = None, -math.inf, 0
        self._start_phase()

    def _align_model(self) -> None:
        align(self.model, self.train, seed=self.settings.seed)
        self.processes.same(self.model)  # each found it, and machines may differ in last digits

    def run(self) -> None:
        """Train to the end and leave the model at its best validation ELBO.

        Raises
        ------
        NonFiniteError
            If the ELBO is no longer a finite number; the model is left at its best.
        TrainingInterrupted
            On Ctrl-C or SIGTERM; the model is left at its best, and the checkpoint is saved.
        """
        if self.settings.resume:
            self._resume()
        source = batches_from(
            self.train, self.order, self.step, self.settings.batch_size, self.processes.part
        )
        n_steps, shown = self.phases.n_steps, self.settings.progress and self.processes.writes
        with source as self.batch, stop_signals() as came, ProgressBar(shown, n_steps) as bar:
            bar.show(self.step, self.history)
            clock, clock_step = time.perf_counter(), self.step
            if self._is_due:  # another process was lost over it
                self._check_finite()
                self._evaluate(math.nan)
            while self.step < n_steps and not self._out_of_patience():
                with self._saved_if_lost():
                    self._one_step()
                    stopped = self._stopped(came())
                    if self._is_due:
                        self._check_finite()
                        seconds = time.perf_counter() - clock
                        self._evaluate((self.step - clock_step) / seconds)
                        clock, clock_step = time.perf_counter(), self.step
                    if self.step == self.phases.aligned_after:
                        self._align()
                last = self.step == n_steps
                if self.step % self.settings.checkpoint_every == 0 or last or stopped:
                    self._save()
                if stopped:
                    self._interrupted()
                bar.show(self.step, self.history)
        if self.best is None:
            self._check_parameters()
        self._leave()

    def _one_step(self) -> None:
        settings, (start, n_steps) = self.settings, self.phases.span(self.step)
        rows = self.order.of_step(self.step, settings.batch_size)
        factors = list(settings.factors(self.step).values())
        given = torch.from_numpy(rows), torch.tensor(factors)
        device = self.train.device
        self.generator.manual_seed(_seed_of(settings.seed, self.step))
        self.optimizer.set_share(settings.share_of_rate(self.step - start, n_steps))
        metrics = self.step_of(*(x.to(device, non_blocking=True) for x in given))
        self.pending.append(metrics)
        self.step += 1

    @contextmanager
    def _saved_if_lost(self) -> Iterator[None]:
        """Save what there is if another process is lost: the steps that were taken are whole."""
        try:
            yield
        except LostProcessError as error:
            if self.began == self.phases.span(self.step)[0]:  # else it is half aligned
                self._save()
            message = f"{error}; {self._where_to_go_on()}".removesuffix("; ")
            raise LostProcessError(message) from error

    @property
    def _is_due(self) -> bool:
        """Whether the validation cells are to be evaluated, after steps that no row tells of."""
        ends_phase = self.step in (self.phases.n_steps, self.phases.aligned_after)
        return bool(self.pending) and (self.step % self.settings.validate_every == 0 or ends_phase)

    def _stopped(self, came: bool) -> bool:
        """Whether training is to stop: the same in all processes, which ask each other seldom."""
        if self.processes.size > 1 and self.step % _ASKED_EVERY:
            return False
        return self.processes.any(came)

    def _step_of(self, rows: Tensor, factors: Tensor) -> Tensor:
        """Take a step on some cells, by position, and return its metrics."""
        mine, n_particles = rows[self.processes.part], self.settings.n_particles
        batch = self.batch(mine)
        noise = noise_of_part(
            self.model, self.train, rows, batch, n_particles, self.generator, self.processes
        )
        weights = dict(zip(VARIABLES, factors.unbind(), strict=False))  # none: all are 1
        metrics = self.take_step(batch, *noise, weights)
        self.metric_names = list(metrics)
        return torch.stack(list(metrics.values()))

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
        kept = f"; the last good checkpoint is kept in {path}" if self.has_checkpoint else ""
        raise NonFiniteError(
            f"step {step} of training is not finite ({wrong}){kept}: try a lower learning_rate, "
            "or clip_norm"
        )

    def _check_parameters(self) -> None:
        """Raise if the last step left a parameter that is not finite: its ELBO does not tell."""
        wrong = self.model.not_finite()
        if wrong:
            self._end_not_finite(self.step, f"parameters {listed(wrong)}")

    def _evaluate(self, steps_per_second: float) -> None:
        """Add a row to the history and keep the model if it is the best so far."""
        settings = self.settings
        means = torch.stack(self.pending).mean(0).tolist()
        row = {"step": self.step, **dict(zip(self.metric_names, means, strict=True))}
        elbo = mc_se = math.nan
        if len(self.valid.screen):
            elbo, mc_se = valid_elbo(self.model, self.valid, settings, self.processes)
            if not math.isfinite(elbo):
                self._end_not_finite(self.step, f"validation ELBO {elbo}")
            if elbo > self.best_elbo:
                self.best_elbo, self.since_best = elbo, 0
                state = self.model.state_dict()
                self.best = {name: value.clone() for name, value in state.items()}
            else:
                self.since_best += 1
        row |= {"valid_elbo": elbo, "valid_elbo_mc_se": mc_se}
        row["is_best"] = self.best is not None and self.since_best == 0
        if self.phases.aligned_after is not None:
            row |= {"is_aligned": self.step > self.phases.aligned_after, "mask_sparsity": math.nan}
        row |= {name: value.item() for name, value in self.model.mechanism.metrics().items()}
        cells = min(settings.batch_size, len(self.train.screen))
        row["cells_per_second"] = steps_per_second * cells
        self.history.append(row)
        self.pending = []

    def _out_of_patience(self) -> bool:
        return (
            not self.dense
            and self.settings.patience is not None
            and self.since_best >= self.settings.patience
        )

    def _restore_best(self) -> None:
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def _leave(self) -> None:
        """Leave the model at its best, as one that answers: with masks, and these settled."""
        self._restore_best()
        if self.phases.aligned_after is None or self.model.not_finite():
            return
        if self.dense:
            self._align_model()
        settle(self.model, self.train)
        self.processes.same(self.model)

    def _interrupted(self) -> None:
        self._leave()
        message = f"training stopped after step {self.step} of {self.phases.n_steps}"
        raise TrainingInterrupted(f"{message}; {self._where_to_go_on()}".removesuffix("; "))

    def _where_to_go_on(self) -> str:
        path = self.settings.checkpoint
        if not self.has_checkpoint:
            return ""
        return f"it is saved in {path}: go on with resume=True, or --resume"

    def _header(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "history": self.history,
            "metric_names": self.metric_names,
            "best_elbo": self.best_elbo if self.best is not None else None,
            "since_best": self.since_best,
            "aligned_after": self.phases.aligned_after,
            "settings": self.settings.decisive,
            "model": self.identity,
            "data": [self.train.screen.digest, self.valid.screen.digest],
            "order": type(self.order).__name__,
        }

    def _save(self) -> None:
        if self.settings.checkpoint is None:
            return
        self._check_finite()  # what is not finite never replaces a good checkpoint
        self._check_parameters()
        if not self.processes.writes:
            return
        tensors = {
            **files.prefixed("model", self.model.state_dict()),
            **files.prefixed("optimizer", checkpointer.optimizer_tensors(self.optimizer.adam)),
            **files.prefixed("best", self.best or {}),
        }
        if self.pending:
            tensors["pending"] = torch.stack(self.pending)
        files.write(self.settings.checkpoint, tensors, self._header())
        self.has_checkpoint = True
        self.saved()

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one: the first process reads it for all."""
        path = self.settings.checkpoint
        found = checkpointer.read(path, self.processes)
        if found is not None:
            self._load(path or "the checkpoint", *found)

    def _load(
        self,
        path: str | os.PathLike[str],
        tensors: dict[str, Tensor],
        header: dict[str, Any],
    ) -> None:
        checkpointer.check(path, tensors, header, ours=self._header(), model=self.model)
        aligned_after = header["aligned_after"]
        if aligned_after is not None and header["step"] >= aligned_after:
            # Whatever number of steps is now asked for.
            self.phases = self.phases._replace(aligned_after=aligned_after)
        self.step = header["step"]
        self._start_phase()
        self.model.load_state_dict(files.unprefixed("model", tensors))
        checkpointer.restore_optimizer(self.optimizer.adam, files.unprefixed("optimizer", tensors))
        device = self.train.device
        best = files.unprefixed("best", tensors)
        self.best = {name: value.to(device) for name, value in best.items()} or None
        self.best_elbo = -math.inf if header["best_elbo"] is None else header["best_elbo"]
        self.since_best = header["since_best"]
        self.pending = list(tensors["pending"].to(device)) if "pending" in tensors else []
        self.has_checkpoint = True
        self.history[:] = header["history"]
        self.metric_names = header["metric_names"]


def _seed_of(seed: int, step: int) -> int:
    """Return the seed of a step's noise.

    With one for each step no generator has a state to be saved: a checkpoint goes on on any device.
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
