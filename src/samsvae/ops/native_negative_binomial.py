"""The negative binomial log density from logits, by C code with a hand-written gradient.

Plain definition: `negative_binomial.log_prob_of_logits`. What depends on the counts and theta alone
is looked up in tables, once per cell; the rest is one pass over `particle cell gene`, forward and
backward, without a matrix between the logits and the density.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from samsvae.ops import native

_TABLE = 17
"""Columns of the tables of native.c: counts 0 to TABLE."""
_CHEAPER = 4
"""What is looked up costs so many times less than what is computed."""


class LogProb(Function):
    """log p(counts), `particle cell`; see `negative_binomial.log_prob_of_logits`.

    The gradient is written over the logits, which nothing else may need: so it can be had once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        counts: Tensor,
        logits: Tensor,
        bias: Tensor,
        library_size: Tensor,
        log_theta: Tensor,
    ) -> Tensor:
        counts, logits = counts.contiguous(), logits.contiguous()
        library_size, theta = library_size.contiguous(), log_theta.exp()
        value, slope = _tables(theta)
        constant = _constant(counts, theta, value)
        shape, n_rows = logits.shape[:-1], logits.shape[:-1].numel()
        n_threads = native.threads(logits.numel())
        out, tops, scales = (logits.new_empty(n_rows) for _ in range(3))
        work = logits.new_empty(n_threads, logits.shape[-1])
        inputs = logits, bias, counts, library_size, theta, log_theta, out, tops, scales
        sizes = *counts.shape, logits.shape[-1]
        native.call("nb_forward", inputs, sizes, n_rows, n_threads, of_threads=(work,))
        ctx.save_for_backward(counts, logits, bias, library_size, theta, slope, tops, scales)
        ctx.is_spent = False
        return out.view(shape) + constant

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None, Tensor]:
        if ctx.is_spent:
            raise RuntimeError("the gradient of this density can be had once: take fast=False")
        ctx.is_spent = True
        counts, logits, bias, library_size, theta, slope, tops, scales = ctx.saved_tensors
        weight = gradients[0].contiguous()
        n_cells, n_genes = counts.shape
        n_threads = native.threads(logits.numel())
        to_bias = bias.new_zeros(n_threads, len(bias))
        to_theta = theta.new_zeros(n_threads, n_genes)
        work = logits.new_empty(n_threads, 2, len(bias))
        inputs = logits, bias, counts, library_size, theta, weight, tops, scales
        native.call(
            "nb_backward",
            inputs,
            (n_cells, n_genes, len(bias)),
            weight.numel(),
            n_threads,
            of_threads=(to_bias, to_theta, work),
        )
        of_cells = weight.view(-1, n_cells).sum(0)
        n_threads = min(n_threads, native.threads(counts.numel() // _CHEAPER))
        native.call(
            "nb_constant_backward",
            (counts, theta, slope, of_cells),
            (n_genes,),
            n_cells,
            n_threads,
            of_threads=(to_theta,),
        )
        return None, logits.detach(), to_bias.sum(0), None, to_theta.sum(0)


def _tables(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log rising factorial - log x! of small counts, and its slope, `gene count`."""
    value, slope = (theta.new_empty(len(theta), _TABLE) for _ in range(2))
    native.call("nb_tables", (theta, value, slope), (), len(theta), native.threads(value.numel()))
    return value, slope


def _constant(counts: Tensor, theta: Tensor, value: Tensor) -> Tensor:
    """Return what does not depend on the mean, `cell`."""
    out = counts.new_empty(len(counts))
    n_threads = native.threads(counts.numel() // _CHEAPER)
    native.call(
        "nb_constant", (counts, theta, value, out), (counts.shape[1],), len(counts), n_threads
    )
    return out
