"""The C code equals its plain definition: values, every gradient, awkward sizes, extreme counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import samsvae
from conftest import FAILURE_RATE, SMALL, errors, make_adata
from samsvae.ops import native
from samsvae.ops import negative_binomial as nb
from samsvae.ops.native import negative_binomial as native_negative_binomial

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
    leaves = {name: inputs[name].clone().requires_grad_() for name in NAMES}
    value = nb.log_prob_of_hidden(**{**inputs, **leaves}, fast=fast)
    first = 2 if even else -1
    weight = torch.linspace(first, 2, value.numel(), dtype=dtype).view(value.shape)
    gradients = torch.autograd.grad((weight * value).sum(), list(leaves.values()))
    return value.detach(), dict(zip(NAMES, gradients, strict=True))


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).abs().max() / (exact.abs().max() + 1e-3))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [0.5, 20.0, 1e6])
def test_fast_equals_plain(
    size: tuple[int, int, int, int],
    most: float,
    threads: int,
    even: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one block and in several; with weights that the forward pass expects, and with others."""
    monkeypatch.setattr(native, "threads", lambda n: threads)
    if threads == 2:
        monkeypatch.setattr(native_negative_binomial, "_ELEMENTS", 1000)
    given = problem(*size, most=most)
    exact, gradients = answer(given, torch.float64, fast=False, even=even)
    ours, own = answer(given, torch.float32, fast=True, even=even)
    plain, plain_own = answer(given, torch.float32, fast=False, even=even)
    # As near to the exact number as the plain form in single precision, or to 1e-6.
    assert relative(ours, exact) < max(1e-6, 3 * relative(plain, exact))
    for name in NAMES:
        error, allowed = (relative(g[name], gradients[name]) for g in (own, plain_own))
        assert error < max(3e-6, 3 * allowed), name


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


def test_nothing_is_prepared_for_a_gradient_that_nobody_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = problem(2, 5, 9, 9)
    leaves = {name: given[name].requires_grad_() for name in NAMES}
    wanted = nb.log_prob_of_hidden(**{**given, **leaves})
    taken: list[Tensor | None] = []
    evaluated = native_negative_binomial._evaluated

    def spy(problem: Any, weights: Tensor | None, products: torch.dtype) -> object:
        taken.append(weights)
        return evaluated(problem, weights, products)

    monkeypatch.setattr(native_negative_binomial, "_evaluated", spy)
    with torch.no_grad():
        torch.testing.assert_close(nb.log_prob_of_hidden(**{**given, **leaves}), wanted)
    assert taken == [None]


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
    ours = nb.mean_of_hidden(*inputs, least=0.5)
    assert native.serves(*inputs)
    exact = nb.mean_of_hidden(*(x.double() for x in inputs), least=0.5)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)
    leaf = inputs[0].requires_grad_()
    plain = nb.mean_of_hidden(leaf, *inputs[1:], least=0.5)
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
            max_steps=20, batch_size=64, n_particles=3, validate_every=5, progress=False
        )
    return list(model.history["valid_elbo"])


def test_training_takes_the_same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = (train_history(fast, monkeypatch) for fast in (True, False))
    assert fast != plain  # not the same code
    assert fast == pytest.approx(plain, rel=1e-4)


SERVED = """
import warnings
import torch
from samsvae.ops import native, negative_binomial as nb
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ones = torch.ones(2, 3)
    for _ in range(2):
        value = nb.log_prob_of_hidden(
            ones, ones[None], torch.ones(3, 3), ones[0], ones[:, 0], ones[0]
        )
print(native.library() is not None, len(caught), caught[0].message if caught else "")
"""


def test_without_a_cache_it_is_compiled_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("True 0"), done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "True 0"),
        ({"SAMSVAE_NATIVE": "0"}, "False 0"),
        ({"PATH": "/nowhere"}, "False 1 no C compiler: "),
        ({"CC": "false"}, "False 1 false does not compile samsvae's C code"),
    ],
)
def test_where_it_cannot_be_compiled_the_plain_form_serves(
    tmp_path: Path, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one warning in a process; the cache starts empty here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(said), done.stderr


WITHOUT_OPENMP = """#!/bin/sh
for argument in "$@"; do [ "$argument" = -fopenmp ] && echo "no OpenMP here" >&2 && exit 1; done
exec cc "$@"
"""
CANNOT_BE_LOADED = """#!/bin/sh
case "$*" in *-shared*gomp*) for last in "$@"; do :; done; echo nonsense > "$last"; exit 0; esac
case "$*" in *-shared*-fopenmp*) for last in "$@"; do :; done; echo nonsense > "$last"; exit 0; esac
exec cc "$@"
"""


@pytest.mark.parametrize("script", [WITHOUT_OPENMP, CANNOT_BE_LOADED])
def test_a_compiler_without_openmp_serves_too(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("True 0"), done.stderr
    assert list((tmp_path / "samsvae").glob("native-*.so"))


RATES = [(0.3, 0.2), (0.3, 0.5), (8.0, 1.0), (8.0, 7.9), (8.0, 8.3), (300.0, 299.0), (300.0, 410.0)]
"""Before and after: few and many counts, lost and gained, by single trials and by waiting times."""


def coupled(before: float, after: float, *, fast: bool = True, seed: int = 0) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    rate = torch.full((400, 100), before)
    counts = torch.poisson(rate, generator=rng)
    return counts, nb.poisson_coupled(counts, rate, torch.full_like(rate, after), rng, fast=fast)


@pytest.mark.parametrize(("before", "after"), RATES)
def test_coupled_counts_follow_the_poisson_distribution(before: float, after: float) -> None:
    drawn = coupled(before, after)[1].flatten().numpy()
    law = scipy.stats.poisson(after)
    edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 15)))
    observed = np.histogram(drawn, [-np.inf, *(edges + 0.5), np.inf])[0]
    share = np.diff([0, *law.cdf(edges), 1])
    assert scipy.stats.chisquare(observed, share * drawn.size).pvalue > FAILURE_RATE / 200


@pytest.mark.parametrize(("before", "after"), RATES)
def test_counts_are_coupled_as_in_the_plain_form(before: float, after: float) -> None:
    (counts, fast), (_, plain) = (coupled(before, after, fast=fast) for fast in (True, False))
    changes = fast - counts if after > before else counts - fast
    assert torch.all(changes >= 0)
    assert torch.equal(fast, fast.round())
    for a, b in ((changes, (plain - counts).abs()), (changes.square(), (plain - counts).square())):
        se = ((a.var() + b.var()) / a.numel()) ** 0.5
        assert abs(a.mean() - b.mean()) < errors(2) * se + 1e-6


def test_coupled_counts_are_the_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(native, "threads", lambda n, threads=threads: threads)
        drawn.append(coupled(8.0, 5.0)[1])
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], coupled(8.0, 5.0, seed=1)[1])
    rows = drawn[0][:200].flatten(), drawn[0][200:].flatten()
    r = float(torch.corrcoef(torch.stack(rows))[0, 1])
    assert abs(r) < errors() / len(rows[0]) ** 0.5  # every row has a stream of its own


def test_equal_rates_and_empty_cells_change_nothing() -> None:
    counts, drawn = coupled(8.0, 8.0)
    assert torch.equal(counts, drawn)
    nothing = torch.zeros(3, 4)
    rng = torch.Generator().manual_seed(0)
    assert not nb.poisson_coupled(nothing, nothing, nothing, rng).any()
    assert not nb.poisson_coupled(nothing, nothing + 5, nothing + 1, rng).any()
