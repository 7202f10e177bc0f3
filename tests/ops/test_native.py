"""The C code equals its plain definition: values, every gradient, awkward sizes, extreme counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import samsvae
from helpers.screens import SMALL, make_adata
from samsvae.ops import native
from samsvae.ops import negative_binomial as nb

N_HIDDEN = 7
SIZES = [(1, 1, 1, 1), (1, 3, 7, 8), (5, 33, 65, 65), (5, 2, 250, 251), (2, 300, 131, 131)]
"""Particles, cells, genes, categories: none a multiple of anything."""
NAMES = ("hidden", "weight", "bias", "log_theta")
pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")


def problem(
    n_particles: int, n_cells: int, n_genes: int, n_categories: int, *, most: float = 20.0
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(n_cells)
    scale = most * torch.rand(n_cells, n_genes, generator=rng) ** 4
    counts = torch.poisson(scale, generator=rng)
    counts[0] = 0
    return {
        "counts": counts,
        "hidden": torch.randn(n_particles, n_cells, N_HIDDEN, generator=rng),
        "weight": 2 * torch.randn(n_categories, N_HIDDEN, generator=rng) / N_HIDDEN**0.5,
        "bias": torch.randn(n_categories, generator=rng),
        "library_size": counts.sum(1) + 1,
        "log_theta": 2 * torch.randn(n_genes, generator=rng),
    }


def answer(
    given: dict[str, Tensor], dtype: torch.dtype, *, fast: bool, even: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the density, and the gradients of a sum of it with (un)even weights, by name."""
    inputs = {name: value.to(dtype) for name, value in given.items()}
    return weighted(inputs, weights(inputs, even=even), fast=fast)


def weights(given: dict[str, Tensor], *, even: bool) -> Tensor:
    rows = given["hidden"][..., 0]
    return torch.linspace(2 if even else -1, 2, rows.numel(), dtype=rows.dtype).view(rows.shape)


