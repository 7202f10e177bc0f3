"""In which cells perturbations act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.trained import TrainedModel
from samsvae.inference.responders import BranchLikelihoods, Rates, branch_likelihoods
from samsvae.model.mechanism import Responding
from samsvae.settings.arguments import checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ResponderSettings
from samsvae.types import ALL_CONDITIONS

_MIN_EVIDENCE = 3.0
"""Log Bayes factor above which a perturbation acts in some of its cells, nats: odds of 20."""
_MAX_WIDTH = 0.45
"""Of the interval of a rate: half of that of the prior, .05 to .95."""


class Responders(NamedTuple):
    """Which cells respond to what they received."""

    cells: pd.DataFrame
    """One row per cell and perturbation that it received, in the order of the cells: `cell`,
    `condition`, `perturbation`, `sgrna` (where known), `log_odds` (log Bayes factor for the
    perturbation acting in this cell, by its counts alone; nats) and `probability` (that it does,
    with how often its reagent works)."""
    rates: pd.DataFrame
    """One row per perturbation, with `sgrna` "(all)", and one for each of its sgRNAs, where they
    are known: `n_cells`, `rate` (pi: posterior mean of the share of cells that respond), `lower`
    and `upper` (90 %), `log_bayes_factor` (for any cell responding, against none; nats) and
    `informative`. Where that is False, rate and interval are NaN: the perturbation does nothing
    that is seen in any of its cells (log Bayes factor below 3, odds of 20), so responders cannot be
    told from other cells, or the interval is more than half as wide as that of the prior."""


class Responses:
    """In which cells perturbations act, by a trained model."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

    @checked
    @takes(ResponderSettings)
    def responders(self, screen: Screen, **settings: Any) -> Responders:
        """Return in which cells perturbations act, and how often each reagent works.

        For models with `learn_responders=True`. A cell's Bayes factor compares its likelihood with
        and without the displacement (each an importance weighted mean over draws); of a cell with
        several perturbations each is looked at on its own, the sets of the others summed over.
        The share of responders is given by these cells and Beta(1, 1); a cell's probability, by the
        shares that training ended with.

        `screen` holds the cells, matched by gene and perturbation name; control cells have no row.
        Settings are n_particles (25 draws per cell), seed (0) and progress, see
        `samsvae.settings.questions.ResponderSettings`. It is an error if the model takes all cells
        to respond.

        Returns
        -------
        Two tables, `cells` and `rates`: see `samsvae.estimators.responses.Responders`.

        Examples
        --------
        >>> sizes = {"n_perturbations": 3, "n_combinations": 0, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(response_prob=0.5, **sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8, learn_responders=True)
        >>> model = model.train(max_steps=5, progress=False)
        >>> table = model.responders(screen.test, progress=False)
        >>> list(table.rates["perturbation"]), bool(table.cells["probability"].between(0, 1).all())
        (['G01', 'G02', 'G03'], True)
        """
        chosen = ResponderSettings(**settings)
        model, mechanism = self.model, self.model.module.mechanism
        if not isinstance(mechanism, Responding):
            raise InputError(
                f"this {type(model).__name__} takes perturbations to act in all cells: train one "
                "with learn_responders=True (SAMSVAE, CPAVAE)"
            )
        generator, loader = model.generator(chosen.seed), model.loader(screen)
        likelihoods = branch_likelihoods(
            model.module,
            loader,
            n_particles=chosen.n_particles,
            generator=generator,
            progress=chosen.progress,
        )
        prior = mechanism.logits.detach().double().cpu().numpy()
        return Responders(
            self._cells(loader.screen, likelihoods, prior), self._rates(likelihoods, prior)
        )

    def _cells(
        self, screen: Screen, likelihoods: BranchLikelihoods, prior: np.ndarray
    ) -> pd.DataFrame:
        cell, slot = np.nonzero(likelihoods.received)
        log_odds = likelihoods.log_bayes_factors(prior)[cell, slot]
        log_posterior = log_odds + likelihoods.log_prior_odds(prior)[cell, slot]
        names = list(self.model.encoding.columns)
        table = pd.DataFrame(
            {
                "cell": screen.cells[cell],
                "condition": pd.Categorical.from_codes(
                    screen.condition[cell], list(screen.condition_names)
                ),
                "perturbation": pd.Categorical.from_codes(
                    likelihoods.perturbation[cell, slot], names
                ),
                "log_odds": log_odds,
                "probability": np.exp(-np.logaddexp(0, -log_posterior)),
            }
        )
        if screen.sgrna is not None:
            table.insert(3, "sgrna", screen.sgrna[cell])
        return table

    def _rates(self, likelihoods: BranchLikelihoods, prior: np.ndarray) -> pd.DataFrame:
        names = self.model.encoding.columns
        pooled = likelihoods.rates(prior, likelihoods.perturbation, len(names))
        tables = [_table(pooled, [(ALL_CONDITIONS, name) for name in names])]
        if self.model.metadata.sgrnas:
            own = likelihoods.rates(prior, likelihoods.reagent, len(prior))
            of_sgrnas = slice(len(names), None)
            tables.append(_table(Rates(*(v[of_sgrnas] for v in own)), self.model.metadata.sgrnas))
        table = pd.concat(tables, ignore_index=True)
        table = table[table["n_cells"] > 0]
        place = {name: i for i, name in enumerate(names)}
        by_perturbation = np.argsort(table["perturbation"].map(place), kind="stable")
        return _with_informative(table.iloc[by_perturbation].reset_index(drop=True))


def _with_informative(table: pd.DataFrame) -> pd.DataFrame:
    """Return rates, without those about which the cells say next to nothing."""
    of_all = table[table["sgrna"] == ALL_CONDITIONS].set_index("perturbation")["log_bayes_factor"]
    acts = table["perturbation"].map(of_all) > _MIN_EVIDENCE
    informative = acts & (table["upper"] - table["lower"] <= _MAX_WIDTH)
    rates = {name: table[name].where(informative) for name in ("rate", "lower", "upper")}
    return table.assign(**rates, informative=informative)


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
