"""Do answers hold where something is off? `benchmarks/regimes.py [SITUATION ...] [--quick]`.

With --quick it is two situations, and an error if calls are often wrong.

Simulated screens with what real screens have: library sizes that a perturbation changes, other
dispersions, one gene of many counts, few cells, other cell states, ambient RNA, doublets, wrong
labels, clones. The simulator is not the model: programs of genes are changed by log fold changes of
their own, over a log-normal variation between cells, and counts are negative binomial with a
dispersion per gene.

True effects are log2 fold changes of expected counts that a gene would have at the same library
size, relative to the genes that do not change. A call is wrong if its gene does not change, or in
the other direction. `power` is the share of changed genes (by more than a quarter of a log2) that
are called in the right direction; `coverage` how many 90 % intervals hold the truth, of changed
genes and of others. Beside: t-tests (Welch) and Wilcoxon's test of log-normalised cells, and
Welch's of pseudobulks (ten random groups of cells each), all with Benjamini and Hochberg's
procedure over conditions and genes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

import samsvae

N_GENES, N_PERTURBATIONS, N_INERT, N_PROGRAMS = 150, 12, 4, 3
N_CONTROL, N_CELLS = 400, 110
DEPTH = 900
LOG_2 = np.log(2)


@dataclass
class Cells:
    """A screen, as it is drawn: what a situation may change before the counts are drawn."""

    rng: np.random.Generator
    condition: np.ndarray
    """`cell`: 0 is control."""
    change: np.ndarray
    """`condition gene`: natural log fold changes."""
    log_share: np.ndarray
    """`gene`."""
    size: np.ndarray
    """`cell`: expected counts."""
    inverse_dispersion: np.ndarray
    """`gene`, or `condition gene`."""
    activity: np.ndarray | None = None
    """`condition program`."""
    extra: np.ndarray | float = 0.0
    """`cell gene`: log fold changes that are not of the perturbation."""
    obs: dict[str, np.ndarray] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    """How the screen is read."""
    asked: dict[str, Any] = field(default_factory=dict)
    """How discoveries and effects are asked for."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Combinations without cells that are asked for, in place of the perturbations."""

    @property
    def names(self) -> list[str]:
        return [f"P{i:02d}" for i in range(1, len(self.change))]

    @property
    def asked_for(self) -> tuple[list[str], np.ndarray]:
        """The conditions that are asked for, and their true log2 fold changes."""
        if not self.pairs:
            return self.names, self.change[1:] / LOG_2
        names = [f"P{a:02d}+P{b:02d}" for a, b in self.pairs]
        return names, np.array([self.change[a] + self.change[b] for a, b in self.pairs]) / LOG_2

    def counts(self) -> np.ndarray:
        """Draw counts, `cell gene`."""
        n, n_genes = len(self.condition), self.change.shape[1]
        loadings = self.rng.normal(0, 0.4, (3, n_genes)) * (self.rng.random((3, n_genes)) < 0.25)
        basal = self.rng.normal(size=(n, 3)) @ loadings
        log_mean = self.log_share + basal + self.change[self.condition] + self.extra
        shape = self.inverse_dispersion
        shape = np.broadcast_to(shape[self.condition] if shape.ndim > 1 else shape, log_mean.shape)
        mean = np.exp(log_mean) * self.size[:, None]
        return self.rng.poisson(mean * self.rng.gamma(shape) / shape)


def drawn(
    seed: int,
    *,
    n_cells: Any = N_CELLS,
    theta: tuple[float, float] = (2, 20),
    n_perturbations: int = N_PERTURBATIONS,
    n_inert: int = N_INERT,
    n_programs: int = N_PROGRAMS,
) -> Cells:
    """Return a screen in which nothing is off."""
    rng = np.random.default_rng(seed)
    log_share = rng.normal(0, 1, N_GENES)
    log_share -= np.log(np.exp(log_share).sum())
    programs = np.zeros((n_programs, N_GENES))
    for program in programs:
        genes = rng.choice(N_GENES, 24, replace=False)
        program[genes] = rng.choice([-1, 1], 24) * rng.uniform(0.3, 1.0, 24)
        # Up and down weigh alike, so that the sum of counts hardly changes.
        weight = np.exp(log_share) * program
        up, down = weight[weight > 0].sum(), -weight[weight < 0].sum()
        program[program > 0] *= np.clip(np.sqrt(down / up), 0.4, 2)
        program[program < 0] *= np.clip(np.sqrt(up / down), 0.4, 2)
    activity = np.zeros((n_perturbations + 1, n_programs))
    for i in range(1, n_perturbations - n_inert + 1):
        activity[i, i % n_programs] = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
        if rng.random() < 0.3:
            activity[i, (i + 1) % n_programs] = rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
    per = np.broadcast_to(n_cells, n_perturbations)
    condition = np.repeat(np.arange(n_perturbations + 1), [N_CONTROL, *per])
    size = DEPTH * np.exp(rng.normal(0, 0.35, len(condition)) - 0.35**2 / 2)
    shape = np.exp(rng.uniform(*np.log(theta), N_GENES))
    return Cells(rng, condition, activity @ programs, log_share, size, shape, activity=activity)


