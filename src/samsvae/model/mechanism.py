"""Mechanisms: how a perturbation acts on a cell."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from samsvae.model.dose import HillResponse
from samsvae.model.embedding import Embedding
from samsvae.model.mask import Mask
from samsvae.model.networks import OneHot
from samsvae.model.responders import Responders
from samsvae.types import Context, Dosage, Draw, ShiftNoise, Shifts


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
