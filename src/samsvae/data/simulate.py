"""A screen simulated from SAMS-VAE's own process, with the true parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samsvae.data.conditions import ConditionParser, dosage_rows
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.settings.arguments import (
    Count,
    Natural,
    Positive,
    Probability,
    Several,
    Share,
    check_fields,
    checked,
)
from samsvae.settings.fields import takes


@dataclass(frozen=True, eq=False)
class Truth:
    """The parameters that a simulated screen was drawn from."""

    mask: pd.DataFrame
    """Perturbations x latent dimensions: 1 where a perturbation shifts the state."""
    embedding: pd.DataFrame
    """Perturbations x latent dimensions: size of the shift, where there is one."""
    weights: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """W1, b1, W2, b2 of the decoder: logits = W2 tanh(W1 z + b1) + b2."""
    inverse_dispersion: np.ndarray
    """theta, `gene`."""
    genes: tuple[str, ...]
    response: pd.Series | None = None
    """Probability that a cell responds, by perturbation or sgRNA; None: all cells do."""

    @property
    def shift(self) -> pd.DataFrame:
        """Mask * embedding."""
        return self.mask * self.embedding

    def proportions(self, state: np.ndarray) -> np.ndarray:
        """Return rho, `cell gene`, of states, `cell latent`."""
        w1, b1, w2, b2 = self.weights
        logits = np.tanh(state @ w1.T + b1) @ w2.T + b2
        rho = np.exp(logits - logits.max(1, keepdims=True))
        return rho / rho.sum(1, keepdims=True)

    def effects(
        self, conditions: Sequence[str], *, n_particles: int = 10_000, seed: int = 0
    ) -> pd.DataFrame:
        """Return the true ATE on scale "normalized" (1e4 rho), conditions x genes.

        Conditions are names joined by "+". The expectation is a mean over `n_particles` basal
        states.
        """
        basal = np.random.default_rng(seed).standard_normal((n_particles, self.mask.shape[1]))
        control = self.proportions(basal).mean(0)
        parts = map(ConditionParser().parts, conditions)
        shifts = (self.shift.loc[names].to_numpy().sum(0) for names in parts)
        rows = [1e4 * (self.proportions(basal + shift).mean(0) - control) for shift in shifts]
        return pd.DataFrame(rows, pd.Index(conditions, name="condition"), list(self.genes))


@dataclass(frozen=True, eq=False, repr=False)
class SimulatedScreen(Screen):
    """A screen with the parameters that it was drawn from."""

    truth: Truth = field(kw_only=True)
    state: np.ndarray = field(kw_only=True)
    """`cell true_latent`: z of every cell."""
    responds: sp.csr_matrix = field(kw_only=True)
    """`cell perturbation`: dosage of the perturbations that act in each cell."""

    def __getitem__(self, rows: Any) -> Self:
        """Return the screen of some cells: a boolean mask, a slice or positions."""
        return replace(
            super().__getitem__(rows), state=self.state[rows], responds=self.responds[rows]
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedScreenSettings:
    """Settings of `simulated_screen`.

    Parameters
    ----------
    n_perturbations, n_combinations, n_latent, n_genes
        Numbers of single perturbations, combinations of two, true latent dimensions and genes.
    cells_per_condition, n_control
        Cells of each condition, and of control.
    mask_prob
        Probability that a perturbation shifts a latent dimension.
    shift_scale
        Standard deviation of the embeddings.
    library_size
        Median library size, counts.
    decoder
        "programs": each latent dimension drives a program of genes (30 % of the genes belong to a
        second one), which identifies the dimensions; "mixed": every dimension drives every gene, so
        that only the sparsity of the shifts does.
    response_prob
        Probability that a perturbation acts in a cell that received it; with two numbers that of
        each sgRNA (or perturbation) is drawn uniformly between them.
    n_sgrnas
        sgRNAs of each perturbation, and of control; the sgRNA of each cell is recorded (in a
        combination that of its first perturbation).
    seed
        Same seed, same screen.
    """

    n_perturbations: Several = 40
    n_combinations: Natural = 20
    n_latent: Several = 10
    n_genes: Several = 300
    cells_per_condition: Count = 150
    n_control: Count = 1000
    mask_prob: Probability = 0.15
    shift_scale: Positive = 2.0
    library_size: Positive = 190.0
    decoder: Literal["programs", "mixed"] = "programs"
    response_prob: Share | tuple[Share, Share] = 1.0
    n_sgrnas: Natural = 0
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_fields(self)
        n_pairs = math.comb(self.n_perturbations, 2)
        if self.n_combinations > n_pairs:
            raise InputError(
                f"n_combinations is {self.n_combinations}: expected a number between 0 and "
                f"{n_pairs}, the pairs of {self.n_perturbations} perturbations"
            )
        first, second = self.response_range
        if first > second:
            raise InputError(f"response_prob is {first, second}: expected the smaller number first")

    @property
    def response_range(self) -> tuple[float, float]:
        """Lowest and highest probability to respond."""
        one = self.response_prob
        return one if isinstance(one, tuple) else (one, one)


@checked
@takes(SimulatedScreenSettings)
def simulated_screen(**settings: Any) -> SimulatedScreen:
    """Simulate a screen: single perturbations, combinations of two, and controls.

    z_i = z_basal_i + sum_t d_it (e_t * m_t) with m ~ Bernoulli(mask_prob), at least one per
    perturbation; e ~ N(0, shift_scale^2), redrawn where |e| < 1; rho = softmax of a network with
    four tanh units per latent dimension (see `decoder`); x ~ NegativeBinomial(l rho, theta).

    As in the control cells of Papalexi et al. 2021 (299 genes), the log library size has standard
    deviation 0.55 around a median of 190 counts, the log of the genes' baseline shares 1.86, and
    log theta mean 0.55 and standard deviation 1.

    All combinations are test cells, so none is seen in training; the cells of single perturbations
    and control are split 64/16/20 at random. The settings are those of `SimulatedScreenSettings`.

    Examples
    --------
    >>> screen.conditions
    ('control', 'G01', 'G02', 'G03', 'G02+G03')
    >>> screen.truth.effects(["G01"]).shape
    (1, 20)
    """
    chosen = SimulatedScreenSettings(**settings)
    rng = np.random.default_rng(chosen.seed)
    names = [f"G{i + 1:02d}" for i in range(chosen.n_perturbations)]
    truth = drawn_truth(
        rng, names, chosen.n_latent, chosen.n_genes, chosen.mask_prob, chosen.shift_scale
    )
    if chosen.decoder == "mixed":
        n_latent, n = chosen.n_latent, 4 * chosen.n_latent
        scales = {(n, n_latent): n_latent**-0.5, (n,): 0.7, (chosen.n_genes, n): 1.4 * n**-0.5}
        w1, b1, w2 = (rng.normal(0, scale, shape) for shape, scale in scales.items())
        truth = replace(truth, weights=(w1, b1, w2, truth.weights[3]))
    conditions: list[dict[str, float]] = [{}, *({name: 1.0} for name in names)]
    # Pairs (0, 1), (0, 2), ..., (1, 2), ... are numbered: a list of all could be long.
    n = len(names)
    pairs = np.sort(rng.choice(math.comb(n, 2), chosen.n_combinations, replace=False))
    starts = np.cumsum([0, *range(n - 1, 0, -1)])
    first = np.searchsorted(starts, pairs, side="right") - 1
    second = pairs - starts[first] + first + 1
    conditions += [{names[a]: 1.0, names[b]: 1.0} for a, b in zip(first, second, strict=True)]
    n_cells = np.repeat(chosen.cells_per_condition, len(conditions))
    n_cells[0] = chosen.n_control
    condition = np.repeat(np.arange(len(conditions), dtype=np.int32), n_cells)
    received = dosage_rows(conditions, names)[condition]

    basal = rng.standard_normal((len(condition), chosen.n_latent))
    # From a stream of their own, so that a screen without them does not change.
    responds, response, sgrna = _responses(
        np.random.default_rng([chosen.seed, 1]), received, names, chosen
    )
    truth = replace(truth, response=response)
    state = basal + responds @ truth.shift.to_numpy()
    rho, theta = truth.proportions(state), truth.inverse_dispersion
    size = np.exp(rng.normal(np.log(chosen.library_size), 0.55, len(state)))
    rate = rng.gamma(theta, 1 / theta, rho.shape) * rho * size[:, None]
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.uint16))
    at_random = rng.choice(["train", "valid", "test"], len(condition), p=[0.64, 0.16, 0.2])
    is_combination = np.diff(received.indptr) > 1
    screen = SimulatedScreen(
        registry=NameRegistry(truth.genes, tuple(names)),
        cells=pd.Index([f"cell{i:06d}" for i in range(len(condition))]),
        counts=counts,
        library_size=np.asarray(counts.sum(1), np.float64).ravel(),
        dosage=received,
        condition_names=tuple(map(ConditionParser().write, conditions)),
        condition=condition,
        batch=np.zeros(len(condition), np.int32),
        split=np.where(is_combination, "test", at_random).astype(object),
        sgrna=sgrna,
        truth=truth,
        state=state,
        responds=responds,
    )
    return screen[np.diff(counts.indptr) > 0]  # a cell without counts would not be observed


def _responses(
    rng: np.random.Generator,
    received: sp.csr_matrix,
    names: list[str],
    settings: SimulatedScreenSettings,
) -> tuple[sp.csr_matrix, pd.Series | None, pd.Categorical | None]:
    """Return what acts in each cell, the probabilities by sgRNA, and each cell's sgRNA."""
    n_sgrnas, sgrnas = settings.n_sgrnas, names
    column = received.indices.astype(np.int64)
    sgrna = None
    if n_sgrnas:
        sgrnas = [f"{name}g{i + 1}" for name in (*names, "NT") for i in range(n_sgrnas)]
        which = rng.integers(0, n_sgrnas, received.shape[0])
        column = column * n_sgrnas + np.repeat(which, np.diff(received.indptr))
        first = np.full(received.shape[0], len(names))
        is_perturbed = np.diff(received.indptr) > 0
        first[is_perturbed] = received.indices[received.indptr[:-1][is_perturbed]]
        sgrna = pd.Categorical.from_codes(first * n_sgrnas + which, sgrnas)
    if settings.response_range == (1.0, 1.0):
        return received, None, sgrna
    n = len(names) * max(1, n_sgrnas)
    response = pd.Series(rng.uniform(*settings.response_range, n), pd.Index(sgrnas[:n]))
    acting = received.copy()
    acting.data = received.data * (rng.random(len(column)) < response.to_numpy()[column])
    acting.eliminate_zeros()
    return acting, response, sgrna


