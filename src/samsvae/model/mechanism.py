"""How a displacement grows with the dose.

Responders: the cells in which a perturbation that they received acts.

Mechanisms: how a perturbation acts on a cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samsvae.model.embedding import Embedding
from samsvae.model.mask import Mask
from samsvae.model.networks import OneHot
from samsvae.types import Context, Dosage, Draw, ShiftNoise, Shifts


class HillResponse(nn.Module):
    """d^h / (k^h + d^h), learned per perturbation: grows with the dose and saturates at 1.

    k is the dose of half the full displacement, h the slope (the Hill coefficient); both are
    learned by their logarithms. With it an embedding is the displacement at saturation.

    Parameters
    ----------
    half_dose
        Where k starts, `perturbation`, in the units of the dose; h starts at 1.

    References
    ----------
    Hill: The possible effects of the aggregation of the molecules of haemoglobin on its
    dissociation curves, J. Physiol. 40, 1910.
    """

    def __init__(self, half_dose: Tensor) -> None:
        super().__init__()
        self.log_half_dose = nn.Parameter(half_dose.log())
        self.log_slope = nn.Parameter(torch.zeros_like(half_dose))

    def forward(self, dosage: Dosage) -> Tensor:
        """Return the response, `cell slot`, between 0 and 1; exactly 0 at dose 0."""
        received = dosage.dose != 0
        log_dose = torch.where(received, dosage.dose, 1.0).log()
        which = dosage.perturbations[dosage.position]
        slope = self.log_slope[which].exp()
        response = (slope * (log_dose - self.log_half_dose[which])).sigmoid()
        return torch.where(received, response, 0.0)


MOST = 3
"""Perturbations of a cell: 2^n branches are summed, each as dear as a model without."""
_START = 1.5
"""Log odds that training starts from: most cells respond until effects tell them apart."""


class Responders(nn.Module):
    """w_ij ~ Bernoulli(pi_r): whether perturbation j acts in cell i, which reagent r gave it.

    w multiplies the dose (eq. 1 of the paper). pi_r ~ Beta(1, 1) is a point while the networks are
    trained (the density of its prior is constant, so it pays nothing), and gets its posterior in
    closed form when they are. The posterior of w is exact given the states of its branches, see
    `PerturbationVAE.branches`.

    Parameters
    ----------
    n_reagents
        Perturbations (for cells whose sgRNA is not known), and then sgRNAs of a perturbation.
    """

    def __init__(self, n_reagents: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((n_reagents,), _START))

    def probability(self) -> Tensor:
        """Return pi, `reagent`."""
        return self.logits.sigmoid()

    def reagent(self, dosage: Dosage) -> Tensor:
        """Return what gave each perturbation, `cell slot`."""
        if dosage.reagent is None:
            return dosage.perturbations[dosage.position]
        return dosage.reagent

    def log_prior(self, dosage: Dosage, acting: Tensor) -> Tensor:
        """Return log p(w | pi) of some w, `branch cell`.

        Parameters
        ----------
        dosage
            Of the cells.
        acting
            w in {0, 1}, `branch slot`. In an empty slot both are alike.
        """
        logits = self.logits[self.reagent(dosage)]
        sign = 2 * acting.unsqueeze(1) - 1
        # An empty slot has no reagent: none is to get a gradient from it, not even from rounding.
        logits = torch.where(dosage.dose != 0, logits, torch.zeros_like(logits))
        return F.logsigmoid(sign * logits).sum(-1)


def every_pattern(n_slots: int, like: Tensor) -> Tensor:
    """Return all w in {0, 1}^n, `branch slot`; the first is 0 in all slots, the last 1.

    >>> every_pattern(2, torch.zeros(1)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    branch = torch.arange(2**n_slots, device=like.device).unsqueeze(1)
    slot = torch.arange(n_slots, device=like.device)
    return (branch.bitwise_right_shift(slot) & 1).to(like.dtype)


class Mechanism(nn.Module, ABC):
    """How what a cell received acts on it."""

    n_context: int
    """Width of `context`, which an encoder may see."""
    state_widths: tuple[int, ...]
    """Widths of the parts that `apply_to` gives to the decoder."""
    variables: tuple[str, ...]
    """Latent variables shared by all cells, which the objective pays for."""

    def __init__(self) -> None:
        super().__init__()
        self.responders: Responders | None = None
        """In which cells what they received acts; None: in all."""

    @abstractmethod
    def noise(
        self, perturbations: Tensor, n_particles: int, generator: torch.Generator
    ) -> ShiftNoise:
        """Draw the noise of `draw`."""

    @abstractmethod
    def draw(
        self, perturbations: Tensor, noise: ShiftNoise, *, closed_form: bool = False
    ) -> Shifts:
        """Draw the shifts of some perturbations only: the others cost nothing."""

    @abstractmethod
    def context(self, dosage: Dosage, shifts: Shifts) -> Context:
        """Return what the cells received, as the encoder may see it.

        `shifts` are those of `dosage.perturbations`, in that order.
        """

    @abstractmethod
    def apply_to(self, basal: Tensor, context: Context) -> tuple[Context, ...]:
        """Return what the decoder sees, part by part: the state z, and what else it may see."""

    def metrics(self) -> dict[str, Tensor]:
        """Return what training reports beside the objective."""
        return {}


class AdditiveShift(Mechanism):
    """Each perturbation displaces the state by dose * mask * embedding (eq. 1 of the paper).

    Parameters
    ----------
    mask
        M, from `samsvae.model.mask`.
    embedding
        E, from `samsvae.model.embedding`.
    response
        How the displacement grows with the dose; None: in proportion to it.
    responders
        In which cells it takes place; None: in all.
    """

    def __init__(
        self,
        mask: Mask,
        embedding: Embedding,
        *,
        response: HillResponse | None = None,
        responders: Responders | None = None,
    ) -> None:
        super().__init__()
        self.responders = responders
        self.mask = mask
        self.embedding = embedding
        self.dense = False
        """Whether all masks are taken as open, for nothing: a phase of training."""
        self.response = response
        self.n_context = embedding.n_latent
        self.state_widths = (embedding.n_latent,)
        both = (mask.variable, embedding.variable)
        self.variables = tuple(name for name in both if name is not None)

    def noise(
        self, perturbations: Tensor, n_particles: int, generator: torch.Generator
    ) -> ShiftNoise:
        embedding = self.embedding
        if self.dense:  # nothing is drawn of the mask
            noise = embedding.noise(perturbations, n_particles, generator)
            return ShiftNoise(noise.new_empty(*noise.shape[:2], 0), noise)
        return ShiftNoise(
            self.mask.noise(perturbations, n_particles, generator),
            embedding.noise(perturbations, n_particles, generator),
        )

    def draw(
        self, perturbations: Tensor, noise: ShiftNoise, *, closed_form: bool = False
    ) -> Shifts:
        mask = self._mask(perturbations, noise, closed_form=closed_form)
        embedding = self.embedding.draw(
            perturbations, mask.value, noise.embedding, closed_form=closed_form
        )
        paid = (self.mask.variable, mask), (self.embedding.variable, embedding)
        ratios = {name: draw.log_ratio for name, draw in paid if name is not None}
        return Shifts(mask.value * embedding.value, ratios)

    def _mask(self, perturbations: Tensor, noise: ShiftNoise, *, closed_form: bool) -> Draw:
        if not self.dense:
            return self.mask.draw(perturbations, noise.mask, closed_form=closed_form)
        shape = (len(noise.embedding), len(perturbations), self.embedding.n_latent)
        ones = next(self.parameters()).new_ones(shape)
        return Draw(ones, ones.new_zeros(shape[:-1]))

    def rotate(self, matrix: Tensor) -> None:
        """Displace in the axes of z Q in place of z, given that all masks are open."""
        assert self.dense or self.mask.variable is None
        self.embedding.rotate(matrix)

    def move(self, offset: Tensor) -> None:
        """Displace by e - c in place of e."""
        self.embedding.move(offset)

    @torch.no_grad()
    def most_probable(self) -> tuple[Tensor, Tensor]:
        """Return the most probable mask, and the embeddings' mean given it."""
        mask = (self.mask.probability() > 0.5).float()
        everyone = torch.arange(len(mask), device=mask.device)
        return mask, self.embedding.mean(everyone, mask)

    def context(self, dosage: Dosage, shifts: Shifts) -> Tensor:
        """Return D (M * E), `particle cell latent`: the displacement of each cell."""
        n_cells, n_slots = dosage.position.shape
        value = shifts.value.index_select(1, dosage.position.flatten())
        value = value.unflatten(1, (n_cells, n_slots))
        return (value * self.dose(dosage).unsqueeze(-1)).sum(2)

    def dose(self, dosage: Dosage) -> Tensor:
        """Return what multiplies the shift of each perturbation received, `cell slot`."""
        dose = dosage.dose if self.response is None else self.response(dosage)
        return dose if dosage.acting is None else dose * dosage.acting

    def apply_to(self, basal: Tensor, context: Context) -> tuple[Tensor]:
        """Return the state z = basal + context, `particle cell latent`."""
        assert isinstance(context, Tensor)
        return (basal + context,)

    def metrics(self) -> dict[str, Tensor]:
        """Return the share of inclusion probabilities of at most 1/2, where they are inferred."""
        if self.mask.variable is None or self.dense:
            return {}
        return {"mask_sparsity": (self.mask.probability() <= 0.5).double().mean()}


class Concatenate(Mechanism):
    """The decoder sees the state and the dosage side by side (conditional VAE).

    Nothing is shared by the cells but the decoder's weights, so nothing is drawn.

    Parameters
    ----------
    n_perturbations, n_latent
        T and L.
    """

    def __init__(self, n_perturbations: int, n_latent: int) -> None:
        super().__init__()
        self.n_context = OneHot(n_perturbations)
        self.state_widths = (n_latent, self.n_context)
        self.variables = ()

    def noise(
        self, perturbations: Tensor, n_particles: int, generator: torch.Generator
    ) -> ShiftNoise:
        empty = torch.empty(n_particles, len(perturbations), 0, device=perturbations.device)
        return ShiftNoise(empty, empty)

    def draw(
        self, perturbations: Tensor, noise: ShiftNoise, *, closed_form: bool = False
    ) -> Shifts:
        return Shifts(noise.embedding, {})

    def context(self, dosage: Dosage, shifts: Shifts) -> Dosage:
        return dosage

    def apply_to(self, basal: Tensor, context: Context) -> tuple[Tensor, Context]:
        """Return the state z = basal, and the dosage."""
        return basal, context