def weighted(
    inputs: dict[str, Tensor], weight: Tensor, *, fast: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the density, and the gradients of its weighted sum, by name."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in NAMES}
    value = nb.log_prob_of_hidden(**{**inputs, **leaves}, fast=fast)
    gradients = torch.autograd.grad((weight * value).sum(), list(leaves.values()))
    return value.detach(), dict(zip(NAMES, gradients, strict=True))


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).abs().max() / (exact.abs().max() + 1e-3))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("most", "threads", "even"),
    [(0.5, 1, True), (0.5, 2, False), (20.0, 1, False), (20.0, 2, True), (1e6, 2, False)],
)
def test_fast_equals_plain(
    size: tuple[int, int, int, int],
    most: float,
    threads: int,
    even: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With weights of the rows that the forward pass expects, and with others."""
    monkeypatch.setattr(native, "threads", lambda n: threads)
    given = problem(*size, most=most)
    exact, gradients = answer(given, torch.float64, fast=False, even=even)
    ours, own = answer(given, torch.float32, fast=True, even=even)
    plain, plain_own = answer(given, torch.float32, fast=False, even=even)
    # As near to the exact number as the plain form in single precision, or to 1e-6.
    assert relative(ours, exact) < max(1e-6, 3 * relative(plain, exact))
    for name in NAMES:
        error, allowed = (relative(g[name], gradients[name]) for g in (own, plain_own))
        assert error < max(3e-6, 3 * allowed), name


@pytest.mark.parametrize("even", [True, False])
def test_many_particles_are_as_some_and_then_the_others(even: bool) -> None:
    """All of them take 30 MB of logits: more than are held at once."""
    given = problem(30, 251, 67, 1000)
    weight = weights(given, even=even)
    whole, first, last = (
        weighted(given | {"hidden": given["hidden"][some]}, weight[some])
        for some in (slice(None), slice(15), slice(15, None))
    )
    torch.testing.assert_close(whole[0], torch.cat([first[0], last[0]]))
    hidden = torch.cat([first[1].pop("hidden"), last[1].pop("hidden")])
    assert relative(whole[1].pop("hidden"), hidden.double()) < 1e-6
    for name, gradient in whole[1].items():
        expected = first[1][name].double() + last[1][name].double()
        assert relative(gradient, expected) < 1e-5, name


@pytest.mark.parametrize("log_theta", [-15.0, 0.0, 12.0, 25.0])
def test_fast_equals_plain_for_any_dispersion(log_theta: float) -> None:
    given = problem(2, 40, 30, 30)
    given["log_theta"].fill_(log_theta)
    exact, gradients = answer(given, torch.float64, fast=False)
    ours, own = answer(given, torch.float32, fast=True)
    assert relative(ours, exact) < 3e-6
    for name in ("hidden", "weight", "bias"):
        assert relative(own[name], gradients[name]) < 1e-5, name
    assert torch.isfinite(own["log_theta"]).all()


def test_logits_far_apart_stay_finite() -> None:
    given = problem(2, 5, 9, 9)
    given["weight"] = given["weight"] * 200
    exact, gradients = answer(given, torch.float64, fast=False)
    ours, own = answer(given, torch.float32, fast=True)
    assert relative(ours, exact) < 1e-5
    assert all(relative(own[name], gradients[name]) < 1e-5 for name in NAMES)


def test_the_plain_gradient_is_that_of_finite_differences() -> None:
    given = {name: value.double() for name, value in problem(2, 3, 5, 6).items()}
    leaves = [given[name].requires_grad_() for name in NAMES]

    def density(*values: Tensor) -> Tensor:
        return nb.log_prob_of_hidden(**given | dict(zip(NAMES, values, strict=True)), fast=False)

    assert torch.autograd.gradcheck(density, leaves)


def test_a_second_gradient_is_the_first() -> None:
    given = problem(2, 3, 4, 4)
    leaves = [given[name].requires_grad_() for name in NAMES]
    loss = -nb.log_prob_of_hidden(**given).mean()
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_changed_before_its_gradient_is_taken_is_refused() -> None:
    given = problem(2, 5, 9, 9)
    weight = given["weight"].requires_grad_()
    value = nb.log_prob_of_hidden(**given)
    with torch.no_grad():
        weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value.square().sum(), weight)


def test_no_cells_have_no_density() -> None:
    given = problem(2, 5, 9, 9)
    none = {name: given[name][:0] for name in ("counts", "library_size")}
    assert nb.log_prob_of_hidden(**{**given, **none, "hidden": given["hidden"][:, :0]}).shape == (
        2,
        0,
    )


@pytest.mark.parametrize("wanted", NAMES)
def test_a_single_gradient_is_that_of_all(wanted: str) -> None:
    given = problem(2, 5, 9, 9)
    own = answer(given, torch.float32, fast=True, even=True)[1][wanted]
    leaf = given[wanted].requires_grad_()
    value = nb.log_prob_of_hidden(**given)
    torch.testing.assert_close(torch.autograd.grad(2 * value.sum(), leaf)[0], own)


class Products(TorchDispatchMode):
    """Counts the products of matrices that are taken."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += "mm" in str(func)
        return func(*args, **(kwargs or {}))


def test_nothing_is_prepared_for_a_gradient_that_nobody_wants() -> None:
    given = problem(2, 5, 9, 9)
    leaves = {name: given[name].requires_grad_() for name in NAMES}
    with Products() as with_gradient:
        wanted = nb.log_prob_of_hidden(**{**given, **leaves})
    with torch.no_grad(), Products() as without:
        torch.testing.assert_close(nb.log_prob_of_hidden(**{**given, **leaves}), wanted)
    assert (with_gradient.n, without.n) == (3, 1)  # the logits alone, of which gradients are two


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_bfloat16(dtype: torch.dtype, even: bool) -> None:
    """Whether or not the decoder's layers have cast their result before."""
    given = problem(5, 33, 65, 65)
    exact, gradients = answer(given, torch.float64, fast=False, even=even)
    with torch.autocast("cpu", torch.bfloat16):
        leaves = {name: given[name].clone().requires_grad_() for name in NAMES}
        hidden = leaves["hidden"].to(dtype)
        value = nb.log_prob_of_hidden(**{**given, **leaves, "hidden": hidden})
    assert value.dtype == torch.float32
    assert 1e-6 < relative(value.detach(), exact) < 1e-2  # not in float32
    weight = torch.linspace(2 if even else -1, 2, value.numel()).view(value.shape)
    own = torch.autograd.grad((weight * value).sum(), list(leaves.values()))
    for name, gradient in zip(NAMES, own, strict=True):
        assert gradient.dtype == torch.float32
        assert relative(gradient, gradients[name]) < 2e-2, name


@pytest.mark.parametrize("size", [(), (2, 1), (2, 33)])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_means_without_a_density(scale: float, size: tuple[int, ...]) -> None:
    given = problem(2, 33, 65, 66)
    inputs = [scale * given["hidden"], given["weight"], given["bias"], 100 * torch.rand(size) + 1]
    ours = nb.mean_of_hidden(*inputs, floor=0.5)
    assert native.serves(*inputs)
    exact = nb.mean_of_hidden(*(x.double() for x in inputs), floor=0.5)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    leaf = inputs[0].requires_grad_()
    plain = nb.mean_of_hidden(leaf, *inputs[1:], floor=0.5)
    torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-4)
    assert plain.requires_grad


def test_double_precision_takes_the_plain_form() -> None:
    given = {name: value.double() for name, value in problem(1, 3, 4, 4).items()}
    assert not native.serves(*given.values())
    fast, plain = (nb.log_prob_of_hidden(**given, fast=fast) for fast in (True, False))
    assert torch.equal(fast, plain)


def train_history(fast: bool, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    with monkeypatch.context() as patched:
        if not fast:
            patched.setattr(native, "serves", lambda *tensors: False)
        model = samsvae.SAMSVAE(screen, **SMALL).train(
            max_steps=20,
            batch_size=64,
            n_particles=3,
            validate_every=5,
            alignment="none",  # a rotation of what is hardly trained makes much of little
            progress=False,
        )
    return list(model.history["valid_elbo"])


def test_training_takes_the_same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = (train_history(fast, monkeypatch) for fast in (True, False))
    assert fast != plain  # not the same code
    assert fast == pytest.approx(plain, rel=1e-4)
