"""An experiment's jobs, run side by side: in local processes, or by a cluster's engine."""

from __future__ import annotations

import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from samsvae.benchmark.baselines import BASELINES
from samsvae.data.screen import Screen
from samsvae.errors import FailedJobsError, InputError, note, shown
from samsvae.estimators.base import by_name
from samsvae.estimators.models import estimator
from samsvae.ops.processes import has_lost, stop_without
from samsvae.runs.jobs import Job, Replicate, ScoreJob, TrainJob
from samsvae.runs.run import ExperimentDirectory
from samsvae.settings.experiment import Experiment
from samsvae.settings.fields import settings_of
from samsvae.settings.train import TrainPlan
from samsvae.storage.files import write_text

Engine = Literal["local", "ray", "dask"]
Key = TypeVar("Key")
ROUNDS = 3
"""How often a job is started whose worker is lost (killed, out of memory, its machine gone)."""


_SECONDS_OF_EARLIER = 60.0
"""How long jobs wait for processes of an earlier command that end, but have not yet."""


class ExperimentResults(NamedTuple):
    """The results of an experiment."""

    trained: list[TrainJob]
    """Trained models; of candidates the chosen one."""
    scores: list[ScoreJob]
    """Finished scores."""
    choices: pd.DataFrame
    """By candidate: label, fraction, its values, validation IWELBO, whether it was chosen."""


class ExperimentRunner:
    """Runs the jobs of an experiment, those first that others need, in its directory."""

    def __init__(self, directory: ExperimentDirectory, experiment: Experiment) -> None:
        self.directory, self.experiment = directory, experiment
        self.failed: dict[str, Outcome] = {}

    def run(self, **how: Any) -> ExperimentResults:
        """Run all jobs that are not done yet; return what is done in the end.

        The candidates of a variant are trained at the first seed, and the one with the best
        validation IWELBO at the others. `how` are the arguments of `run_jobs`: engine, n_jobs,
        progress, say.
        """
        experiment, place = self.experiment, self.directory.place.resolve()
        first = experiment.variants[0].settings["seed"]
        replicates = [
            Replicate(experiment.split, fraction, first + i)
            for fraction in experiment.fractions or (None,)
            for i in range(experiment.seeds)
        ]
        candidates = [
            TrainJob(place, experiment, replicate, variant, choice)
            for variant in experiment.variants
            if len(variant.choices) > 1
            for choice in variant.choices
            for replicate in replicates
            if replicate.seed == first
        ]
        candidates = self._done(candidates, **how)
        chosen = best_jobs(candidates, lambda job: (job.label, job.replicate))
        jobs = []
        for replicate in replicates:
            for variant in experiment.variants:
                choice = variant.choices[0]
                if len(variant.choices) > 1:
                    best = chosen.get((variant.label, replicate._replace(seed=first)))
                    if best is None:  # no candidate could be trained
                        continue
                    choice = dict(best.choice)
                jobs.append(TrainJob(place, experiment, replicate, variant, choice))
        trained = self._done(jobs, **how)
        scores = [ScoreJob(place, experiment, job.replicate, job) for job in trained]
        splits = replicates[:1] if experiment.split == "given" else replicates
        scores += [ScoreJob(place, experiment, replicate) for replicate in splits]
        choices = [
            {
                "label": job.label,
                "fraction": np.nan if job.replicate.fraction is None else job.replicate.fraction,
                "values": ", ".join(f"{name} = {value:g}" for name, value in job.choice.items()),
                "validation_iwelbo": job.validation,
                "chosen": job in chosen.values(),
            }
            for job in candidates
        ]
        return ExperimentResults(trained, self._done(scores, **how), pd.DataFrame(choices))

    def _done(self, jobs: list[AnyJob], *, say: Callable[[str], None], **how: Any) -> list[AnyJob]:
        """Run jobs, write down the errors of those that fail, and return those that are done."""
        failed = run_jobs(jobs, say=say, **how)
        folder = self.directory / "failures"
        for outcome in failed.values():
            say(f"failed: {outcome.name}: {outcome.error}")
            write_text(folder / f"{outcome.name}.txt", outcome.trace or f"{outcome.error}\n")
        self.failed |= failed
        done = [job for job in jobs if job.is_done]
        for job in done:
            (folder / f"{job.name}.txt").unlink(missing_ok=True)
        return done

    def raise_failures(self) -> None:
        """Raise if a job failed."""
        if self.failed:
            first = next(iter(self.failed.values()))
            raise FailedJobsError(
                f"{len(self.failed)} jobs failed, {first.name!r} with: {first.error}; all errors "
                f"are in {str(self.directory.place / 'failures')!r}, and the same command with "
                "--resume runs these jobs again"
            )


