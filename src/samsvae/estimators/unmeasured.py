"""Perturbations without training cells, of which features are known: `model.with_features`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from samsvae.data.expression import training_cells
from samsvae.data.features import Features, unmatched
from samsvae.data.fold_changes import fold_changes
from samsvae.data.names import NameRegistry, Separate
from samsvae.data.screen import Screen
from samsvae.errors import InputError, listed
from samsvae.estimators.metadata import TrainingMetadata
from samsvae.estimators.trained import TrainedModel
from samsvae.inference.kernel_prior import (
    Estimates,
    KernelPosterior,
    KernelPrior,
    RowPosterior,
    fitted_prior,
)
from samsvae.inference.unmeasured import fitted
from samsvae.model.embedding import GaussianEmbedding
from samsvae.model.mechanism import AdditiveShift
from samsvae.settings.arguments import check
from samsvae.types import Reference

Model = TypeVar("Model", bound=TrainedModel)

_FEWEST = 3
"""Measured perturbations from which on features can be judged."""
_BOUND = 1e-4
"""Least probability of inclusion, and most of none."""


class Unmeasured:
    """What features say of conditions."""

    def __init__(self, metadata: TrainingMetadata) -> None:
        self.metadata = metadata

    def effects(
        self, stored: Sequence[str], relative_to: Reference
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return effects of the perturbations without cells in conditions, and their variance.

        `condition gene` each: log2 fold changes; 0 where a condition has none.
        """
        shape = len(stored), len(self.metadata.registry.genes)
        effect, variance = np.zeros((2, *shape))
        parts = [self.metadata.unmeasured_parts(name) for name in stored]
        columns = np.unique([column for own in parts for column in own]).astype(int)
        if not len(columns):
            return effect, variance
        if relative_to != "typical gene":
            raise InputError(
                f"effects of perturbations without cells are relative to the typical gene, not to "
                f"the {relative_to}: leave relative_to out"
            )
        assert self.metadata.unmeasured is not None
        means, variances = self.metadata.unmeasured.effects(columns)
        for row, own in enumerate(parts):
            for column, dose in own.items():
                place = np.searchsorted(columns, column)
                times = dose / self.metadata.median_dose[column]
                effect[row] += times * means[place]
                variance[row] += times**2 * variances[place]
        return effect, variance

    def columns(self, stored: Sequence[str]) -> dict[str, list[float] | list[str]]:
        """Return `support` and `closest` of conditions, as `obs` of effects has them.

        Without features there are none.
        """
        known = self.metadata.unmeasured
        if known is None:
            return {}
        names = self.metadata.registry.perturbations
        parts = [list(self.metadata.unmeasured_parts(name)) for name in stored]
        rows = np.array([column for own in parts for column in own], int)
        support, closest = known.support(rows), known.closest(rows)
        ends = np.cumsum([0, *map(len, parts)])
        pairs = list(pairwise(ends))
        texts = [
            ", ".join(dict.fromkeys(names[i] for i in closest[a:b].ravel() if i >= 0))
            for a, b in pairs
        ]
        return {"support": [float(support[a:b].min(initial=1)) for a, b in pairs], "closest": texts}


