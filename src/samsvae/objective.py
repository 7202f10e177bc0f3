"""The objectives: pure functions of a model's `LogWeights`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from samsvae.types import Batch, LogWeights


def per_cell(values: Tensor, batch: Batch) -> Tensor:
    """Share global terms among cells, `particle cell`, nats: 1/n_t of every column a cell received.

    `values` are `particle column`, of `batch.dosage.columns`. So the terms of a minibatch carry the
    weight n~_t / n_t of the paper (A.1), where n~_t counts the batch's cells with t, and one epoch
    of minibatches contributes each global term exactly once.
    """
    dosage = batch.dosage
    shares = (values / batch.cells_per_column).index_select(1, dosage.position.flatten())
    received = (dosage.dose != 0).to(shares.dtype)
    return (shares.unflatten(1, tuple(dosage.position.shape)) * received).sum(2)


def log_weights(weights: LogWeights, batch: Batch) -> Tensor:
    """Return log p(x, z, E, M) - log q(z, E, M) per cell, `particle cell`, nats."""
    total = predictive_log_weights(weights)
    for values in weights.shifts.values():
        total = total + per_cell(values, batch)
    return total


def weighted(weights: LogWeights, factors: Mapping[str, float | Tensor]) -> LogWeights:
    """Return the terms with those of some latent variables multiplied by a factor.

    With a factor below 1 the KL term of a latent variable counts less than in the ELBO (a beta-VAE,
    by variable); a variable without a factor counts fully.
    """
    return LogWeights(
        weights.likelihood,
        weights.basal * factors.get("basal", 1.0),
        {name: values * factors.get(name, 1.0) for name, values in weights.shifts.items()},
        weights.response,
    )


def elbo(weights: LogWeights, batch: Batch) -> Tensor:
    """Return the evidence lower bound per cell, `cell`, nats: the mean over particles (A.1)."""
    return log_weights(weights, batch).mean(0)


def elbo_terms(weights: LogWeights, batch: Batch) -> dict[str, Tensor]:
    """Return the mean over the batch's cells of each term of the ELBO, nats per cell."""
    terms = {"likelihood": weights.likelihood.mean(), "basal": weights.basal.mean()}
    if weights.response is not None:
        terms["response"] = weights.response.mean()
    for name, values in weights.shifts.items():
        terms[name] = per_cell(values, batch).mean()
    return terms


def predictive_log_weights(weights: LogWeights) -> Tensor:
    """Return the log weights of cells given globals drawn from their posterior, not scored."""
    total = weights.likelihood + weights.basal
    return total if weights.response is None else total + weights.response


def iwelbo(log_weights: Tensor) -> Tensor:
    """Return the importance weighted bound, `cell`, nats: logsumexp over K particles - log K.

    References
    ----------
    Burda, Grosse, Salakhutdinov: Importance weighted autoencoders, 2016, arXiv:1509.00519.

    Examples
    --------
    >>> iwelbo(torch.zeros(3, 2))
    tensor([0., 0.])
    """
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def iwelbo_surrogate(weights: LogWeights, batch: Batch) -> Tensor:
    """Return the importance weighted objective of training per cell, `cell`, nats.

    logsumexp_k of each cell's log weight - log K, its share 1/n_t of the global terms included.

    A surrogate, not a bound: as all cells share the globals E and M, a bound on the evidence would
    have one weight per draw of the globals for a whole data set, and does not split into
    minibatches. Here every cell weighs the shared draws by itself. With one particle it is the
    ELBO; for a model without globals (conditional VAE) it is the IWELBO proper.
    """
    return iwelbo(log_weights(weights, batch))