def best_jobs(jobs: Iterable[TrainJob], key: Callable[[TrainJob], Key]) -> dict[Key, TrainJob]:
    """Return, by key, the trained model of the largest fraction and then validation IWELBO."""

    def rank(job: TrainJob) -> tuple[float, float]:
        return job.replicate.fraction or 0.0, float(np.nan_to_num(job.validation, nan=-np.inf))

    best: dict[Key, TrainJob] = {}
    for job in jobs:
        other = best.setdefault(key(job), job)
        if rank(job) > rank(other):
            best[key(job)] = job
    return best


def check_experiment(experiment: Experiment, screen: Screen) -> None:
    """Raise the errors that training or a baseline would raise before its first step."""
    fraction = max(experiment.fractions, default=None)
    first = experiment.variants[0].settings["seed"]
    split = Replicate(experiment.split, fraction, first).split_of(screen)
    for variant in experiment.variants:
        kind = estimator(variant.settings["model"])
        model = kind(split, **settings_of(kind, variant.settings))
        model.check_training(**settings_of(TrainPlan, variant.settings))
    for name in experiment.baselines:
        by_name("baseline", name, BASELINES)(split)


AnyJob = TypeVar("AnyJob", bound=Job)


class Outcome(NamedTuple):
    """How a job ended."""

    name: str
    error: str | None
    """In one line; None: it is done."""
    trace: str
    notes: tuple[str, ...]
    """Its warnings, if it ran in another process, where nobody would see them."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    engine: Engine = "local",
    n_jobs: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Run the jobs that are not done; return those that failed, by name.

    The failure of a job does not affect the others. A job whose worker is lost is started again,
    from its last checkpoint. The engine is "local" (processes on this machine), or a cluster of
    "ray" or "dask" that is already running. `n_jobs` run at a time; by default one per core, or one
    if there is a GPU; on a cluster, as many as it takes. 1 runs them in this process.
    """
    failed: dict[str, Outcome] = {}
    remaining = [job for job in jobs if not job.is_done]
    if len(remaining) < len(jobs):
        say(f"{len(jobs) - len(remaining)} of {len(jobs)} jobs were done before")
    if not remaining:
        return failed
    if n_jobs is None:
        n_cores = len(os.sched_getaffinity(0))
        n_local = 1 if torch.cuda.is_available() else max(1, min(n_cores, len(remaining)))
        n_jobs = n_local if engine == "local" else -1
    context, in_worker = _engine(engine, n_jobs), n_jobs != 1 or engine != "local"
    order = "generator_unordered" if engine == "local" else "list"  # as soon as each ends
    parent = os.getpid() if in_worker and engine == "local" else None
    noted: set[str] = set()
    _wait_for_earlier(remaining, say)
    with _JobProgress(remaining, shown=progress):
        for turn in range(1, ROUNDS + 1):
            try:
                with context():
                    parallel = Parallel(return_as=order, batch_size=1, pre_dispatch="all")
                    attempts = (
                        delayed(attempt)(job, in_worker=in_worker, parent=parent)
                        for job in remaining
                    )
                    for outcome in parallel(attempts):
                        if outcome.error is not None:
                            failed[outcome.name] = outcome
                        for text in set(outcome.notes) - noted:
                            noted.add(text)
                            note(text)
                return failed
            except Exception as error:  # noqa: BLE001  each engine reports a lost worker its way
                remaining = [job for job in remaining if not job.is_done and job.name not in failed]
                lost = f"its worker was lost, {turn} times ({_line(error)})"
                if remaining and turn < ROUNDS:
                    say(f"a worker was lost: {len(remaining)} jobs start again ({_line(error)})")
    return failed | {job.name: Outcome(job.name, lost, "", ()) for job in remaining}


