"""Mechanisms: how what a cell received acts on it.

`AdditiveShift` displaces the state (SAMS-VAE, CPA-VAE, SVAE+), `Responding` wraps it for
perturbations that act in a share of the cells only, `Concatenate` shows the dosage to the decoder
(conditional VAE).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samsvae.model.embedding import Embedding, GaussianEmbedding
from samsvae.model.mask import Mask
from samsvae.model.networks import OneHot
from samsvae.types import Batch, Branches, Context, Dosage, Draw, LogWeights, ShiftNoise, Shifts

CellTerms: TypeAlias = Callable[[Context, Batch, Tensor], tuple[Tensor, Tensor]]
"""Returns the likelihood and the basal log ratio of cells, `particle cell` each, in nats, from
their context, their data and basal noise: `PerturbationVAE.cell_terms`."""

MAX_SLOTS = 3
"""Perturbations of a cell that may act or not: 2^n branches are summed, each as costly as a model
in which all of them act."""
_FIRST_LOG_ODDS = 1.5
"""Log odds of responding that training starts from: most cells respond until effects tell."""


class Mechanism(nn.Module, ABC):
    """How what a cell received acts on it."""

    n_context: int
    """Width of `context`, which an encoder may see."""
    state_widths: tuple[int, ...]
    """Widths of the parts that `apply_to` gives to the decoder."""
    variables: tuple[str, ...]
    """Latent variables shared by all cells that contribute a KL term."""
    cell_variables: tuple[str, ...] = ()
    """Latent variables of each cell that do, besides the basal state."""

    @property
    def additive(self) -> AdditiveShift | None:
        """The displacement of the state; None for a mechanism that displaces nothing."""
        return None

    @abstractmethod
    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> ShiftNoise:
        """Draw the noise of `draw`."""

    @abstractmethod
    def draw(self, columns: Tensor, noise: ShiftNoise, *, closed_form: bool = False) -> Shifts:
        """Draw the shifts of some columns of dosage only: the others cost nothing."""

    @abstractmethod
    def context(self, batch: Batch, shifts: Shifts) -> Context:
        """Return what the cells received, as the encoder may see it; `shifts` as in the batch."""

    @abstractmethod
    def apply_to(self, basal: Tensor, context: Context) -> tuple[Context, ...]:
        """Return what the decoder sees, part by part: the state z, and what else it may see."""

    def log_weights(
        self, terms: CellTerms, batch: Batch, shifts: Shifts, noise: Tensor
    ) -> LogWeights:
        """Return the terms of the objective from those of cells, given the basal states' noise."""
        return LogWeights(*terms(self.context(batch, shifts), batch, noise), shifts.log_ratios)

    def with_responses(
        self, terms: CellTerms, batch: Batch, shifts: Shifts, noise: Callable[[], Tensor]
    ) -> Batch:
        """Return cells with the posterior probability that what they received acts in them."""
        return batch

    def with_expected_responses(self, batch: Batch) -> Batch:
        """Return cells with the prior probability that what they received acts in them."""
        return batch

    def metrics(self) -> dict[str, Tensor]:
        """Return what training reports in addition to the objective."""
        return {}


class HillCurve(nn.Module):
    """d^h / (k^h + d^h), learned per column of dosage: grows with the dose and saturates at 1.

    Of a negative dose (of a deviation) it is that of its size, with its sign.

    k, the dose of half the full displacement, and h, the slope (the Hill coefficient), start at 1,
    the median dose; both are learned by their logarithms. With this curve an embedding is the
    displacement at saturation.

    References
    ----------
    Hill: The possible effects of the aggregation of the molecules of haemoglobin on its
    dissociation curves, J. Physiol. 40, 1910.
    """

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.log_half_dose = nn.Parameter(torch.zeros(n_columns))
        self.log_slope = nn.Parameter(torch.zeros(n_columns))

    def forward(self, dosage: Dosage) -> Tensor:
        """Return the share of the full displacement, `cell slot`; exactly 0 at dose 0."""
        received = dosage.dose != 0
        log_dose = torch.where(received, dosage.dose.abs(), 1.0).log()
        which = dosage.columns[dosage.position]
        slope = self.log_slope[which].exp()
        share = (slope * (log_dose - self.log_half_dose[which])).sigmoid()
        return torch.where(received, share * dosage.dose.sign(), 0.0)


