"""Do uncertain sgRNAs help? `benchmarks/sgrnas.py papalexi2021_sgrna.h5mu [--steps 2000]`.

First, from cells alone: known effects by each rule of assignment, and by the share of the first
sgRNA. Then three readings of a screen
from its sgRNA counts: cells in which one sgRNA dominates; with those whose sgRNAs are uncertain
(`uncertain_sgrnas=True`); and with those that surely hold several, as combinations
(`several_sgrnas="combine"`). A model is trained on each; printed are the known effects, log2 fold
changes, on the cells that respond and on all, with their posterior sd and z, and rates of sgRNAs.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings

import numpy as np
import pandas as pd

import samsvae
from samsvae.data.fold_changes import fold_changes

KNOWN = {
    "STAT1": ("STAT1", "UBE2L6", "JAK2"),
    "JAK2": ("STAT1", "UBE2L6", "JAK2"),
    "IFNGR1": ("STAT1", "UBE2L6", "JAK2"),
    "IFNGR2": ("STAT1", "UBE2L6", "JAK2"),
    "IRF1": ("JAK2",),
    "SMAD4": ("FN1",),
}
"""Known effects: genes that each knock-out lowers."""
READINGS = {
    "dominant": {},
    "uncertain": {"uncertain_sgrnas": True},
    "uncertain, combined": {"uncertain_sgrnas": True, "several_sgrnas": "combine"},
}
WEAK = ("STAT1g4", "IRF1g1")


def known(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of known effects, with z: the estimate over its posterior sd."""
    pairs = {(condition, gene) for condition, genes in KNOWN.items() for gene in genes}
    is_known = [pair in pairs for pair in zip(table["condition"], table["gene"], strict=True)]
    rows = table[is_known].copy()
    rows["z"] = rows["estimate"] / rows["sd"]
    return rows.set_index(["condition", "gene"])


def rules(path: str, batch_key: str) -> pd.DataFrame:
    """Return how many cells each rule keeps, and the sum of squared z of known effects, from cells.

    Also on the cells alone that a rule adds to those of the rule "dominant".
    """
    rows = []
    dominant: pd.Index = pd.Index([])
    for rule in ("dominant", "mixture", 5):
        with warnings.catch_warnings(action="ignore"):
            screen = samsvae.Screen.open(
                path, batch_key=batch_key, sgrna_assignment=rule, several_sgrnas="drop"
            )
        names, control = np.array(screen.condition_names), np.asarray(screen.is_control)
        if rule == "dominant":
            dominant = screen.cells
        added = ~screen.cells.isin(dominant)
        row: dict[str, object] = {"rule": rule, "cells": len(screen), "added": int(added.sum())}
        for part, cells in {"": np.ones(len(screen), bool), " (added)": added}.items():
            if not cells.any():
                continue
            group = np.where(cells & ~control, screen.condition - 1, -1)
            change = fold_changes(screen, group, control, len(names) - 1)
            z2, mean = 0.0, []
            for condition, genes in KNOWN.items():
                at = list(names).index(condition) - 1
                for gene in genes:
                    column = screen.genes.index(gene)
                    z2 += change.difference[at, column] ** 2 / change.variance[at, column]
                    mean.append(change.difference[at, column])
            row |= {f"sum of squared z{part}": z2, f"mean lfc{part}": np.mean(mean)}
        rows.append(row)
    return pd.DataFrame(rows).set_index("rule").round(2)


def by_share(path: str, batch_key: str) -> pd.DataFrame:
    """Return the known effects of cells by the share of their first sgRNA, which is their label.

    `lfc`: mean over the known effects with at least ten cells, weighted by their precision;
    control cells are those in which one dominates.
    """
    assignment = samsvae.assign_sgrnas(path)
    table, target = assignment.per_cell(), pd.Series(assignment.targets, assignment.sgrnas)
    table["perturbation"] = target.reindex(table["top"]).to_numpy()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        table.to_csv(f"{folder}/labels.csv")
        screen = samsvae.Screen.open(path, batch_key=batch_key, labels=f"{folder}/labels.csv")
    share, names = table["top_share"].to_numpy(), list(screen.condition_names)
    control = np.asarray(screen.is_control) & (share > 0.8)
    rows = []
    for low, high in itertools.pairwise((0, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 1)):
        cells = (share > low) & (share <= high)
        group = np.where(cells & ~screen.is_control, screen.condition - 1, -1)
        change = fold_changes(screen, group, control, len(names) - 1)
        pairs = [(names.index(c) - 1, screen.genes.index(g)) for c, gs in KNOWN.items() for g in gs]
        row, column = np.array([pair for pair in pairs if change.n_cells[pair[0]] >= 10]).T
        weight = 1 / change.variance[row, column]
        lfc = np.average(change.difference[row, column], weights=weight)
        rows.append({"share above": low, "cells": int(cells.sum()), "lfc": lfc})
    return pd.DataFrame(rows).set_index("share above").round(2)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-key", default="bio_rep")
    parser.add_argument("--readings", nargs="*", default=list(READINGS))
    given = parser.parse_args()
    for table in (rules, by_share):
        print(f"{table(given.path, given.batch_key).to_string()}\n", flush=True)
    for name in given.readings:
        with warnings.catch_warnings(action="ignore"):
            screen = samsvae.Screen.open(
                given.path,
                batch_key=given.batch_key,
                sgrna_assignment="dominant",
                **READINGS[name],
            )
            # Whatever is uncertain helps to train; the others are split as without them.
            sure = np.ones(len(screen), bool)
            if screen.absence is not None:
                dominant = screen.sgrna_assignment.per_cell()["sgrna"]
                sure = dominant.loc[screen.cells].notna().to_numpy()
            split = np.full(len(screen), "train", object)
            split[sure] = samsvae.splits.stratified(screen[sure], seed=given.seed)
            screen = screen.with_split(split)
            start = time.perf_counter()
            model = samsvae.SAMSVAE(screen, n_latent=50, n_hidden=128, learn_responders=True)
            model.train(max_steps=given.steps, seed=given.seed, progress=False)
        print(f"\n{name}: {len(screen):,} cells, {time.perf_counter() - start:.0f} s", flush=True)
        for cells in ("responders", "all"):
            with warnings.catch_warnings(action="ignore"):
                table = samsvae.discoveries(
                    model, screen, list(KNOWN), cells=cells, n_particles=500, progress=False
                )
            rows = known(table)
            columns = ["n_cells", "observed", "estimate", "sd", "z"]
            print(f"cells={cells}\n{rows[columns].round(3).to_string()}")
            print(f"sum of squared z: {(rows['z'] ** 2).sum():.0f}", flush=True)
        score = model.iwelbo(screen.test, n_particles=50, progress=False)["iwelbo"].mean()
        rates = model.responders(screen, progress=False).rates.set_index("sgrna")
        print(f"IWELBO of test cells {score:.3f}; rates of weak sgRNAs:")
        print(rates.loc[list(WEAK), ["n_cells", "rate", "lower", "upper"]].round(2).to_string())


if __name__ == "__main__":
    main()