def _wait_for_earlier(jobs: Sequence[Job], say: Callable[[str], None]) -> None:
    """Wait until no process of an earlier command writes what these jobs write."""
    writing = [job for job in jobs if job.directory.is_being_written]
    if not writing:
        return
    say(f"waiting for processes of an earlier command, which still write {len(writing)} jobs")
    deadline = time.monotonic() + _SECONDS_OF_EARLIER
    while time.monotonic() < deadline and any(job.directory.is_being_written for job in writing):
        time.sleep(0.2)


def attempt(job: Job, *, in_worker: bool, parent: int | None = None) -> Outcome:
    """Run a job and return its outcome, an error too; in a worker, collect its warnings.

    A worker on this machine ends with its `parent`.
    """
    if parent is not None:
        stop_without(parent)
        try:
            return attempt(job, in_worker=in_worker)
        finally:
            if has_lost(parent):  # nobody waits for the outcome
                os._exit(1)
    catcher: Any = warnings.catch_warnings(record=True) if in_worker else nullcontext()
    error, trace = None, ""
    with catcher as caught:
        if in_worker:
            warnings.simplefilter("always")
        try:
            if not job.is_done:  # by a worker that was lost
                job.run()
        except Exception as failure:  # noqa: BLE001  of one job: the others go on
            error, trace = _line(failure), traceback.format_exc()
    texts = [str(w.message) for w in caught or [] if issubclass(w.category, UserWarning)]
    return Outcome(job.name, error, trace, tuple(dict.fromkeys(texts)))


def _line(error: BaseException) -> str:
    text = shown(" ".join(str(error).split()), most=200)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _engine(engine: Engine, n_jobs: int) -> Callable[[], AbstractContextManager]:
    """Return a context in which joblib uses an engine."""
    if engine == "local":
        return lambda: _local(n_jobs)
    try:
        if engine == "ray":
            import ray
            from ray.util.joblib import register_ray

            register_ray()
            if not ray.is_initialized():
                ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        else:
            import dask
            from distributed import Client, get_client

            address = dask.config.get("scheduler-address", None)
            try:
                get_client()
            except ValueError:  # none yet
                if address is None:  # a Client without one would start a cluster of its own
                    raise ConnectionError("DASK_SCHEDULER_ADDRESS is not set") from None
                Client(address, timeout=10, set_as_default=True)
    except ImportError as error:
        raise InputError(
            f"--engine {engine} needs {error.name}: pip install 'samsvae[{engine}]'"
        ) from None
    except (ConnectionError, OSError, TimeoutError) as error:
        command = "ray start --head" if engine == "ray" else "dask scheduler, and dask worker"
        raise InputError(
            f"no {engine} cluster answers ({_line(error)}): start one ({command}), then give the "
            "same command"
        ) from error
    return lambda: parallel_config(engine, n_jobs=n_jobs)


@contextmanager
def _local(n_jobs: int) -> Iterator[None]:
    """Let joblib use processes on this machine, which import nothing of the working directory.

    A file there may be called numpy.py. What this process may import, workers may, too.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        with parallel_config("loky", n_jobs=n_jobs):
            yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


class _JobProgress(Progress):
    """A progress bar that counts the folders that any process has finished."""

    def __init__(self, jobs: Sequence[Job], *, shown: bool) -> None:
        columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.jobs = jobs
        super().__init__(*columns, refresh_per_second=1, disable=not shown)
        self.add_task("jobs", total=len(jobs))

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.task_ids:
            self.update(task, completed=sum(job.is_done for job in self.jobs))
        return super().get_renderables()