class AdditiveShift(Mechanism):
    """Each column of dosage displaces the state by dose * mask * embedding (eq. 1 of the paper)."""

    def __init__(
        self, mask: Mask, embedding: Embedding, *, dose_response: HillCurve | None = None
    ) -> None:
        super().__init__()
        self.mask = mask
        self.embedding = embedding
        self.masks_fixed = False
        """Whether all masks are fixed at one, without a KL term: a phase of training."""
        self.dose_response = dose_response
        """None: the displacement is in proportion to the dose."""
        self.n_context = embedding.n_latent
        self.state_widths = (embedding.n_latent,)
        both = (mask.variable, embedding.variable)
        self.variables = tuple(name for name in both if name is not None)

    @property
    def additive(self) -> AdditiveShift:
        return self

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> ShiftNoise:
        embedding = self.embedding
        if self.masks_fixed:  # nothing is drawn of the mask
            noise = embedding.noise(columns, n_particles, generator)
            return ShiftNoise(noise.new_empty(*noise.shape[:2], 0), noise)
        return ShiftNoise(
            self.mask.noise(columns, n_particles, generator),
            embedding.noise(columns, n_particles, generator),
        )

    def draw(self, columns: Tensor, noise: ShiftNoise, *, closed_form: bool = False) -> Shifts:
        mask = self._mask(columns, noise, closed_form=closed_form)
        embedding = self.embedding.draw(
            columns, mask.value, noise.embedding, closed_form=closed_form
        )
        draws = (self.mask.variable, mask), (self.embedding.variable, embedding)
        ratios = {name: draw.log_ratio for name, draw in draws if name is not None}
        return Shifts(mask.value * embedding.value, ratios)

    def _mask(self, columns: Tensor, noise: ShiftNoise, *, closed_form: bool) -> Draw:
        if not self.masks_fixed:
            return self.mask.draw(columns, noise.mask, closed_form=closed_form)
        shape = (len(noise.embedding), len(columns), self.embedding.n_latent)
        ones = next(self.parameters()).new_ones(shape)
        return Draw(ones, ones.new_zeros(shape[:-1]))

    def rotate(self, matrix: Tensor) -> None:
        """Displace in the axes of z Q in place of z, given that all masks are one."""
        assert self.masks_fixed or self.mask.variable is None
        self.embedding.rotate(matrix)

    def translate(self, offset: Tensor) -> None:
        """Displace by e - c in place of e."""
        self.embedding.translate(offset)

    @torch.no_grad()
    def most_probable(self) -> tuple[Tensor, Tensor]:
        """Return the most probable mask, and the embeddings' mean given it."""
        mask = (self.mask.probability() > 0.5).float()
        columns = torch.arange(len(mask), device=mask.device)
        return mask, self.embedding.mean(columns, mask)

    def context(self, batch: Batch, shifts: Shifts) -> Tensor:
        """Return D (M * E), `particle cell latent`: the displacement of each cell."""
        dosage = batch.dosage
        n_cells, n_slots = dosage.position.shape
        value = shifts.value.index_select(1, dosage.position.flatten())
        value = value.unflatten(1, (n_cells, n_slots))
        return (value * self.dose(dosage).unsqueeze(-1)).sum(2)

    def dose(self, dosage: Dosage) -> Tensor:
        """Return the factor of the shift of each column that a cell received, `cell slot`."""
        dose = dosage.dose if self.dose_response is None else self.dose_response(dosage)
        return dose if dosage.acting is None else dose * dosage.acting

    def apply_to(self, basal: Tensor, context: Context) -> tuple[Tensor]:
        """Return the state z = basal + context, `particle cell latent`."""
        assert isinstance(context, Tensor)
        return (basal + context,)

    def metrics(self) -> dict[str, Tensor]:
        """Return the share of inclusion probabilities of at most 1/2, where they are inferred."""
        if self.mask.variable is None or self.masks_fixed:
            return {}
        return {"mask_sparsity": (self.mask.probability() <= 0.5).double().mean()}

    @property
    def kinds(self) -> Tensor | None:
        """`column`: position in `KINDS` of each column of dosage; None: all are shared effects."""
        return getattr(self.embedding, "kinds", None)

    @torch.no_grad()
    def without_cells(self, columns: Tensor) -> None:
        """Set columns that no cells received (`column`, bool) to the prior of their kind."""
        mask, embedding = self.mask, self.embedding
        if isinstance(embedding, GaussianEmbedding) and bool(columns.any()):
            nothing = torch.zeros_like(mask.evidence)
            mask.update(nothing, torch.zeros_like(columns), columns=columns)
            embedding.without_cells((mask.probability() > 0.5).float(), columns)


