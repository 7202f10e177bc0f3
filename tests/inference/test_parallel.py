"""Work shared among threads: in order, with torch's own threads as they were before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import samsvae
from samsvae.ops.parallel import side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_come_back() -> None:
    def work(item: int) -> tuple[int, int]:
        return item**2, torch.get_num_threads()

    assert list(side_by_side(work, range(50))) == [(i**2, 1) for i in range(50)]
    assert torch.get_num_threads() == 2


def test_an_error_comes_through_and_threads_come_back() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(side_by_side(work, range(10)))
    assert torch.get_num_threads() == 2


def test_effects_do_not_depend_on_the_number_of_threads(trained: samsvae.SAMSVAE) -> None:
    def effects() -> list[np.ndarray]:
        answer = trained.effects(n_particles=200, n_draws=10, progress=False)
        return [answer.X, *(answer.layers[name] for name in ("mc_se", "lower", "upper"))]

    side = effects()
    torch.set_num_threads(1)
    for one, other in zip(side, effects(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_conditions_effect_does_not_depend_on_the_others(trained: samsvae.SAMSVAE) -> None:
    options = {"n_particles": 100, "n_draws": 5, "progress": False}
    alone, among = (trained.effects(asked, **options) for asked in (["B"], ["A", "A+B", "B"]))
    np.testing.assert_allclose(alone.X[0], among.X[2], rtol=1e-4, atol=1e-6)
