"""What the C code does element by element equals its plain definition, in values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from samsvae.ops import draws, native
from samsvae.ops.arrays import dense_rows, difference_sums, product_sums, standardised

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")

SHAPES = [(1, 1, 1), (3, 7, 5), (2, 33, 17), (1, 301, 130)]
"""Particles, rows, columns: none a multiple of anything."""


@pytest.fixture(params=[1, 2], autouse=True)
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "threads", lambda n: request.param)


def drawn(
    leaves: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, *, fast: bool, closed_form: bool
) -> list[Tensor]:
    """Return the draw, its weight, and the gradients of an uneven sum of both."""
    loc, scale, noise = (x.to(dtype) for x in leaves)
    wanted = loc.requires_grad_(), scale.requires_grad_()
    prior = torch.zeros((), dtype=dtype), torch.tensor(0.7, dtype=dtype)
    value, ratio = draws.gaussian(loc, scale, noise, *prior, closed_form=closed_form, fast=fast)
    weights = (torch.linspace(-1, 2, x.numel(), dtype=dtype).view(x.shape) for x in (value, ratio))
    total = sum((w * x).sum() for w, x in zip(weights, (value, ratio), strict=True))
    return [value, ratio, *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gaussian_draw(shape: tuple[int, ...], closed_form: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    heads = torch.randn(*shape[:-1], 2 * shape[-1], generator=rng)
    loc, raw = heads.chunk(2, -1)  # rows further apart than they are long
    leaves = loc, (2 * raw).exp() + 0.01, torch.randn(shape, generator=rng)
    ours, exact = (
        drawn(leaves, dtype, fast=fast, closed_form=closed_form)
        for dtype, fast in ((torch.float32, True), (torch.float64, False))
    )
    for found, right in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


def test_the_plain_gaussian_gradient_is_that_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    loc, scale, noise = torch.rand(3, 2, 4, 3, generator=rng, dtype=torch.float64) + 0.1
    prior_loc, prior_scale = torch.rand(2, 3, generator=rng, dtype=torch.float64) + 0.1
    for closed_form in (True, False):
        assert torch.autograd.gradcheck(
            lambda a, b, m, s, form=closed_form: draws.gaussian(
                a, b, noise, m, s, closed_form=form
            ),
            [x.requires_grad_() for x in (loc, scale, prior_loc, prior_scale)],
        )


def test_a_gaussian_without_particles_is_drawn_for_each() -> None:
    rng = torch.Generator().manual_seed(0)
    loc, scale, noise = torch.zeros(4, 3), torch.ones(4, 3), torch.randn(5, 4, 3, generator=rng)
    value, ratio = draws.gaussian(
        loc, scale, noise, torch.zeros(()), torch.ones(()), closed_form=True
    )
    assert torch.equal(value, noise)
    assert torch.equal(ratio, torch.zeros(5, 4))


@pytest.mark.parametrize("closed_form", [True, False])
def test_a_prior_by_dimension_is_weighed_against(closed_form: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    loc, noise = torch.randn(2, 4, 3, generator=rng)
    scale, prior = (
        torch.rand(4, 3, generator=rng) + 0.1,
        Normal(torch.randn(3), torch.rand(3) + 0.1),
    )
    given = loc, scale, noise, prior.loc, prior.scale
    value, ratio = draws.gaussian(*given, closed_form=closed_form)
    posterior = Normal(loc, scale)
    wanted = prior.log_prob(value) - posterior.log_prob(value)
    if closed_form:
        wanted = -kl_divergence(posterior, prior)
    torch.testing.assert_close(ratio, wanted.sum(-1))


@pytest.mark.parametrize("log1p", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_standardised_data(shape: tuple[int, ...], log1p: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.poisson(torch.rand(shape[1:], generator=rng) * 9, generator=rng)
    values[0, 0] = 1e6
    if not log1p:
        values = values - 3
    center, scale = torch.rand(2, shape[-1], generator=rng) + 0.1
    ours = standardised(values, center, scale, log1p=log1p)
    assert native.serves(values, center, scale)
    exact = standardised(values.double(), center.double(), scale.double(), log1p=log1p, fast=False)
    torch.testing.assert_close(ours.double(), exact, rtol=2e-6, atol=2e-6)


def test_standardised_data_have_a_gradient_where_one_is_wanted() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    standardised(values, torch.zeros(3), torch.ones(3), log1p=True).sum().backward()
    assert torch.equal(values.grad, torch.full((2, 3), 0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_rows_of_a_sparse_matrix(kind: type, index: type) -> None:
    rng = np.random.default_rng(0)
    matrix = sp.random(50, 13, density=0.3, format="csr", random_state=rng)
    matrix.data = np.ceil(200 * matrix.data).astype(kind)
    matrix = matrix.astype(kind)
    matrix.indices = matrix.indices.astype(index)  # the others of any type, as they may be
    matrix.indptr = matrix.indptr.astype(np.int64)
    for rows in (rng.permutation(50)[:20], np.array([3, 3]), slice(5, 40), slice(45, 99), []):
        asked = np.asarray(rows, np.int64) if isinstance(rows, list) else rows
        found, plain = (dense_rows(matrix, asked, fast=fast) for fast in (True, False))
        assert found.dtype == torch.float32
        assert torch.equal(found, plain)
        assert torch.equal(found, torch.from_numpy(matrix.toarray().astype(np.float32)[asked]))


def test_rows_that_are_not_there_are_refused() -> None:
    matrix = sp.csr_matrix(np.ones((3, 2), np.uint8))
    for rows in ([0, 3], [-1]):
        with pytest.raises(IndexError, match="of 3"):
            dense_rows(matrix, np.array(rows))


@pytest.mark.parametrize("shape", [*SHAPES, (40, 1, 600)])
def test_sums_of_differences_and_of_their_squares(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    values, origin = torch.randn(2, *shape, generator=rng) + 3
    ours = difference_sums(values, origin)
    assert native.serves(values, origin)
    exact = difference_sums(values.double(), origin.double(), fast=False)
    # One of them in another order in memory.
    across = difference_sums(values.transpose(0, 1), origin.transpose(0, 1).contiguous())
    for found, again, right in zip(ours, across, exact, strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, right, rtol=2e-6, atol=1e-5)
        torch.testing.assert_close(again, right, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_products(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    values, other = torch.randn(2, *shape, generator=rng) + 3
    assert native.serves(values, other)
    exact = product_sums(values.double(), other.double(), fast=False)
    across = product_sums(values.transpose(0, 1), other.transpose(0, 1).contiguous())
    for found, again, right in zip(product_sums(values, other), across, exact, strict=True):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, right, rtol=2e-6, atol=1e-5)
        torch.testing.assert_close(again, right, rtol=2e-6, atol=1e-5)
    _, square, product = product_sums(values, values)
    assert torch.equal(square, product)


def test_sums_of_differences_have_a_gradient_where_one_is_wanted() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    difference_sums(values, torch.zeros(2, 3))[1].sum().backward()
    assert torch.equal(values.grad, torch.full((2, 3), 2.0))  # type: ignore[arg-type]