class Responding(Mechanism):
    """A displacement (`inner`) that takes place in a share of the cells: the responders.

    w_ij ~ Bernoulli(pi_r): whether what cell i received in slot j acts in it, r the reagent that
    delivered it: a perturbation (for cells whose sgRNA is not known) or an sgRNA. w multiplies the
    dose (eq. 1 of the paper). pi_r ~ Beta(1, 1) is a point while the networks are trained (its
    prior is flat, so it contributes no KL term), and gets its posterior in closed form when they
    are. The posterior of w is exact given the states of its branches. Where a cell received
    something with the probability `dosage.presence`, that times pi_r is the prior of w.
    """

    cell_variables = ("response",)

    def __init__(self, inner: AdditiveShift, n_reagents: int) -> None:
        super().__init__()
        self.inner = inner
        self.logits = nn.Parameter(torch.full((n_reagents,), _FIRST_LOG_ODDS))
        self.n_context, self.state_widths = inner.n_context, inner.state_widths
        self.variables = inner.variables

    @property
    def additive(self) -> AdditiveShift:
        return self.inner

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> ShiftNoise:
        return self.inner.noise(columns, n_particles, generator)

    def draw(self, columns: Tensor, noise: ShiftNoise, *, closed_form: bool = False) -> Shifts:
        return self.inner.draw(columns, noise, closed_form=closed_form)

    def context(self, batch: Batch, shifts: Shifts) -> Tensor:
        return self.inner.context(batch, shifts)

    def apply_to(self, basal: Tensor, context: Context) -> tuple[Tensor]:
        return self.inner.apply_to(basal, context)

    def metrics(self) -> dict[str, Tensor]:
        return self.inner.metrics()

    def probability(self) -> Tensor:
        """Return pi, `reagent`."""
        return self.logits.sigmoid()

    def reagent(self, dosage: Dosage) -> Tensor:
        """Return what delivered each perturbation, `cell slot`."""
        return dosage.columns[dosage.position] if dosage.reagent is None else dosage.reagent

    def log_prior(self, dosage: Dosage, acting: Tensor) -> Tensor:
        """Return log p(w | pi), `branch cell`, nats, of w, `branch slot`; an empty slot: 1/2."""
        logits = self.logits[self.reagent(dosage)]
        if dosage.presence is not None:
            logits = with_presence(logits, dosage.presence)
        sign = 2 * acting.unsqueeze(1) - 1
        # An empty slot has no reagent, and none gets a gradient from it, not even from rounding.
        logits = torch.where(dosage.dose != 0, logits, torch.zeros_like(logits))
        return F.logsigmoid(sign * logits).sum(-1)

    def branches(self, terms: CellTerms, batch: Batch, shifts: Shifts, noise: Tensor) -> Branches:
        """Return the terms of cells for each subset of perturbations that act, on shared noise."""
        dosage = batch.dosage
        n_cells, n_slots = dosage.dose.shape
        acting = all_patterns(n_slots, dosage.dose)
        contexts = [self.context(_acting_in(batch, w.expand(n_cells, -1)), shifts) for w in acting]
        # One draw of the shifts may serve all particles: every branch has as many.
        context = torch.cat([values.expand(len(noise), -1, -1) for values in contexts])
        of_cells = terms(context, batch, noise.repeat(len(acting), 1, 1))
        likelihood, basal = (values.unflatten(0, (len(acting), -1)) for values in of_cells)
        return Branches(acting, likelihood, basal, self.log_prior(dosage, acting))

    def log_weights(
        self, terms: CellTerms, batch: Batch, shifts: Shifts, noise: Tensor
    ) -> LogWeights:
        """Return the terms with the branches summed, as expectations over q(w).

        log sum_w p(w) p(x, z_w) / q(z_w) is the sum of three means over the branches with weight
        q(w): likelihood, basal, log p(w) - log q(w). With KL terms in closed form q(w) sees the
        very draw of the state, so the ELBO is a little too high.
        """
        branches = self.branches(terms, batch, shifts, noise)
        log_prior = branches.log_prior.unsqueeze(1)
        joint = branches.likelihood + branches.basal + log_prior
        log_q = joint.log_softmax(0)
        q = log_q.exp()
        return LogWeights(
            (q * branches.likelihood).sum(0),
            (q * branches.basal).sum(0),
            shifts.log_ratios,
            (q * (log_prior - log_q)).sum(0),
        )

    def with_responses(
        self, terms: CellTerms, batch: Batch, shifts: Shifts, noise: Callable[[], Tensor]
    ) -> Batch:
        """Return cells with q(w), decided by the mean over particles of the branches' terms."""
        branches = self.branches(terms, batch, shifts, noise())
        joint = (branches.likelihood + branches.basal).mean(1) + branches.log_prior
        return _acting_in(batch, joint.softmax(0).T @ branches.acting)

    def with_expected_responses(self, batch: Batch) -> Batch:
        dosage = batch.dosage
        probability = self.probability()[self.reagent(dosage)]
        if dosage.presence is not None:
            probability = probability * dosage.presence
        return _acting_in(batch, probability)


