"""What perturbations do in one context and not in another, and pairs beyond their parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from samsvae.data.names import Extended
from samsvae.errors import InputError
from samsvae.estimators.mechanisms import LatentSpace
from samsvae.model.embedding import GaussianEmbedding

_EVIDENCE = ["mechanism", "probability", "log_bayes_factor", "shift", "n_train_cells"]


class Deviations(LatentSpace):
    """Columns of dosage beyond the shared effects, each kind with a prior of its own."""

    def context_differences(self) -> pd.DataFrame:
        """Return in which contexts a perturbation acts differently, and through which mechanisms.

        Deviations sum to zero over the contexts in which a perturbation has training cells, so that
        none is the reference: of each context, `shift` is how far it lies from the mean of the
        perturbation's others ("against"), and at most one row per mechanism stands for two.

        Returns
        -------
        One row per perturbation, context and latent dimension ("mechanism"), the surest first:
        perturbation, context, against, mechanism, probability (that they differ; CPA-VAE: 1),
        log_bayes_factor (nats), shift (posterior mean), n_train_cells (in the context).
        `.attrs["prior_probability"]` and `.attrs["prior_scale"]` are those learned of deviations:
        what a perturbation without cells in a context is answered with.

        Raises
        ------
        InputError
            If the model has no contexts, or fewer than two of them have training cells.
        """
        encoding = self._extended
        if encoding is None or len(encoding.contexts) < 2:
            raise InputError(
                "the model has no contexts whose effects may differ: read the screen with "
                "context_key, a column of at least two levels, and train a SAMSVAE or CPAVAE"
            )
        names, contexts = self.metadata.registry.perturbations, encoding.contexts
        cells = self.metadata.cells_per_context
        rows, unit = [], []
        for t, c in encoding.deviations:
            known = np.flatnonzero(cells[t])
            others = [contexts[other] for other in known if other != c]
            rows.append((names[t], contexts[c], ", ".join(others), cells[t, c]))
            unit.append(np.sqrt(2) if len(known) == 2 else 1.0)
        columns = ["perturbation", "context", "against", "n_train_cells"]
        table = pd.DataFrame(rows, columns=columns)
        return self._of_kind(table, 1, np.array(unit))

    def interactions(self) -> pd.DataFrame:
        """Return what pairs do beyond the sum of their parts, mechanism by mechanism.

        Returns
        -------
        One row per pair that training cells received together and latent dimension ("mechanism"),
        the surest first: pair, mechanism, probability (of an interaction; CPA-VAE: 1),
        log_bayes_factor (nats), shift (posterior mean), n_train_cells (of both together).
        `.attrs["prior_probability"]` and `.attrs["prior_scale"]` are those learned of interactions:
        what a pair without cells is answered with.

        Raises
        ------
        InputError
            If the model was made without `learn_interactions=True`.
        """
        encoding = self._extended
        if encoding is None or not encoding.has_interactions:
            raise InputError(
                "the model has no interactions: make it with learn_interactions=True (a SAMSVAE or "
                "CPAVAE)"
            )
        registry = self.metadata.registry
        parts = [tuple(registry.perturbations[t] for t in pair) for pair in encoding.pairs]
        received = [set(registry.read(name)) for name in self.metadata.conditions]
        table = pd.DataFrame(
            {
                "pair": [registry.parser.write(dict.fromkeys(pair, 1.0)) for pair in parts],
                "n_train_cells": [
                    sum(
                        int(n)
                        for n, names in zip(
                            self.metadata.cells_per_condition, received, strict=True
                        )
                        if names.issuperset(pair)
                    )
                    for pair in parts
                ],
            }
        )
        return self._of_kind(table, 2, np.ones(len(table)))

    @property
    def _extended(self) -> Extended | None:
        encoding = self.model.encoding
        return encoding if isinstance(encoding, Extended) else None

    def _of_kind(self, named: pd.DataFrame, kind: int, unit: np.ndarray) -> pd.DataFrame:
        """Return the evidence of the columns of a kind, of which the last is of those unseen."""
        self.model.check_can_answer()
        additive = self._shift("deviations")
        mask, embedding, kinds = additive.mask, additive.embedding, self.model.encoding.kinds
        assert kinds is not None
        assert isinstance(embedding, GaussianEmbedding)
        own = torch.from_numpy(np.flatnonzero(kinds == kind)).to(self.model.device)
        columns, unseen = own[:-1], own[-1:]
        probability, logit, prior = (
            x.detach().double() for x in (mask.probability(), mask.logit(), mask.prior_logit())
        )
        evidence = mask.evidence.double()
        evidence = torch.where(evidence != 0, evidence, logit - prior)
        if mask.variable is None:
            evidence = torch.full_like(evidence, torch.nan)
        mean = additive.most_probable()[1].double() * probability
        n_latent = mean.shape[1]
        values = {
            "mechanism": np.tile([f"z{i}" for i in range(n_latent)], len(columns)),
            "probability": probability[columns].flatten().cpu().numpy(),
            "log_bayes_factor": evidence[columns].flatten().cpu().numpy(),
            "shift": (mean[columns].cpu().numpy() * unit[:, None]).ravel(),
        }
        table = named.loc[named.index.repeat(n_latent)].reset_index(drop=True).assign(**values)
        first = [name for name in named.columns if name not in _EVIDENCE]
        order = np.lexsort((-table["shift"].abs(), -table["log_bayes_factor"].fillna(0)))
        table = table[[*first, *_EVIDENCE]].iloc[order].reset_index(drop=True)
        table.attrs["prior_probability"] = float(probability[unseen].mean())
        table.attrs["prior_scale"] = float(embedding.prior(unseen).scale.detach())
        return table
