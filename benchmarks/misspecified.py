"""Simulated screens whose counts are not what the model takes them to be, and their true effects.

States are those of `samsvae.datasets.simulated_screen`; counts are drawn anew from them:

- "as modelled": negative binomial, a dispersion per gene;
- "dispersion": negative binomial, the dispersions of each condition its own;
- "zeros": the same as modelled, and of each gene up to three tenths of the counts are lost;
- "lognormal": Poisson of a rate with lognormal noise of the same variance.

And in two batches, in which every gene is expressed differently: "told", the cells of conditions
spread unevenly over them and the model told of it; "untold", spread evenly and not told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

import samsvae
from samsvae.data.simulate import SimulatedScreen
from samsvae.types import Scale

N_PERTURBATIONS, N_NULL = 30, 10
_TRUTH = 8000
"""Cells of each arm of which the true effects are means."""


class Case(NamedTuple):
    """A screen."""

    decoder: str
    cells: int
    """Of each condition."""
    shift_scale: float
    counts: str = "as modelled"
    batches: str = "one"
    seed: int = 0


@dataclass(frozen=True)
class Drawing:
    """How counts are drawn from states."""

    case: Case
    simulated: SimulatedScreen
    dispersion: dict[str, np.ndarray]
    """By condition, `gene`."""
    lost: np.ndarray
    """`gene`: the share of counts that is lost."""
    batch: np.ndarray
    """`batch gene`: factors of expression."""

    @classmethod
    def of(cls, case: Case, simulated: SimulatedScreen) -> Drawing:
        """Choose what is to be chosen."""
        rng = np.random.default_rng([case.seed, 2])
        theta = simulated.truth.inverse_dispersion
        own = {
            name: theta * np.exp(rng.normal(0, 0.7, len(theta))) for name in simulated.perturbations
        }
        return cls(
            case,
            simulated,
            own if case.counts == "dispersion" else {},
            rng.uniform(0, 0.3, len(theta)) * (case.counts == "zeros"),
            np.exp(rng.normal(0, 0.3, (2, len(theta)))),
        )

    def counts(
        self,
        state: np.ndarray,
        size: np.ndarray,
        batch: np.ndarray,
        condition: str,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return counts of some cells of a condition, `cell gene`."""
        rho = self.simulated.truth.proportions(state)
        if self.case.batches != "one":
            rho = rho * self.batch[batch]
            rho /= rho.sum(1, keepdims=True)
        theta = self.dispersion.get(condition, self.simulated.truth.inverse_dispersion)
        if self.case.counts == "lognormal":
            spread = np.log1p(1 / theta)
            noise = np.exp(rng.normal(-spread / 2, np.sqrt(spread), rho.shape))
        else:
            noise = rng.gamma(theta, 1 / theta, rho.shape)
        drawn = rng.poisson(noise * rho * size[:, None])
        return np.where(rng.random(rho.shape) < self.lost, 0, drawn)

    def true_effects(self, conditions: list[str], scale: Scale = "log") -> pd.DataFrame:
        """Return the true effects at the cells' library sizes, by drawn counts; 0 of nulls."""
        rng = np.random.default_rng([self.case.seed, 3])
        shift = self.simulated.truth.shift
        basal = rng.standard_normal((_TRUTH, shift.shape[1]))
        size = rng.choice(self.simulated.library_size, _TRUTH)
        batch = rng.integers(0, 2, _TRUTH)

        def mean(condition: str, moved: np.ndarray) -> np.ndarray:
            drawn = self.counts(basal + moved, size, batch, condition, rng)
            share = drawn * (1e4 / np.maximum(drawn.sum(1, keepdims=True), 1))
            found: np.ndarray = (np.log2(1 + share) if scale == "log" else share).mean(0)
            return found

        control = mean("control", np.zeros(shift.shape[1]))
        found = pd.DataFrame(0.0, conditions, list(self.simulated.genes))
        for name in conditions:
            if name in shift.index:
                found.loc[name] = mean(name, shift.loc[name].to_numpy()) - control
        return found


def screen(case: Case) -> tuple[samsvae.Screen, Drawing]:
    """Return a screen with some perturbations that do nothing: control cells under other names."""
    simulated = samsvae.datasets.simulated_screen(
        decoder=case.decoder,  # type: ignore[arg-type]
        cells_per_condition=case.cells,
        shift_scale=case.shift_scale,
        n_combinations=0,
        n_perturbations=N_PERTURBATIONS,
        n_control=1000 + N_NULL * case.cells,
        seed=case.seed,
    )
    drawing = Drawing.of(case, simulated)
    rng = np.random.default_rng(case.seed)
    adata = simulated.to_anndata()
    label = adata.obs["perturbation"].astype(object).to_numpy()
    control = np.flatnonzero(simulated.is_control)
    rng.shuffle(control)
    nothing = [f"null{i}" for i in range(N_NULL)]
    for i, name in enumerate(nothing):
        label[control[i * case.cells : (i + 1) * case.cells]] = name
    uneven = case.batches == "told"
    share = {name: rng.uniform(0.2, 0.8) if uneven else 0.5 for name in sorted(set(label))}
    batch = (rng.random(len(label)) < [share[name] for name in label]).astype(int)
    adata.obs["perturbation"] = label
    adata.obs["batch"] = np.array(["one", "two"])[batch]
    if case.counts != "as modelled" or case.batches != "one":
        drawn = np.zeros(adata.shape, np.float32)
        for name in sorted(set(label)):
            rows = np.flatnonzero(label == name)
            size = simulated.library_size[rows]
            drawn[rows] = drawing.counts(simulated.state[rows], size, batch[rows], name, rng)
        adata = adata[drawn.sum(1) > 0].copy()
        adata.X = sp.csr_matrix(drawn[drawn.sum(1) > 0])
    told = {"batch_key": "batch"} if case.batches == "told" else {}
    return samsvae.Screen.from_anndata(adata, split_key="split", **told), drawing
