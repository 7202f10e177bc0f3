"""Noise, and draws with a gradient: Gaussian, Bernoulli, and the Beta of its probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from samsvae.ops import native

_COST_OF_NOISE = 4
"""A number costs so many times less than an element of a density."""


def normal(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, *, fast: bool = True
) -> Tensor:
    """Draw standard normal noise of some shape, of the type and on the device of another tensor.

    `fast` draws by C code where it can: other numbers of the same distribution.
    """
    if fast and _served(like):
        n = torch.Size(shape).numel()
        return _filled("normal_noise", n + n % 2, generator)[:n].view(tuple(shape))
    return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)


def uniform(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, *, fast: bool = True
) -> Tensor:
    """Draw uniform noise strictly between 0 and 1; see `normal`."""
    if fast and _served(like):
        return _filled("uniform_noise", torch.Size(shape).numel(), generator).view(tuple(shape))
    drawn = torch.rand(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)
    tiny = torch.finfo(like.dtype).eps
    return drawn.clamp_(tiny, 1 - tiny)


def _served(like: Tensor) -> bool:
    on_host = like.dtype == torch.float32 and like.device.type == "cpu"
    return on_host and native.library() is not None


def _filled(name: str, n: int, generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(2**62, (1,), generator=generator))
    out = torch.empty(n)
    native.call(name, out, seed, n, native.threads(n // _COST_OF_NOISE))
    return out


_COST_OF_DRAWS = 2
"""An element costs so many times less than one of a density."""


def gaussian(
    loc: Tensor,
    scale: Tensor,
    noise: Tensor,
    prior_loc: Tensor,
    prior_scale: Tensor,
    *,
    closed_form: bool,
    fast: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return loc + scale * noise, `particle ... latent`, and its log ratio, `particle ...`, nats.

    For the prior N(m, s^2), in terms of the noise: log p - log q = (noise^2 - ((value - m) / s)^2)
    / 2 + log(scale / s); with `closed_form` it is -KL(q || p) instead. `fast` uses the C code where
    it can, for a prior N(0, s^2 I) that is not learned; the code below is its definition.
    """
    alike = loc.shape == scale.shape == noise.shape and noise.numel() > 0
    if fast and alike and native.serves(loc, scale, noise) and _simple(prior_loc, prior_scale):
        drawn: tuple[Tensor, Tensor] = _Draw.apply(
            loc, scale, noise, prior_scale.item(), closed_form
        )
        return drawn
    value = loc + scale * noise
    log_scale = (scale / prior_scale).log()
    if closed_form:
        square = ((loc - prior_loc) / prior_scale).square() + (scale / prior_scale).square()
        ratio = (1 - square).div(2) + log_scale
    else:
        square = ((value - prior_loc) / prior_scale).square()
        ratio = (noise.square() - square).div(2) + log_scale
    return value, ratio.expand_as(value).sum(-1)


def _simple(prior_loc: Tensor, prior_scale: Tensor) -> bool:
    """Whether a prior is N(0, s^2 I) with a given s; on the host, where asking costs nothing."""
    is_fixed = not (prior_loc.requires_grad or prior_scale.requires_grad)
    return is_fixed and prior_loc.ndim == prior_scale.ndim == 0 and prior_loc.item() == 0


class _Draw(Function):
    """One pass forward and one back, instead of some thirty."""

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, noise: Tensor, prior_scale: float, closed_form: bool
    ) -> tuple[Tensor, Tensor]:
        shape = noise.shape
        arguments = _rows(loc), _rows(scale), _rows(noise).contiguous()
        ctx.save_for_backward(*arguments)
        ctx.settings = float(prior_scale), int(closed_form)
        value, ratio = torch.empty_like(arguments[2]), noise.new_empty(shape[:-1])
        native.call("gaussian_draw", *arguments, value, ratio, *ctx.settings, *_sizes(*arguments))
        return value.view(shape), ratio

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_value: Tensor, to_ratio: Tensor) -> tuple[Tensor | None, ...]:
        shape, to_value = to_value.shape, _rows(to_value).contiguous()
        to_loc, to_scale = torch.empty_like(to_value), torch.empty_like(to_value)
        given, taken = ctx.saved_tensors, (to_value, to_ratio.contiguous(), to_loc, to_scale)
        native.call("gaussian_gradient", *given, *taken, *ctx.settings, *_sizes(*given))
        return to_loc.view(shape), to_scale.view(shape), None, None, None


