"""Jobs run side by side through joblib: in local processes, or by a cluster's engine."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event, Thread
from typing import Any, Literal, NamedTuple
from joblib import Parallel, delayed, parallel_config
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from samsvae.errors import InputError, note, shown
from samsvae.runs.jobs import Job

Engine = Literal["local", "ray", "dask"]
ROUNDS = 3
"""How often a job is begun whose worker is lost (killed, out of memory, its machine gone)."""


class Outcome(NamedTuple):
    """What came of a job."""

    name: str
    error: str | None
    """In one line; None: it is done."""
    trace: str
    notes: tuple[str, ...]
    """What it warned of, where nobody would see it."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    engine: Engine = "local",
    n_jobs: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Run the jobs that are not done; return those that failed, by name.

    A job that fails leaves the others alone. One whose worker is lost is begun again, from its last
    checkpoint.

    Parameters
    ----------
    jobs
        What.
    engine
        "local": processes of this machine; "ray" or "dask": a cluster that is there already.
    n_jobs
        How many at a time; by default as many as there are cores, or one where there is a GPU; of a
        cluster, all that it takes. 1 runs them in this process.
    progress
        Show a progress bar.
    say
        Prints a line.

    Raises
    ------
    InputError
        If the engine is not installed, or there is no such cluster.
    """
    failed: dict[str, Outcome] = {}
    todo = [job for job in jobs if not job.is_done]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} jobs were done before")
    if not todo:
        return failed
    n_jobs = n_jobs or _at_a_time(engine, len(todo))
    context, apart = _engine(engine, n_jobs), n_jobs != 1 or engine != "local"
    noted: set[str] = set()
    with _progress(todo, shown=progress):
        for turn in range(1, ROUNDS + 1):
            try:
                with context():
                    for outcome in _outcomes(todo, engine, apart=apart):
                        if outcome.error is not None:
                            failed[outcome.name] = outcome
                        for text in set(outcome.notes) - noted:
                            noted.add(text)
                            note(text)
                return failed
            except Exception as error:  # noqa: BLE001  however an engine tells of a lost worker
                todo = [job for job in todo if not job.is_done and job.name not in failed]
                lost = f"its worker was lost, {turn} times ({_line(error)})"
                if todo and turn < ROUNDS:
                    say(f"a worker was lost: {len(todo)} jobs are begun again ({_line(error)})")
    return failed | {job.name: Outcome(job.name, lost, "", ()) for job in todo}


def _outcomes(jobs: Sequence[Job], engine: Engine, *, apart: bool) -> Iterable[Outcome]:
    """Return what comes of jobs; local ones are told as they end."""
    order = "generator_unordered" if engine == "local" else "list"
    parallel = Parallel(return_as=order, batch_size=1, pre_dispatch="all")
    found: Iterable[Outcome] = parallel(delayed(attempted)(job, apart=apart) for job in jobs)
    return found


def attempted(job: Job, *, apart: bool) -> Outcome:
    """Run a job; an error of its own is an outcome.

    Parameters
    ----------
    job
        What.
    apart
        Whether in a process of its own: its warnings are then handed back.
    """
    caught: Any = warnings.catch_warnings(record=True) if apart else nullcontext()
    error, trace = None, ""
    with caught as found:
        if apart:
            warnings.simplefilter("always")
        try:
            if not job.is_done:  # by the worker that was lost
                job.run()
        except Exception as failure:  # noqa: BLE001  one job's, and the others go on
            error, trace = _line(failure), traceback.format_exc()
    told = [str(one.message) for one in found or [] if issubclass(one.category, UserWarning)]
    return Outcome(job.name, error, trace, tuple(dict.fromkeys(told)))


def _line(error: BaseException) -> str:
    text = shown(" ".join(str(error).split()), most=200)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _at_a_time(engine: Engine, n_todo: int) -> int:
    if engine != "local":
        return -1
    from torch.cuda import is_available

    return 1 if is_available() else max(1, min(len(os.sched_getaffinity(0)), n_todo))


def _engine(engine: Engine, n_jobs: int) -> Callable[[], AbstractContextManager]:
    """Return what makes joblib use an engine."""
    if engine == "local":
        return lambda: parallel_config("loky", n_jobs=n_jobs)
    try:
        if engine == "ray":
            _connect_ray()
        else:
            _connect_dask()
    except ImportError as error:
        raise InputError(
            f"--engine {engine} needs {error.name}: pip install 'samsvae[{engine}]'"
        ) from None
    except (ConnectionError, OSError, TimeoutError) as error:
        begun = "ray start --head" if engine == "ray" else "dask scheduler, and dask worker"
        raise InputError(
            f"no {engine} cluster answers ({_line(error)}): start one ({begun}), then give the "
            "same command"
        ) from error
    return lambda: parallel_config(engine, n_jobs=n_jobs)


def _connect_dask() -> None:
    import dask
    from distributed import Client, get_client

    try:
        get_client()
    except ValueError:  # none yet
        address = dask.config.get("scheduler-address", None)
        if address is None:  # a Client without one would start a cluster of its own
            raise ConnectionError("DASK_SCHEDULER_ADDRESS is not set") from None
        Client(address, timeout=10, set_as_default=True)


def _connect_ray() -> None:
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    if not ray.is_initialized():
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def _progress(jobs: Sequence[Job], *, shown: bool) -> Iterator[None]:
    """Show a bar over jobs; it looks for their folders, whoever writes them."""
    columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not shown) as bar:
        task, ended = bar.add_task("jobs", total=len(jobs)), Event()

        def look() -> None:
            bar.update(task, completed=sum(job.is_done for job in jobs))

        def watch() -> None:
            while not ended.wait(1):
                look()

        watching = Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()
            look()
