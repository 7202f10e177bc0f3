"""With one NaN anywhere in its input C code gives what its plain definition gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from samsvae.ops import native
from samsvae.ops import negative_binomial as nb
from samsvae.ops.arrays import dense_rows, difference_sums, standardised
from samsvae.ops.draws import gaussian

pytestmark = pytest.mark.skipif(native.library() is None, reason="there is no C code here")

Arguments = dict[str, Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


COUNTS = torch.poisson(torch.full((5, 150), 6.0), generator=torch.Generator().manual_seed(0))


def density(gradient: str) -> Callable[..., list[Tensor]]:
    """Return the density, or one of its gradients."""

    def run(fast: bool, **given: Tensor) -> list[Tensor]:
        leaves = ("hidden", "weight", "bias", "log_theta")
        if gradient == "none":
            return [nb.log_prob_of_hidden(**given, fast=fast)]
        wanted = {name: given[name].clone().requires_grad_() for name in leaves}
        value = nb.log_prob_of_hidden(**(given | wanted), fast=fast)
        weights = torch.ones_like(value) if gradient == "equal" else random(*value.shape)
        return [value.detach(), *torch.autograd.grad(value, list(wanted.values()), weights)]

    return run


def draws(closed_form: bool, backward: bool) -> Callable[..., list[Tensor]]:
    def run(fast: bool, loc: Tensor, scale: Tensor, noise: Tensor) -> list[Tensor]:
        loc, scale = (x.clone().requires_grad_(backward) for x in (loc, scale))
        given = loc, scale, noise, torch.zeros(()), torch.ones(())
        value, ratio = gaussian(*given, closed_form=closed_form, fast=fast)
        if not backward:
            return [value, ratio]
        return list(torch.autograd.grad(value.sum() + ratio.sum(), [loc, scale]))

    return run


def rows(fast: bool, values: Tensor) -> list[Tensor]:
    matrix = sp.csr_matrix(values.numpy())
    return [dense_rows(matrix, np.arange(len(values)), fast=fast)]


DENSITY: Arguments = {
    "counts": COUNTS,
    "hidden": random(3, 5, 7),
    "weight": random(150, 7),
    "bias": random(150),
    "library_size": torch.full((5,), 900.0),
    "log_theta": random(150),
}
GAUSSIAN: Arguments = {
    "loc": random(3, 5, 20),
    "scale": random(3, 5, 20).exp(),
    "noise": random(3, 5, 20),
}
CASES: dict[str, tuple[Callable[..., list[Tensor]], Arguments]] = {
    "density": (density("none"), DENSITY),
    "density and its gradient": (density("equal"), DENSITY),
    "gradient with weights": (density("random"), DENSITY),
    "means": (
        lambda fast, **given: [nb.mean_of_hidden(**given, floor=1e-4, fast=fast)],
        {
            "hidden": random(5, 7),
            "weight": random(150, 7),
            "bias": random(150),
            "size": torch.full((5,), 900.0),
        },
    ),
    "draws": (draws(closed_form=False, backward=False), GAUSSIAN),
    "draws in closed form": (draws(closed_form=True, backward=False), GAUSSIAN),
    "gradient of draws": (draws(closed_form=False, backward=True), GAUSSIAN),
    "gradient in closed form": (draws(closed_form=True, backward=True), GAUSSIAN),
    "standardised": (
        lambda fast, **given: [standardised(**given, log1p=True, fast=fast)],
        {"values": COUNTS, "center": random(150), "scale": random(150).exp()},
    ),
    "standardised values": (
        lambda fast, **given: [standardised(**given, log1p=False, fast=fast)],
        {"values": COUNTS, "center": random(150), "scale": random(150).exp()},
    ),
    "differences": (
        lambda fast, **given: list(difference_sums(**given, fast=fast)),
        {"values": random(70, 300), "origin": random(70, 300)},
    ),
    "rows": (rows, {"values": COUNTS}),
}


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, (_, given) in CASES.items() for name in given]
)
@pytest.mark.parametrize("place", [0, -1])
def test_one_value_that_is_no_number(case: str, name: str, place: int) -> None:
    run, given = CASES[case]
    spoiled = given[name].clone()
    spoiled.view(-1)[place] = float("nan")
    fast, plain = (run(fast, **(given | {name: spoiled})) for fast in (True, False))
    assert any(bool(x.isnan().any()) for x in plain)
    for ours, theirs in zip(fast, plain, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        known = ~theirs.isnan()
        torch.testing.assert_close(ours[known], theirs[known].to(ours.dtype), rtol=1e-3, atol=1e-3)


def test_all_functions_are_declared_and_take_no_others() -> None:
    library: Any = native.library()
    with pytest.raises(Exception, match=r"argument|takes"):
        library.nb_means(1)
    with pytest.raises(AttributeError):
        native.call("nothing_of_the_kind")


@pytest.mark.parametrize("rate", [1e3, 1e6, 1e8, 2.0**31])
def test_large_rates_are_drawn_right(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = torch.full((200, 3), 10.0), torch.full((200, 3), rate)
    counts = torch.poisson(few, generator=generator)
    drawn = nb.poisson_coupled(counts, few, many, generator).double()
    error = (rate / drawn.numel()) ** 0.5
    assert abs(float(drawn.mean()) - rate) < 6 * error + 1e-6 * rate
    back = nb.poisson_coupled(drawn.float(), many, few, generator).double()
    assert abs(float(back.mean()) - 10) < 6 * (10 / back.numel()) ** 0.5
