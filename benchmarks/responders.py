"""Which cells respond? `benchmarks/responders.py [--quick] [--screen papalexi2021.h5ad]`.

Simulated screens whose perturbations act in 30 to 100 % of their cells: how well cells are told
apart (AUC), beside what the true model would tell of them; the shares; the effects of responders
against the truth (slope), beside those of a model that takes all cells to respond, and of one that
is given responders alone (what shrinkage leaves where they are known); what is lost where all do.
With --screen a real one, sgRNA by sgRNA. Both beside Mixscape, where pertpy is installed (`make
.venv-interop/.ready`, and `.venv-interop/bin/python` for this).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

import mixscape
import samsvae
from misspecified import Case, Drawing
from samsvae.data.simulate import SimulatedScreen
from samsvae.types import Scale

CASES = [
    (decoder, n_cells, size)
    for decoder in ("mixed", "programs")
    for n_cells, size in ((150, 190.0), (400, 190.0), (400, 1000.0))
]
QUICK = [("mixed", 400, 1000.0)]
MODEL = {"n_latent": 20, "n_hidden": 64}
TRAINING = {"n_particles": 2, "learning_rate": 0.005, "progress": False}
"""Those of `samsvae demo`."""
SCALES: tuple[Scale, ...] = ("log", "normalized")
BASAL = 3000
"""Basal states by which the true model is asked."""
BESIDE = find_spec("pertpy") is not None
"""Whether Mixscape is run, too."""


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a responder has the larger score; NaN where all are alike."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def true_log_odds(screen: SimulatedScreen, perturbation: str, n_cells: int = 80) -> tuple[Any, Any]:
    """Return what the true model tells of some cells, and whether they respond."""
    cells = screen.of(perturbation)[:n_cells]
    rng = np.random.default_rng(0)
    basal = rng.standard_normal((BASAL, screen.state.shape[1]))
    theta = torch.from_numpy(screen.truth.inverse_dispersion).float()
    counts = torch.from_numpy(cells.counts.toarray().astype(np.float32))
    size = torch.from_numpy(cells.library_size).float()
    shift = screen.truth.shift.loc[perturbation].to_numpy()
    found = []
    for state in (basal, basal + shift):
        rho = torch.from_numpy(screen.truth.proportions(state)).float()
        parts = []
        for x, s in zip(counts, size, strict=True):
            mean = s * rho
            log_p = x * (mean / (mean + theta)).log() - theta * (mean / theta).log1p()
            parts.append(log_p.sum(1).logsumexp(0))
        found.append(torch.stack(parts).numpy())
    return found[1] - found[0], np.diff(cells.responds.indptr) > 0


def slope(effects: pd.DataFrame, truth: pd.DataFrame) -> float:
    """Return the slope of effects on the truth, through the origin."""
    found = effects.loc[truth.index, truth.columns].astype(float)
    x, y = truth.to_numpy().ravel(), found.to_numpy().ravel()
    return float((x @ y) / (x @ x))


def effects_of(
    models: dict[str, samsvae.SAMSVAE], screen: SimulatedScreen, scale: Scale
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield effects, conditions x genes, at the cells' library sizes."""
    asked = {"scale": scale, "library_size": "observed", "n_draws": 0, "progress": False}
    for kind, model in models.items():
        yield f"model_{kind}", model.effects(list(screen.perturbations), **asked).to_df()
    learned = models["learned"]
    for cells in ("all", "responders"):
        table = samsvae.discoveries(
            learned,
            screen,
            cells=cells,  # type: ignore[arg-type]
            scale=scale,
            progress=False,
        )
        for name in ("observed", "estimate"):
            yield f"{name}_{cells}", table.pivot(index="condition", columns="gene", values=name)