def with_features(model: Model, features: Features, screen: Screen | None = None) -> Model:
    """Return the model with features of perturbations, also of such as were never measured.

    Nothing is trained again. Effects of perturbations without training cells are then those of
    others, as far as features say that they are alike: see `samsvae.inference.unmeasured`. How far
    features count at all follows from the marginal likelihood of measured effects; where they say
    nothing, the answer is the mean of perturbations, with a wide interval. In latent space, by
    which cells are simulated and other scales than "lfc" are answered, shifts u_l of the
    perturbations have the prior N(m_l, s_l^2 (sum_j a_j K_j + (1 - sum_j a_j) I)), and inclusion
    probabilities likewise: one with few cells borrows from others that are alike.

    Parameters
    ----------
    features
        As `samsvae.features.read` returns them. All perturbations that they have a row of can be
        asked about.
    screen
        The screen that the model was trained on, with its split. By default the one it was made
        from, which a loaded model does not have.

    Returns
    -------
    Another model, which is saved as models are. `effects` of a perturbation without cells: in
    `obs`, `n_train_cells` is 0, `support` the share of the prior variance of its effects that
    features explain (1 where nothing has to be explained: all was measured), `closest` the three
    measured perturbations that say most of it; its interval includes what is not known.

    Raises
    ------
    InputError
        If the model is not trained, has no posterior of shifts (SVAE+, conditional VAE) or no
        counts, fewer than three measured perturbations have features, or there is no screen.

    Examples
    --------
    >>> known = samsvae.features.read(sets={"one": ["G01", "G02", "new"], "two": ["G03"]})
    >>> asked = model.with_features(known).effects(["new"], n_particles=20, progress=False)
    >>> list(asked.obs["n_train_cells"]), bool(asked.obs["support"].between(0, 1).all())
    ([0], True)
    """
    check("features", features, Features)
    check("screen", screen, Screen | None)
    model.check_can_answer()
    _shifts_of(model)
    if model.metadata.unmeasured is not None:
        raise InputError(
            "the model has features already: give all of them at once to the model without"
        )
    if screen is None:
        screen = model._screen
    if screen is None:
        raise InputError(
            "a loaded model has no cells: give the screen that it was trained on, with its split"
        )
    train = training_cells(model.matched(screen))
    registry = model.metadata.registry
    known = set(registry.perturbations)
    new = [name for name in features.perturbations if _can_be_named(name, registry, known)]
    names = (*registry.perturbations, *new)
    conditions = _single_conditions(train, registry)
    n_known = len(conditions) - len(unmatched(features, conditions))
    if n_known < _FEWEST:
        raise InputError(
            f"{n_known} of the {len(conditions)} perturbations that were measured alone have "
            f"features, such as {listed(list(conditions)[:3])} (features are of "
            f"{listed(features.perturbations, 3)}): expected three or more, by the same names"
        )
    place = {name: i for i, name in enumerate(names)}
    measured = np.array([place[name] for name in conditions], int)
    others = np.setdiff1d(np.arange(len(names)), measured)
    by_place = [names[i] for i in (*measured, *others)]
    order = np.argsort(np.concatenate([measured, others]))
    factors = [
        factor[order]
        for factor in features.factors(by_place[: len(measured)], by_place[len(measured) :])
    ]
    row = {condition: i for i, condition in enumerate(conditions.values())}
    group = np.array([row.get(name, -1) for name in train.condition_names])[train.condition]
    change = fold_changes(train, group, np.asarray(train.is_control), len(row))
    change, _ = change.from_typical_gene
    unmeasured = fitted(
        change.difference,
        change.variance,
        change.expected_variance,
        change.control_variance,
        factors,
        measured,
    )
    n_new = len(new)
    metadata = replace(
        model.metadata,
        registry=replace(registry, perturbations=names),
        cells_per_perturbation=np.append(
            model.metadata.cells_per_perturbation, np.zeros(n_new, np.int64)
        ),
        median_dose=np.append(model.metadata.median_dose, np.ones(n_new)),
        unmeasured=unmeasured,
    )
    kind: Any = type(model)
    extended: Model = kind(metadata, **model.hyperparameters)
    n_known = len(registry.perturbations)
    state = _with_rows(model.module.state_dict(), extended.module.state_dict(), n_known)
    extended.module.load_state_dict(state)
    extended.module.to(model.device)
    _borrow(extended, factors, has_cells=metadata.cells_per_perturbation > 0)
    extended.control_basal, extended.history = model.control_basal, model.history
    extended.is_trained, extended._screen = True, screen
    return extended


def _shifts_of(model: TrainedModel) -> tuple[AdditiveShift, GaussianEmbedding]:
    """Return how perturbations displace states; raise unless that has a posterior."""
    additive = model.module.mechanism.additive
    if (
        additive is None
        or not isinstance(additive.embedding, GaussianEmbedding)
        or not isinstance(model.encoding, Separate)
    ):
        raise InputError(
            f"{model.name} has no posterior of shifts of perturbations: features need SAMSVAE or "
            "CPAVAE"
        )
    if not model.registry.counts:
        raise InputError("features are of effects on counts: this model has real values")
    return additive, additive.embedding


def _can_be_named(name: str, registry: NameRegistry, known: set[str]) -> bool:
    """Whether a perturbation can be added: it is new, and its name is read as itself."""
    if name in known:
        return False
    try:
        return registry.parser.read(name, (*registry.perturbations, name)) == {name: 1.0}
    except InputError:
        return False


def _single_conditions(train: Screen, registry: NameRegistry) -> dict[str, str]:
    """Return the condition in which each perturbation was measured alone, with most cells.

    Next to control cells of its own batches.
    """
    control = np.isin(train.batch, train.batch[train.is_control])
    n_cells = np.bincount(train.condition[control], minlength=len(train.condition_names))
    found: dict[str, tuple[int, str]] = {}
    for condition, n in zip(train.condition_names, n_cells, strict=True):
        parts = list(registry.read(condition))
        if len(parts) == 1 and n > max(1, found.get(parts[0], (0, ""))[0]):
            found[parts[0]] = int(n), condition
    return {name: condition for name, (_, condition) in found.items()}


def _with_rows(
    state: dict[str, Tensor], fresh: dict[str, Tensor], n_known: int
) -> dict[str, Tensor]:
    """Return parameters with rows of new perturbations, as they are in a new model."""

    def extended(name: str, old: Tensor) -> Tensor:
        new = fresh[name]
        n_new = len(new) - len(old) if new.ndim and old.ndim else 0
        if not n_new:
            return old
        rows = new[n_known : n_known + n_new].to(old)
        return torch.cat([old[:n_known], rows, old[n_known:]])

    return {name: extended(name, value) for name, value in state.items()}