class Concatenate(Mechanism):
    """The decoder sees state and dosage side by side (conditional VAE): nothing is drawn."""

    def __init__(self, n_columns: int, n_latent: int) -> None:
        super().__init__()
        self.n_context = OneHot(n_columns)
        self.state_widths = (n_latent, self.n_context)
        self.variables = ()

    def noise(self, columns: Tensor, n_particles: int, generator: torch.Generator) -> ShiftNoise:
        empty = torch.empty(n_particles, len(columns), 0, device=columns.device)
        return ShiftNoise(empty, empty)

    def draw(self, columns: Tensor, noise: ShiftNoise, *, closed_form: bool = False) -> Shifts:
        return Shifts(noise.embedding, {})

    def context(self, batch: Batch, shifts: Shifts) -> Dosage:
        return batch.dosage

    def apply_to(self, basal: Tensor, context: Context) -> tuple[Tensor, Context]:
        """Return the state z = basal, and the dosage."""
        return basal, context


def of_batch(shifts: Shifts, columns: Tensor, dosage: Dosage) -> Shifts:
    """Select the shifts of a batch's columns from those of many (sorted) ones, without terms."""
    if len(columns) == 0:  # control cells alone: their one slot is empty
        n_particles, _, n_latent = shifts.value.shape
        return Shifts(shifts.value.new_zeros(n_particles, 1, n_latent), {})
    position = torch.searchsorted(columns, dosage.columns).clamp(max=len(columns) - 1)
    return Shifts(shifts.value.index_select(1, position), {})


def with_presence(log_odds: Tensor, presence: Tensor) -> Tensor:
    """Return logit(r pi) of logit(pi), r the probability that a cell received it at all.

    >>> log_odds = torch.tensor([1.5, 0.0], dtype=torch.float64)
    >>> with_presence(log_odds, torch.tensor([1.0, 0.5])).sigmoid().tolist()
    [0.8175744761936437, 0.25]
    """
    log_p = F.logsigmoid(log_odds) + presence.log()
    log_rest = torch.logaddexp((1 - presence).log(), presence.log() + F.logsigmoid(-log_odds))
    return log_p - log_rest


def all_patterns(n_slots: int, like: Tensor) -> Tensor:
    """Return all w in {0, 1}^n, `branch slot`; the first is 0 in all slots, the last 1.

    >>> all_patterns(2, torch.zeros(1)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    branch = torch.arange(2**n_slots, device=like.device).unsqueeze(1)
    slot = torch.arange(n_slots, device=like.device)
    return (branch.bitwise_right_shift(slot) & 1).to(like.dtype)


def _acting_in(batch: Batch, acting: Tensor) -> Batch:
    return batch._replace(dosage=batch.dosage._replace(acting=acting))