def _rows(values: Tensor) -> Tensor:
    """Return `row latent`, each row contiguous; without a copy where possible."""
    rows = values.reshape(-1, values.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _sizes(loc: Tensor, scale: Tensor, noise: Tensor) -> tuple[int, ...]:
    n_threads = native.threads(noise.numel() // _COST_OF_DRAWS)
    return *noise.shape, loc.stride(0), scale.stride(0), n_threads


def straight_through(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw m in {0, 1} with probability sigmoid(logits), with the gradient of a relaxed draw.

    relaxed = sigmoid(logits + log u - log(1 - u)), m = [relaxed > 1/2], dm := d relaxed: the
    Gumbel-softmax straight-through estimator at temperature 1; u is uniform strictly between 0 and
    1.

    References
    ----------
    Jang, Gu, Poole: Categorical reparameterization with Gumbel-softmax, 2017, arXiv:1611.01144.
    """
    relaxed = (logits + uniform.logit()).sigmoid()
    drawn: Tensor = _Rounded.apply(relaxed)
    return drawn


class _Rounded(Function):
    """0 or 1, whichever is nearer; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, relaxed: Tensor) -> Tensor:
        return (relaxed > 0.5).to(relaxed.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def beta_log_prob(log_p: Tensor, log_not_p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return (a - 1) log p + (b - 1) log(1 - p) - log B(a, b), nats, from logs that keep digits."""
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * log_p + (b - 1) * log_not_p - log_beta


class BetaNoise(NamedTuple):
    """The randomness of a Beta(a, b) draw, of the shape of the draw."""

    gamma_a: Tensor
    """Gamma(a + 1, 1)."""
    gamma_b: Tensor
    """Gamma(b + 1, 1)."""
    exponential_a: Tensor
    exponential_b: Tensor
    """Exponential(1)."""


def beta_noise(a: Tensor, b: Tensor, generator: torch.Generator) -> BetaNoise:
    """Draw the noise of Beta(a, b), which depends on a and b; `beta_logit` adds the gradient."""
    with torch.no_grad():
        gamma_a, gamma_b = (torch._standard_gamma(x + 1, generator=generator) for x in (a, b))
        exponential_a, exponential_b = (
            torch.empty_like(x).exponential_(generator=generator) for x in (a, b)
        )
        return BetaNoise(gamma_a, gamma_b, exponential_a, exponential_b)


def beta_logit(a: Tensor, b: Tensor, drawn: BetaNoise) -> Tensor:
    """Return log p - log(1 - p) = log X - log Y of p ~ Beta(a, b), with its gradient in a and b.

    X ~ Gamma(a, 1), Y ~ Gamma(b, 1): finite where p is too near 0 or 1.
    """
    log_x = _LogGamma.apply(a.expand_as(drawn.gamma_a), drawn.gamma_a, drawn.exponential_a)
    log_y = _LogGamma.apply(b.expand_as(drawn.gamma_b), drawn.gamma_b, drawn.exponential_b)
    result: Tensor = log_x - log_y
    return result


class _LogGamma(Function):
    """log X of X = G u^(1/a) ~ Gamma(a, 1), from G ~ Gamma(a + 1, 1) and -log u ~ Exponential(1).

    For a small a, X itself underflows. The gradient of G is implicit (Figurnov, Mohamed, Mnih:
    Implicit reparameterization gradients, NeurIPS 2018).
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, gamma: Tensor, exponential: Tensor) -> Tensor:
        ctx.save_for_backward(a, gamma, exponential)
        return gamma.log() - exponential / a

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        a, gamma, exponential = ctx.saved_tensors
        slope = torch._standard_gamma_grad(a + 1, gamma) / gamma + exponential / a**2
        return gradients[0] * slope, None, None
