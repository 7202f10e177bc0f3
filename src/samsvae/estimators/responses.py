"""In which cells perturbations act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimators.trained import Trained
from samsvae.inference.responders import Evidence, branch_evidence
from samsvae.ops.response_rates import Rates
from samsvae.settings.arguments import checked
from samsvae.types import ALL_CONDITIONS

"""In the place of an sgRNA: all cells of the perturbation."""


class Responding(NamedTuple):
    """Which cells respond to what they received."""

    cells: pd.DataFrame
    """One row per cell and perturbation that it received, in the order of the cells: `cell`,
    `condition`, `perturbation`, `sgrna` (where known), `log_odds` (log Bayes factor for the
    perturbation acting in this cell, by its counts alone; nats) and `probability` (that it does,
    with how often its reagent works)."""
    rates: pd.DataFrame
    """One row per perturbation, with `sgrna` "(all)", and one for each of its sgRNAs, where they
    are known: `n_cells`, `rate` (pi: posterior mean of the share of cells that respond), `lower`
    and `upper` (90 %), `log_bayes_factor` (for any cell responding, against none; nats: where it is
    about 0 or less, the perturbation does nothing that is seen, and the rate is its prior's)."""


class Responses(Trained):
    """In which cells perturbations act."""

    @checked
    def responders(
        self, screen: Screen, *, n_particles: int = 25, seed: int = 0, progress: bool = True
    ) -> Responding:
        """Return in which cells perturbations act, and how often each reagent works.

        For models with `response="learned"`. A cell's Bayes factor compares its likelihood with
        and without the displacement (each an importance weighted mean over draws); of a cell with
        several perturbations each is looked at on its own, the sets of the others summed over.
        The share of responders is given by these cells and Beta(1, 1); a cell's probability, by the
        shares that training ended with.

        Parameters
        ----------
        screen
            The cells; matched by gene and perturbation name. Control cells have no row.
        n_particles
            Draws per cell.
        seed
            Same seed, same numbers.
        progress
            Show a progress bar.

        Returns
        -------
        Two tables, `cells` and `rates`: see `samsvae.estimators.responses.Responding`.

        Raises
        ------
        InputError
            If the model is not trained, or takes all cells to respond.

        Examples
        --------
        >>> import samsvae
        >>> sizes = {"n_perturbations": 3, "n_combinations": 0, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(response_prob=0.5, **sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8, response="learned")
        >>> model = model.train(max_steps=5, progress=False)
        >>> found = model.responders(screen.test, progress=False)
        >>> list(found.rates["perturbation"]), bool(found.cells["probability"].between(0, 1).all())
        (['G01', 'G02', 'G03'], True)
        """
        check_count("n_particles", n_particles)
        responders = self.module.mechanism.responders
        if responders is None:
            raise InputError(
                f"this {type(self).__name__} takes perturbations to act in all cells: train one "
                "with response='learned' (SAMSVAE, CPAVAE)"
            )
        generator, loader = self._generator(seed), self.loader(screen)
        evidence = branch_evidence(
            self.module, loader, n_particles=n_particles, generator=generator, progress=progress
        )
        prior = responders.logits.detach().double().cpu().numpy()
        return Responding(self._cells(loader.screen, evidence, prior), self._rates(evidence, prior))

    def _cells(self, screen: Screen, evidence: Evidence, prior: np.ndarray) -> pd.DataFrame:
        cell, slot = np.nonzero(evidence.received)
        log_odds = evidence.log_odds(prior)[cell, slot]
        log_posterior = log_odds + prior[evidence.reagent[cell, slot]]
        names = list(self.encoding.columns)
        table = pd.DataFrame(
            {
                "cell": screen.cells[cell],
                "condition": pd.Categorical.from_codes(
                    screen.condition[cell], list(screen.condition_names)
                ),
                "perturbation": pd.Categorical.from_codes(evidence.perturbation[cell, slot], names),
                "log_odds": log_odds,
                "probability": np.exp(-np.logaddexp(0, -log_posterior)),
            }
        )
        if screen.sgrna is not None:
            table.insert(3, "sgrna", screen.sgrna[cell])
        return table

    def _rates(self, evidence: Evidence, prior: np.ndarray) -> pd.DataFrame:
        names = self.encoding.columns
        pooled = evidence.rates(prior, evidence.perturbation, len(names))
        tables = [_table(pooled, [(ALL_CONDITIONS, name) for name in names])]
        if self.metadata.sgrnas:
            own = evidence.rates(prior, evidence.reagent, len(prior))
            known = slice(len(names), None)
            tables.append(_table(Rates(*(v[known] for v in own)), self.metadata.sgrnas))
        table = pd.concat(tables, ignore_index=True)
        table = table[table["n_cells"] > 0]
        place = {name: i for i, name in enumerate(names)}
        by_perturbation = np.argsort(table["perturbation"].map(place), kind="stable")
        return table.iloc[by_perturbation].reset_index(drop=True)


def _table(rates: Rates, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "perturbation": [perturbation for _, perturbation in pairs],
            "sgrna": [sgrna for sgrna, _ in pairs],
            "n_cells": rates.n_cells,
            "rate": rates.mean,
            "lower": rates.lower,
            "upper": rates.upper,
            "log_bayes_factor": rates.log_bayes_factor,
        }
    )