class _Shifts(NamedTuple):
    """Posterior of masks and embeddings, `perturbation latent` each."""

    probability: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    """Mean and variance of the embedding, given that it is included."""

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of mask times embedding."""
        p, m = self.probability, self.mean
        return p * m, p * self.variance + p * (1 - p) * m**2


@torch.no_grad()
def _borrow(model: TrainedModel, factors: list[np.ndarray], *, has_cells: np.ndarray) -> None:
    """Set shifts to their posterior given features; those of perturbations without cells are new.

    Where features say nothing, perturbations with cells stay as they are.
    """
    additive, embedding = _shifts_of(model)
    mask = additive.mask
    columns = torch.arange(len(has_cells), device=model.device)
    probability = mask.probability()
    posterior = embedding.posterior(columns, (probability > 0.5).to(probability))
    own = _Shifts(
        *(x.double().cpu().numpy() for x in (probability, posterior.loc, posterior.variance))
    )
    rows = np.flatnonzero(has_cells)
    is_inferred = mask.variable is not None
    used = np.flatnonzero((own.probability[rows] > 0.5).any(0))
    square = embedding.scale**2
    prior_logit = mask.prior_logit().double().cpu().numpy() if is_inferred else own.mean * 0
    new = _Shifts(
        _expit(prior_logit) if is_inferred else own.probability.copy(),
        np.where(has_cells[:, None], own.mean, 0),
        np.where(has_cells[:, None], own.variance, square),
    )
    logit = np.where(has_cells[:, None], _logit(own.probability), prior_logit)
    weights = np.zeros(len(factors))
    if len(used):
        mean, variance = own.moments
        estimates = Estimates(mean[np.ix_(rows, used)], variance[np.ix_(rows, used)] + 1e-6)
        of_rows = [factor[rows] for factor in factors]
        prior = fitted_prior(estimates, of_rows)
        weights = prior.weights
        shifts = _left_out_or_new(prior, estimates, factors, has_cells)
        if is_inferred:
            open_ = Estimates(
                own.probability[np.ix_(rows, used)], np.full((len(rows), len(used)), 1e-3)
            )
            share = np.maximum(open_.value.var(0), 1e-6)
            of_mask = KernelPrior(weights, share, 0.0)
            inclusion = _left_out_or_new(of_mask, open_, factors, has_cells).mean
            least = shifts.mean**2 / (shifts.variance + shifts.mean**2)
            p = np.clip(np.maximum(inclusion, 1.05 * least), _BOUND, 1 - _BOUND)
        else:
            p = np.ones_like(shifts.mean)
        loc = shifts.mean / p
        spread = np.maximum((shifts.variance + shifts.mean**2) / p - loc**2, 1e-6)
        _combine(new, logit, own, used, _Shifts(p, loc, spread), has_cells, square, is_inferred)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    mask.set_logit(torch.from_numpy(logit).to(probability))
    after = torch.from_numpy(_expit(logit) > 0.5).to(probability)
    if not is_inferred:
        after = torch.ones_like(after)
    loc, scale = (torch.from_numpy(x).to(probability) for x in (new.mean, np.sqrt(new.variance)))
    embedding._set(after, loc, scale)
    if not weights.any():  # rho = 0: nothing is borrowed
        kept = torch.as_tensor(has_cells, device=model.device)
        state = model.module.state_dict()
        for name, value in state.items():
            if value.shape[:1] == kept.shape and not torch.equal(value, before[name]):
                value[kept] = before[name][kept]


def _left_out_or_new(
    prior: KernelPrior, estimates: Estimates, factors: list[np.ndarray], has_cells: np.ndarray
) -> RowPosterior:
    """Return what others say of each perturbation, `perturbation used`."""
    rows, others = np.flatnonzero(has_cells), np.flatnonzero(~has_cells)
    posterior = KernelPosterior(prior, estimates, [factor[rows] for factor in factors])
    both = np.zeros((2, len(has_cells), estimates.value.shape[1]))
    both[:, rows] = posterior.left_out()
    if len(others):
        both[:, others] = posterior.new([factor[others] for factor in factors])
    return RowPosterior(*both)


def _combine(
    new: _Shifts,
    logit: np.ndarray,
    own: _Shifts,
    used: np.ndarray,
    said: _Shifts,
    has_cells: np.ndarray,
    square: float,
    is_inferred: bool,
) -> None:
    """Write the posterior of shifts in the dimensions in use, given what others say of them.

    What the cells of a perturbation say is its own posterior, less its own prior N(0, s^2).
    """
    cells = has_cells[:, None]
    v = own.variance[:, used]
    information = np.where(cells, np.maximum(1 / v - 1 / square, 0), 0)
    total = np.where(cells, own.mean[:, used] / v, 0)
    precision = information + 1 / said.variance
    new.mean[:, used] = (total + said.mean / said.variance) / precision
    new.variance[:, used] = 1 / precision
    if is_inferred:
        average = said.probability[has_cells].mean(0)
        change = _logit(said.probability) - _logit(np.clip(average, _BOUND, 1 - _BOUND))
        logit[:, used] = np.where(cells, logit[:, used] + change, _logit(said.probability))


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    found: np.ndarray = np.log(p) - np.log1p(-p)
    return found


def _expit(logit: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(logit, -700, 700)))
    return found