def simulated(decoder: str, n_cells: int, size: float, training: dict[str, Any]) -> None:
    """Print what was found on a screen with responders of 30 to 100 %, and where all respond."""
    for response in ((0.3, 1.0), 1.0):
        screen = samsvae.datasets.simulated_screen(
            decoder=decoder,  # type: ignore[arg-type]
            n_perturbations=24,
            n_combinations=0,
            cells_per_condition=n_cells,
            n_control=1500,
            library_size=size,
            response_prob=response,  # type: ignore[arg-type]
        )
        models = {
            kind: samsvae.SAMSVAE(screen, response=kind, **MODEL).train(**training)  # type: ignore[arg-type]
            for kind in ("learned", "all")
        }
        if response != 1.0:
            known = screen[screen.is_control | (np.diff(screen.responds.indptr) > 0)]
            models["known"] = samsvae.SAMSVAE(known, **MODEL).train(**training)  # type: ignore[arg-type]
        line: dict[str, float | str] = {"decoder": decoder, "cells": n_cells, "counts": size}
        line["response"] = str(response)
        drawing = Drawing.of(Case(decoder, n_cells, 2.0), screen)
        for scale in SCALES:
            truth = drawing.true_effects(list(screen.perturbations), scale)
            line |= {
                f"{name}_{scale}": slope(effects, truth)
                for name, effects in effects_of(models, screen, scale)
            }
        for kind, model in models.items():
            found = model.iwelbo(screen.test, n_particles=200, progress=False)
            line[f"iwelbo_{kind}"] = found["iwelbo"].mean()
        found = models["learned"].responders(screen, progress=False)
        rates = found.rates.set_index("perturbation")
        others = mixscape.called(screen) if BESIDE else None
        rows = []
        for name, cells in found.cells.groupby("perturbation", observed=True):
            own = screen.of(name)
            responds = np.diff(own.responds.indptr) > 0
            row = {"share": responds.mean(), "rate": rates["rate"][name]}
            row["auc"] = auc(cells["log_odds"].to_numpy(), responds)
            row["best"] = auc(*true_log_odds(screen, name)) if response != 1.0 else np.nan
            if others is not None:
                called = others[others["perturbation"] == name]
                row["mixscape"] = auc(called["probability"].to_numpy(), responds)
                row["mixscape_called"] = called["called"].mean()
            rows.append(row)
        table = pd.DataFrame(rows)
        told = table[table["best"] >= 0.9]
        line |= {
            "auc": table["auc"].mean(),
            "auc_true_model": table["best"].mean(),
            "auc_of_clear": told["auc"].mean(),
            "n_clear": len(told),
            "error": (table["rate"] - table["share"]).abs().mean(),
            "error_of_clear": (told["rate"] - told["share"]).abs().mean(),
        }
        if BESIDE:
            for part, name in ((table, ""), (told, "_of_clear")):
                error = (part["mixscape_called"] - part["share"]).abs().mean()
                line |= {f"mixscape{name}": part["mixscape"].mean(), f"mixscape_error{name}": error}
        print(pd.Series(line).to_string(float_format="{:.3f}".format), flush=True)


def beside(rates: pd.DataFrame, screen: samsvae.Screen) -> None:
    """Add the share that Mixscape calls to the rates of sgRNAs and of targets."""
    found = mixscape.called(screen)
    codes = screen.sgrna.codes[screen.cells.get_indexer(found.index)]
    found["sgrna"] = [str(screen.sgrna.categories[code]) for code in codes]
    by_target = found.groupby("perturbation")["called"].mean()
    by_sgrna = found.groupby("sgrna")["called"].mean()
    rates["mixscape"] = [
        by_target[target] if sgrna == "(all)" else by_sgrna[sgrna]
        for target, sgrna in zip(rates["perturbation"], rates["sgrna"], strict=True)
    ]


def real(path: str, steps: int) -> None:
    """Print the rates of a real screen with sgRNAs in `guide` and replicates in `bio_rep`."""
    screen = samsvae.read_h5ad(path, split_key="split", sgrna_key="guide", batch_key="bio_rep")
    for kind in ("learned", "all"):
        model = samsvae.SAMSVAE(screen, n_latent=50, n_hidden=128, response=kind)  # type: ignore[arg-type]
        model.train(max_steps=steps, progress=False)
        found = model.iwelbo(screen.test, n_particles=100, progress=False)
        print(f"response={kind}: iwelbo {found['iwelbo'].mean():.3f} nats per cell", flush=True)
        if kind == "learned":
            rates = model.responders(screen, progress=False).rates
            if BESIDE:
                beside(rates, screen)
            print(rates.round(2).to_string(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--screen")
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    if given.screen:
        real(given.screen, given.steps)
    else:
        for case in QUICK if given.quick else CASES:
            simulated(*case, TRAINING | {"max_steps": given.steps})
