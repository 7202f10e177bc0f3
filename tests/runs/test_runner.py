"""Jobs: each is done once, none is lost, none is affected by the failure of another."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from joblib.externals.loky import get_reusable_executor

from helpers.jobs import Small
from samsvae.errors import InputError
from samsvae.runs.runner import ROUNDS, run_jobs


def test_jobs_run_in_processes_of_their_own(tmp_path: Path) -> None:
    jobs = [Small(tmp_path, name) for name in "abcd"]
    with pytest.warns(UserWarning, match="a warning of the job") as told:
        assert run_jobs(jobs, n_jobs=2, progress=False) == {}
    assert len(told) == 1  # not once per job
    processes = {(tmp_path / f"{job.name}.done").read_text() for job in jobs}
    assert str(os.getpid()) not in processes
    assert [job.begun for job in jobs] == [1, 1, 1, 1]


@pytest.mark.filterwarnings("ignore:a warning of the job")
def test_workers_import_nothing_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    get_reusable_executor().shutdown()  # those of other tests were started elsewhere
    job = Small(tmp_path, "a")
    assert run_jobs([job], n_jobs=2, progress=False, say=lambda _: None) == {}
    assert "PYTHONSAFEPATH" not in os.environ
    get_reusable_executor().shutdown()


@pytest.mark.filterwarnings("ignore:a warning of the job")
def test_one_at_a_time_they_run_here(tmp_path: Path) -> None:
    jobs = [Small(tmp_path, name) for name in "ab"]
    assert run_jobs(jobs, n_jobs=1, progress=False) == {}
    assert {(tmp_path / f"{job.name}.done").read_text() for job in jobs} == {str(os.getpid())}


@pytest.mark.filterwarnings("ignore:a warning of the job")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_job_that_fails_leaves_the_others_alone(tmp_path: Path, n_jobs: int) -> None:
    jobs = [Small(tmp_path, name, fails=name == "b") for name in "abc"]
    failed = run_jobs(jobs, n_jobs=n_jobs, progress=False)
    assert list(failed) == ["b"]
    assert failed["b"].error == "ValueError: b cannot be done"
    assert "Traceback" in failed["b"].trace
    assert [job.is_done for job in jobs] == [True, False, True]
    assert jobs[1].begun == 1  # what fails by itself is not tried again


@pytest.mark.filterwarnings("ignore:a warning of the job")
def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = [Small(tmp_path, name) for name in "abc"]
    run_jobs(jobs[:2], n_jobs=1, progress=False)
    run_jobs(jobs, n_jobs=1, progress=False, say=said.append)
    run_jobs(jobs, n_jobs=1, progress=False, say=said.append)
    assert said == ["2 of 3 jobs were done before", "3 of 3 jobs were done before"]
    assert [job.begun for job in jobs] == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:a warning of the job")
@pytest.mark.filterwarnings("ignore:A worker stopped")
def test_a_job_whose_worker_is_killed_starts_again(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = [Small(tmp_path, name, kills=name == "b") for name in "abcd"]
    assert run_jobs(jobs, n_jobs=2, progress=False, say=said.append) == {}
    assert all(job.is_done for job in jobs)
    assert jobs[1].begun == 2
    assert said[0].startswith("a worker was lost: ")


@pytest.mark.filterwarnings("ignore:a warning of the job")
def test_a_job_that_always_loses_its_worker_is_given_up(tmp_path: Path) -> None:
    jobs = [Small(tmp_path, "a", kills=99)]
    failed = run_jobs(jobs, n_jobs=2, progress=False, say=lambda _: None)
    assert "its worker was lost, 3 times" in str(failed["a"].error)
    assert jobs[0].begun == ROUNDS == 3


def test_an_engine_that_is_not_installed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs ray: pip install 'samsvae\[ray\]'"):
        run_jobs([Small(tmp_path, "a")], engine="ray", progress=False)


def test_a_cluster_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**_: Any) -> None:
        raise ConnectionError("nobody there")

    ray = SimpleNamespace(is_initialized=lambda: False, init=unreachable)
    joblib = SimpleNamespace(register_ray=lambda: None)
    for name, module in {"ray": ray, "ray.util": ray, "ray.util.joblib": joblib}.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(InputError, match=r"no ray cluster answers .*ray start --head"):
        run_jobs([Small(tmp_path, "a")], engine="ray", progress=False)
