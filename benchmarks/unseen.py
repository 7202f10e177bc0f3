"""Effects of perturbations without cells: `benchmarks/unseen.py SCREEN --features FILE...`.

Every perturbation of a screen that was measured alone is left out in turn and predicted from the
others, by `samsvae.inference.unmeasured` with each file of features, all of them, control
expression, and shuffled features, and by baselines. Printed are, over all perturbations and genes:

- r: correlation of predicted and observed effects (`r_mean`: of the mean of the others);
- ratio: squared error, less that of the cells, over that of the mean of the others;
- held: share of observed effects in 90 % intervals, widened by the error of the cells;
- rho, calls (q < 0.05) and the share of them whose sign cells contradict.

`--models STEPS` trains SAMSVAE without each of five folds of perturbations and asks it for them;
`--next N` compares N perturbations chosen as `samsvae.next_perturbations` does with random ones;
`--simulated` are screens whose effects follow features to a known degree, beside the true kernel;
`--large` takes 10,000 perturbations x 5,000 features.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.special import ndtr, ndtri

import samsvae
from samsvae.analysis.next_perturbations import _greedy
from samsvae.data.differences import mean_differences
from samsvae.data.expression import expression
from samsvae.data.fold_changes import condition_fold_changes
from samsvae.inference.kernel_prior import Estimates, KernelPosterior, KernelPrior
from samsvae.inference.unmeasured import fitted, q_values

_Z_90 = float(ndtri(0.95))


class Measured(NamedTuple):
    """Effects of perturbations that were measured alone, `perturbation gene` each."""

    names: list[str]
    effect: np.ndarray
    variance: np.ndarray
    expected: np.ndarray
    of_control: np.ndarray

    @classmethod
    def of(cls, screen: samsvae.Screen, scale: str = "lfc") -> Measured:
        """Return log2 fold changes, or differences of means of log2(1 + 1e4 x / sum x)."""
        parts = [list(screen.registry.read(name)) for name in screen.condition_names]
        n_cells = np.bincount(screen.condition, minlength=len(parts))
        rows = [i for i, own in enumerate(parts) if len(own) == 1 and n_cells[i] > 1]
        if scale == "log":
            group = np.where(np.isin(screen.condition, rows), screen.condition, -1)
            control = np.asarray(screen.is_control)
            of = mean_differences(screen, expression(screen, "log"), group, control, len(parts), 0)
            values = (of.difference, of.variance, of.variance, of.of_control)
            return cls([parts[i][0] for i in rows], *(x[rows] for x in values))
        change = condition_fold_changes(screen)
        values = (change.difference, change.variance, change.expected_variance)
        return cls(
            [parts[i][0] for i in rows], *(x[rows] for x in (*values, change.control_variance))
        )

    def fit(self, rows: np.ndarray, factors: Sequence[np.ndarray]):
        return fitted(*(x[rows] for x in self[1:]), factors, rows)

    def scores(self, predicted: np.ndarray, name: str, **more: float) -> dict[str, float | str]:
        """Return the scores of effects predicted for all perturbations."""
        n = len(self.names)
        mean = (self.effect.sum(0) - self.effect) / (n - 1)
        known = np.isfinite(self.expected)
        noise = self.expected[known].sum()
        errors = [((x - self.effect)[known] ** 2).sum() - noise for x in (predicted, mean)]
        r, r_mean = (np.corrcoef(x[known], self.effect[known])[0, 1] for x in (predicted, mean))
        return {"from": name, "r": r, "r_mean": r_mean, "ratio": errors[0] / errors[1], **more}


def left_out(data: Measured, factors: Sequence[np.ndarray], name: str) -> dict[str, float | str]:
    """Return the scores of predictions of each perturbation from the others."""
    n = len(data.names)
    predicted, variance, rho = np.zeros_like(data.effect), np.zeros_like(data.effect), []
    ratio = np.zeros((n, 1))
    for t in range(n):
        fit = data.fit(np.delete(np.arange(n), t), factors)
        (predicted[t],), (variance[t],) = fit.effects(np.array([t]))
        ratio[t] = fit.sign_ratio
        rho.append(fit.rho)
    known = np.isfinite(data.expected)
    of_cells = np.where(known, np.maximum(data.expected - data.of_control, 0), 0)
    held = np.abs(data.effect - predicted) <= _Z_90 * np.sqrt(variance + of_cells)
    called = known & (q_values(ndtr(-np.abs(predicted) / np.sqrt(variance * ratio))) < 0.05)
    wrong = (np.sign(predicted) != np.sign(data.effect))[called]
    return data.scores(
        predicted,
        name,
        held=float(held[known].mean()),
        rho=float(np.mean(rho)),
        calls=int(called.sum()),
        wrong=float(wrong.mean()) if len(wrong) else np.nan,
    )


def of_baselines(data: Measured, factor: np.ndarray, name: str) -> Iterator[dict[str, float | str]]:
    """Yield scores of kernel ridge of fixed strength and of three neighbours."""
    n = len(data.names)
    kernel = factor @ factor.T
    np.fill_diagonal(kernel, 1)
    ridge, near = np.zeros_like(data.effect), np.zeros_like(data.effect)
    for t in range(n):
        others = np.delete(np.arange(n), t)
        y = data.effect[others]
        inner = kernel[np.ix_(others, others)] + 0.3 * np.eye(n - 1)
        ridge[t] = y.mean(0) + kernel[t, others] @ np.linalg.solve(inner, y - y.mean(0))
        near[t] = y[np.argsort(-kernel[t, others], kind="stable")[:3]].mean(0)
    yield data.scores(ridge, f"{name}, kernel ridge")
    yield data.scores(near, f"{name}, neighbours")


def of_screen(
    data: Measured, screen: samsvae.Screen, sources: samsvae.features.Features, n_shuffles: int
) -> pd.DataFrame:
    """Return the scores of every source on a screen."""
    known = samsvae.features.read(sources, samsvae.features.expression_profile(screen))
    factors = dict(zip(known.names, known.factors(data.names, []), strict=True))
    given = [factors[name] for name in sources.names]
    rows = [left_out(data, [factor], name) for name, factor in factors.items()]
    rows.append(left_out(data, given, "all files"))
    rng = np.random.default_rng(0)
    for i in range(n_shuffles):
        order = rng.permutation(len(data.names))
        rows.append(left_out(data, [given[i % len(given)][order]], f"shuffled {i}"))
    for name, factor in factors.items():
        rows += of_baselines(data, factor, name)
    return pd.DataFrame(rows)


def of_models(
    screen: samsvae.Screen, sources: samsvae.features.Features, steps: int
) -> pd.DataFrame:
    """Return scores of models that were trained without those that they are asked for."""
    tables = []
    for fold in range(5):
        split = samsvae.splits.heldout_perturbations(screen, n_folds=5, fold=fold)
        divided = screen.with_split(split)
        model = samsvae.SAMSVAE(divided, n_latent=50, n_hidden=128)
        model.train(max_steps=steps, progress=False)
        told = model.with_features(sources)
        predictors = {
            "samsvae": told,
            "mean": samsvae.baselines.PerturbationMean(divided),
            "ridge": samsvae.baselines.FeatureRidge(divided, sources),
            "neighbours": samsvae.baselines.FeatureNeighbours(divided, sources),
            "linear-pca": samsvae.baselines.LinearPCA(divided),
        }
        test = Measured.of(divided[np.flatnonzero((split == "test") | divided.is_control)])
        for name, predictor in predictors.items():
            found = predictor.effects(test.names, progress=False)
            table = {"predictor": name, "predicted": np.asarray(found.X, float).ravel()}
            table |= {"effect": test.effect.ravel(), "expected": test.expected.ravel()}
            noise = np.maximum(np.nan_to_num(test.expected - test.of_control), 0)
            low, high = found.layers["lower"], found.layers["upper"]
            half = np.hypot((high - low) / 2, _Z_90 * np.sqrt(noise))
            inside = np.abs(test.effect - (low + high) / 2) <= half
            table["held"] = np.where(np.isnan(low), np.nan, inside).ravel()
            tables.append(pd.DataFrame(table))
    whole = pd.concat(tables)
    whole = whole[np.isfinite(whole["expected"])]

    def scored(rows: pd.DataFrame) -> pd.Series:
        excess = ((rows["predicted"] - rows["effect"]) ** 2 - rows["expected"]).sum()
        r = rows["predicted"].corr(rows["effect"])
        return pd.Series({"r": r, "excess": excess, "held": rows["held"].mean()})

    scores = whole.groupby("predictor").apply(scored, include_groups=False)
    excess = scores.pop("excess")
    return scores.assign(ratio=excess / excess["mean"])


def of_choices(data: Measured, factors: Sequence[np.ndarray], n_next: int) -> dict[str, float]:
    """Return errors of what is left when some are measured next, chosen or at random, in 50 splits.

    In units of the error of the mean of what is measured at first, six perturbations.
    """
    n = len(data.names)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(50):
        order = rng.permutation(n)
        first, rest = np.sort(order[:6]), order[6:]
        fit = data.fit(first, factors)
        joint = fit.posterior.joint([fit.factor[rest]])
        best, _, _ = _greedy(joint, np.square(fit.component).sum(1), n_next)
        random = rng.choice(len(rest), n_next, replace=False)
        own = []
        for chosen in (rest[best], rest[random]):
            measured, left = np.sort([*first, *chosen]), np.setdiff1d(rest, chosen)
            known = np.isfinite(data.expected[left])
            noise = data.expected[left][known].mean()
            predicted, _ = data.fit(measured, factors).effects(left)
            mean = data.effect[first].mean(0)
            squares = [
                ((x - data.effect[left])[known] ** 2).mean() - noise
                for x in (predicted, np.broadcast_to(mean, predicted.shape))
            ]
            own += squares
        errors.append(own)
    chosen, _, random, base = np.array(errors).T
    difference = (random - chosen) / base.mean()
    return {
        "chosen": float(chosen.mean() / base.mean()),
        "random": float(random.mean() / base.mean()),
        "difference": float(difference.mean()),
        "se": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "chosen better": float((difference > 0).mean()),
    }


def simulated(n: int, seed: int, *, use: float = 0.7, n_genes: int = 500) -> dict[str, float]:
    """Return the correlation that features of known use give, and what the true kernel gives."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 12)) * np.linspace(1.5, 0.5, 12)
    names = [f"P{i}" for i in range(n)]
    known = samsvae.features.read(pd.DataFrame(table, index=names))
    (factor,) = known.factors(names, [])
    shared = factor @ rng.normal(size=(factor.shape[1], 6))
    score = np.sqrt(use) * shared + np.sqrt(1 - use) * rng.normal(size=(n, 6))
    loading = rng.normal(size=(6, n_genes)) * (rng.random((6, n_genes)) < 0.3)
    truth = 0.3 * score @ loading
    variance = np.full_like(truth, 0.04)
    effect = truth + rng.normal(size=truth.shape) * 0.2
    test = rng.permutation(n)[: n // 5]
    train = np.setdiff1d(np.arange(n), test)
    data = Measured(names, effect, variance, variance, np.zeros_like(variance))
    started = time.perf_counter()
    found, _ = data.fit(train, [factor]).effects(test)
    seconds = time.perf_counter() - started
    # The true kernel and loadings, given the same effects.
    inverse = np.linalg.pinv(loading)
    own = Estimates((effect @ inverse / 0.3)[train], np.full((len(train), 6), 0.01))
    prior = KernelPrior(np.array([use]), np.ones(6), 0.0)
    best = KernelPosterior(prior, own, [factor[train]]).new([factor[test]]).mean @ loading
    r, r_best = (np.corrcoef(x.ravel(), truth[test].ravel())[0, 1] for x in (found, best))
    return {
        "n": n,
        "seed": seed,
        "r": r,
        "r_true_kernel": r_best,
        "share": r / r_best,
        "s": seconds,
    }


def large() -> dict[str, float]:
    """Return time and memory of 10,000 perturbations x 5,000 features: 2,000 measured."""
    n, measured, n_genes = 10_000, 2_000, 2_000
    rng = np.random.default_rng(0)
    table = sp.random(n, 5_000, density=0.005, random_state=0, format="csr")
    names = [f"P{i}" for i in range(n)]
    known = samsvae.features.read(AnnData(table, obs=pd.DataFrame(index=names)))
    effect = rng.normal(size=(measured, n_genes)).astype(float) * 0.3
    variance = np.full_like(effect, 0.04)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    factors = known.factors(names[:measured], names[measured:])
    fit = fitted(effect, variance, variance, 0 * variance, factors, np.arange(measured))
    rows = np.arange(measured, n)
    fit.effects(rows), fit.support(rows), fit.closest(rows)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "GiB before": before / 2**20, "GiB at most": peak / 2**20}


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("screen", nargs="?", type=Path)
    parser.add_argument("--features", nargs="+", type=Path, default=[])
    parser.add_argument("--library-size-key")
    parser.add_argument("--scale", choices=["lfc", "log"], default="lfc")
    parser.add_argument("--shuffles", type=int, default=5)
    parser.add_argument("--models", type=int, metavar="STEPS")
    parser.add_argument("--next", type=int, metavar="N")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--large", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    pd.options.display.width = 160
    if chosen.screen is not None:
        keys = {"library_size_key": chosen.library_size_key} if chosen.library_size_key else {}
        screen = samsvae.Screen.open(chosen.screen, **keys)
        sources = samsvae.features.read(*chosen.features)
        data = Measured.of(screen, chosen.scale)
        print(of_screen(data, screen, sources, chosen.shuffles).round(3).to_string(index=False))
        if chosen.next is not None:
            print(of_choices(data, sources.factors(data.names, []), chosen.next))
        if chosen.models is not None:
            print(of_models(screen, sources, chosen.models).round(3).to_string())
    if chosen.simulated:
        rows = [simulated(n, seed) for n in (60, 200, 1000) for seed in range(5)]
        table = pd.DataFrame(rows)
        print(
            table.groupby("n")[["r", "r_true_kernel", "share", "s"]].agg(["mean", "min"]).round(3)
        )
    if chosen.large:
        print(large())


if __name__ == "__main__":
    main()
