"""Screens, models and scores that the tests of evaluate share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.scores import TINY, TRAINING, Halves, clear_adata, scored
from helpers.screens import make_adata, read
from samsvae import Screen
from samsvae.benchmark.baselines import BASELINES
from samsvae.benchmark.tasks import EvaluationTask
from samsvae.estimators.base import Estimator


@pytest.fixture(scope="session")
def whole() -> Screen:
    return read(make_adata())


@pytest.fixture(scope="session")
def clear() -> Screen:
    return read(clear_adata())


@pytest.fixture(scope="session")
def table(trained: Estimator, whole: Screen) -> pd.DataFrame:
    """Return the scores of a model and all baselines. Shared: do not change them."""
    return scored([trained, *(kind(whole) for kind in BASELINES)], whole)


@pytest.fixture(scope="session")
def without_posterior(whole: Screen) -> samsvae.ConditionalVAE:
    return samsvae.ConditionalVAE(whole, **TINY).train(**TRAINING)


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Halves]:
    """Return the halves that are dealt from now on."""
    dealt: Halves = []
    plain = EvaluationTask.halves

    def kept(task: EvaluationTask, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        dealt.append(plain(task, rng))
        return dealt[-1]

    monkeypatch.setattr(EvaluationTask, "halves", kept)
    yield dealt
    assert dealt