def clean(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells in which nothing is off."""
    cells = drawn(seed)
    return cells, cells.counts()


def library_size(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells whose perturbations, inert ones among them, change the library size."""
    cells = drawn(seed)
    factor = np.ones(N_PERTURBATIONS + 1)
    factor[[1, 2, 9]], factor[[3, 10]], factor[11] = 0.4, 2.2, 0.7
    cells.size *= factor[cells.condition]
    return cells, cells.counts()


def dispersion(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells whose genes have another dispersion in each condition."""
    cells = drawn(seed, theta=(0.1, 10))
    factor = np.exp(cells.rng.normal(0, 0.7, (N_PERTURBATIONS + 1, N_GENES)))
    cells.inverse_dispersion = cells.inverse_dispersion * factor
    return cells, cells.counts()


def composition(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells in which two perturbations raise one gene of 12 % of the counts fourfold."""
    cells = drawn(seed)
    top = int(np.argmax(cells.log_share))
    cells.log_share[top] = np.log(0.12)
    cells.change[[9, 10], top] += np.log(4)
    return cells, cells.counts()


def few_cells(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells of which some perturbations leave 5 to 15."""
    n_cells = np.full(N_PERTURBATIONS, N_CELLS)
    n_cells[[0, 1, 2, 3, 8, 9]] = 5, 8, 11, 15, 5, 12
    cells = drawn(seed, n_cells=n_cells)
    return cells, cells.counts()


def cell_states(seed: int, *, told: bool = False) -> tuple[Cells, np.ndarray]:
    """Return cells of which half the conditions have another mix of two states."""
    cells = drawn(seed)
    change = np.zeros(N_GENES)
    genes = cells.rng.choice(N_GENES, 36, replace=False)
    change[genes] = cells.rng.choice([-1, 1], 36) * cells.rng.uniform(0.5, 1.2, 36)
    share = np.where(np.arange(N_PERTURBATIONS + 1) % 2, 0.2, 0.5)
    share[0] = 0.5
    second = cells.rng.random(len(cells.condition)) < share[cells.condition]
    cells.extra = second[:, None] * change
    cells.obs["phase"] = np.where(second, "S", "G1")
    cells.told = {"batch_key": "phase"} if told else {}
    return cells, cells.counts()


def cell_states_told(seed: int) -> tuple[Cells, np.ndarray]:
    """Return the same, with the state as a batch."""
    return cell_states(seed, told=True)


def ambient(seed: int, *, told: bool = False) -> tuple[Cells, np.ndarray]:
    """Return cells to whose counts a tenth is added, from the mean of all cells."""
    cells = drawn(seed)
    cells.asked = {"contamination": 0.1 / 1.1} if told else {}
    counts = cells.counts()
    pool = counts.sum(0) / counts.sum()
    return cells, counts + cells.rng.poisson(0.1 * counts.sum(1, keepdims=True) * pool)


def ambient_told(seed: int) -> tuple[Cells, np.ndarray]:
    """Return the same, with the share."""
    return ambient(seed, told=True)


def doublets(seed: int, *, told: bool = False) -> tuple[Cells, np.ndarray]:
    """Return cells of which a tenth are two."""
    cells = drawn(seed)
    cells.asked = {"contamination": 0.1 / 1.1} if told else {}
    counts = cells.counts()
    twice = np.flatnonzero(cells.rng.random(len(counts)) < 0.1)
    counts[twice] += counts[cells.rng.integers(0, len(counts), len(twice))]
    return cells, counts


def doublets_told(seed: int) -> tuple[Cells, np.ndarray]:
    """Return the same, with the share."""
    return doublets(seed, told=True)


def wrong_labels(seed: int, *, told: bool = False) -> tuple[Cells, np.ndarray]:
    """Return cells of which 15 % have the label of another."""
    cells = drawn(seed)
    cells.asked = {"contamination": 0.15} if told else {}
    counts = cells.counts()
    wrong = np.flatnonzero(cells.rng.random(len(counts)) < 0.15)
    cells.condition[wrong] = cells.condition[cells.rng.permutation(wrong)]
    return cells, counts


def wrong_labels_told(seed: int) -> tuple[Cells, np.ndarray]:
    """Return the same, with the share."""
    return wrong_labels(seed, told=True)


def rare_genes(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells with 300 genes more, of which hardly a count is seen."""
    cells = drawn(seed)
    more = np.full(300, np.log(0.002 / DEPTH))
    cells.log_share = np.concatenate([cells.log_share, more])
    cells.change = np.pad(cells.change, ((0, 0), (0, 300)))
    cells.inverse_dispersion = np.concatenate([cells.inverse_dispersion, np.full(300, 5.0)])
    return cells, cells.counts()


def unseen_pairs(seed: int) -> tuple[Cells, np.ndarray]:
    """Return cells of single perturbations, of which pairs are asked for; effects add up."""
    cells = drawn(seed)
    cells.pairs = ((1, 2), (3, 4), (4, 5), (1, 6), (2, 7), (5, 8), (1, 9), (9, 10))
    return cells, cells.counts()


def clones(seed: int, *, told: bool = False) -> tuple[Cells, np.ndarray]:
    """Return cells of three clones of each perturbation, and of twelve of control."""
    cells = drawn(seed)
    n_clones = np.where(cells.condition == 0, 12, 3)
    clone = 12 * cells.condition + cells.rng.integers(0, n_clones)
    shape = 12 * (N_PERTURBATIONS + 1), N_GENES
    change = cells.rng.normal(0, 0.3, shape) * (cells.rng.random(shape) < 0.3)
    cells.extra = change[clone]
    cells.obs["clone"] = clone.astype(str)
    cells.told = {"replicate_key": "clone"} if told else {}
    return cells, cells.counts()


def clones_told(seed: int) -> tuple[Cells, np.ndarray]:
    """Return the same, with the clones as replicates."""
    return clones(seed, told=True)


SITUATIONS: dict[str, Callable[[int], tuple[Cells, np.ndarray]]] = {
    function.__name__.replace("_", " "): function
    for function in (
        clean,
        library_size,
        dispersion,
        composition,
        few_cells,
        cell_states,
        cell_states_told,
        ambient,
        ambient_told,
        doublets,
        doublets_told,
        wrong_labels,
        wrong_labels_told,
        rare_genes,
        unseen_pairs,
        clones,
        clones_told,
    )
}
QUICK = ("library size", "composition")
UNTOLD = {"Cells are taken as independent", "Still improving", "Overfitting"}
"""Cautions that are given in all situations."""


def screen_of(cells: Cells, counts: np.ndarray) -> samsvae.Screen:
    """Return the screen as it is read, split within conditions."""
    labels = np.array(["control", *cells.names])[cells.condition]
    obs = pd.DataFrame({"perturbation": labels, **cells.obs}).rename(index="c{}".format)
    var = pd.DataFrame(index=[f"g{i:03d}" for i in range(counts.shape[1])])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    screen = samsvae.Screen.from_anndata(adata, **cells.told)
    return screen.with_split(samsvae.splits.stratified(screen, seed=0))


def called_by_tests(cells: Cells, counts: np.ndarray) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each test, what it calls, and the differences, `condition gene`."""
    logs = np.log2(1 + 1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    group = cells.rng.integers(0, 10, len(counts))
    bulk = {}
    for c in range(len(cells.change)):
        sums = np.array(
            [counts[(cells.condition == c) & (group == i)].sum(0) for i in range(10)], float
        )
        sums = sums[sums.sum(1) > 0]
        bulk[c] = np.log2(1 + 1e4 * sums / sums.sum(1, keepdims=True))
    ways = {
        "Welch": (ttest_ind, {c: logs[cells.condition == c] for c in bulk}),
        "Wilcoxon": (mannwhitneyu, {c: logs[cells.condition == c] for c in bulk}),
        "pseudobulk": (ttest_ind, bulk),
    }
    for name, (test, values) in ways.items():
        options = {} if test is mannwhitneyu else {"equal_var": False}
        with np.errstate(all="ignore"):
            p = [test(values[c], values[0], **options).pvalue for c in range(1, len(bulk))]
        difference = [values[c].mean(0) - values[0].mean(0) for c in range(1, len(bulk))]
        p_values = np.nan_to_num(np.array(p), nan=1.0)
        called = false_discovery_control(p_values.ravel()).reshape(p_values.shape) < 0.05
        yield name, called, np.array(difference)


def rates(called: np.ndarray, effect: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return how many calls there are, the share that is wrong, and the power."""
    changed = np.abs(truth) > 0.015
    wrong = called & (~changed | (np.sign(effect) != np.sign(truth)))
    large = np.abs(truth) > 0.25
    return {
        "calls": called.sum(),
        "wrong": wrong.sum() / max(called.sum(), 1),
        "power": (called & ~wrong & large).sum() / max(large.sum(), 1),
    }


def coverage(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return how many intervals hold the truth: of changed genes, of the others of conditions."""
    inside = (lower - 1e-9 <= truth) & (truth <= upper + 1e-9)
    changed = np.abs(truth) > 0.015
    active = changed.any(1)
    return {
        "coverage": inside[changed].mean(),
        "of others": inside[active][~changed[active]].mean(),
    }


def rows(name: str, seed: int, max_steps: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table of one screen."""
    start = time.perf_counter()
    cells, counts = SITUATIONS[name](seed)
    screen, (names, truth) = screen_of(cells, counts), cells.asked_for
    model = samsvae.SAMSVAE(screen, n_latent=15, n_hidden=64)
    model.train(max_steps=max_steps, seed=seed, progress=False)
    table = samsvae.discoveries(model, screen, names, progress=False, **cells.asked)
    wide = {
        column: table.pivot(index="condition", columns="gene", values=column)
        .loc[names, list(screen.genes)]
        .to_numpy(float)
        for column in ("estimate", "lower", "upper", "q_value", "lfsr")
    }
    held = coverage(wide["lower"], wide["upper"], truth)
    said = [title for title in model.cautions(screen)["title"] if title not in UNTOLD]
    common = {"situation": name, "seed": seed, "cautions": "; ".join(said)}
    for way, column in {"q < .05": "q_value", "lfsr < .05": "lfsr"}.items():
        yield common | {"way": way} | rates(wide[column] < 0.05, wide["estimate"], truth) | held
    effects = model.effects(names, n_particles=500, progress=False, **cells.asked)
    lower, upper = (np.asarray(effects.layers[end]) for end in ("lower", "upper"))
    apart = (lower > 0) | (upper < 0)
    held = coverage(lower, upper, truth)
    yield common | {"way": "effects()"} | rates(apart, np.asarray(effects.X), truth) | held
    for test, called, difference in called_by_tests(cells, counts) if not cells.pairs else ():
        yield common | {"way": test} | rates(called, difference, truth)
    print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("situations", nargs="*", metavar="SITUATION", help=", ".join(SITUATIONS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="two situations, one seed, few steps; fails if wrong"
    )
    parser.add_argument("--out", default="regimes.csv")
    chosen = parser.parse_args()
    names = chosen.situations or list(QUICK if chosen.quick else SITUATIONS)
    if unknown := set(names) - set(SITUATIONS):
        parser.error(f"no situation {sorted(unknown)}: there are {list(SITUATIONS)}")
    n_seeds, max_steps = (1, 600) if chosen.quick else (chosen.seeds, 1500)
    table = pd.DataFrame(
        row for name in names for seed in range(n_seeds) for row in rows(name, seed, max_steps)
    )
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(chosen.out, index=False)
    by = table.drop(columns=["seed", "cautions"]).groupby(["situation", "way"], sort=False)
    print(by.mean().round(3).to_string())
    said = table.drop_duplicates(["situation", "seed"])
    for name, rows_of in said.groupby("situation", sort=False):
        titles = rows_of["cautions"].map(lambda text: sorted(set(text.split("; "))))
        counts = titles.explode().value_counts()
        texts = [f"{title} ({n} of {len(rows_of)})" for title, n in counts.items() if title]
        print(f"cautions, {name}: {', '.join(texts) or 'none'}")
    ours = table[table["way"] == "q < .05"]
    if chosen.quick and ((ours["wrong"] > 0.1) | (ours["power"] < 0.8)).any():
        raise SystemExit("more than a tenth of the calls are wrong, or a fifth is missed")


if __name__ == "__main__":
    main()