def drawn_truth(
    rng: np.random.Generator,
    names: list[str],
    n_latent: int,
    n_genes: int,
    mask_prob: float,
    shift_scale: float,
) -> Truth:
    """Draw masks, embeddings, and a decoder in which each latent dimension has its genes."""
    shape = (len(names), n_latent)
    mask = rng.random(shape) < mask_prob
    mask[np.arange(len(names)), rng.integers(0, n_latent, len(names))] |= ~mask.any(1)
    embedding = rng.normal(0, shift_scale, shape)
    while (small := np.abs(embedding) < 1).any():
        embedding[small] = rng.normal(0, shift_scale, small.sum())
    # Each latent dimension drives a program of genes through four tanh units of its own; a gene
    # belongs to one program, and to a second one with probability 0.3.
    unit = np.repeat(np.arange(n_latent), 4)
    member = np.zeros((n_genes, n_latent), bool)
    member[np.arange(n_genes), rng.integers(0, n_latent, n_genes)] = True
    second = rng.integers(0, n_latent, n_genes)
    member[np.arange(n_genes), second] |= rng.random(n_genes) < 0.3
    slope = rng.uniform(0.5, 1.5, len(unit)) * rng.choice([-1, 1], len(unit))
    weights = (
        np.where(unit[:, None] == np.arange(n_latent), slope[:, None], 0.0),
        rng.normal(0, 0.7, len(unit)),
        np.where(member[:, unit], rng.normal(0, 0.7, (n_genes, len(unit))), 0.0),
        1.86 * rng.standard_normal(n_genes).clip(-2, 2),  # no gene is nearly unexpressed
    )
    columns = [f"z{i}" for i in range(n_latent)]
    return Truth(
        pd.DataFrame(mask.astype(float), names, columns),
        pd.DataFrame(embedding, names, columns),
        weights,
        np.exp(rng.normal(0.55, 1.0, n_genes)),
        tuple(f"gene{i + 1:03d}" for i in range(n_genes)),
    )
