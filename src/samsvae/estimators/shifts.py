"""How perturbations move cells in latent space: masks, embeddings, dose curves, latent states."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.estimators.trained import Trained
from samsvae.inference.latent import latent_means
from samsvae.model.mechanism import AdditiveShift
from samsvae.settings.arguments import checked


class Shifts(Trained):
    """Where perturbations move cells in latent space."""

    def mask_probabilities(self) -> pd.DataFrame:
        """Return the posterior probability that a perturbation shifts a latent dimension.

        Returns
        -------
        Perturbations x latent dimensions. A perturbation never seen in training is NaN. For SVAE+
        combinations are perturbations of their own; for CPA-VAE all are 1.

        Raises
        ------
        InputError
            If the model displaces nothing in latent space (conditional VAE).

        Examples
        --------
        >>> import samsvae
        >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(**sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
        >>> model = model.train(max_steps=5, progress=False)
        >>> model.mask_probabilities().shape
        (3, 4)
        """
        return self._by_perturbation(self._shift("masks").mask.probability().detach())

    def embeddings(self) -> pd.DataFrame:
        """Return the posterior mean of each embedding, given its most probable mask.

        Returns
        -------
        Perturbations x latent dimensions, as in `mask_probabilities`.

        Raises
        ------
        InputError
            If the model displaces nothing in latent space (conditional VAE).
        """
        return self._by_perturbation(self._shift("embeddings").most_probable()[1])

    def inclusion(self) -> pd.DataFrame:
        """Return the evidence that a perturbation shifts a latent dimension, pair by pair.

        log Bayes factor = logit q(m = 1) - logit p(m = 1), in nats: how far the data have moved
        the log odds of the inclusion. With alignment, training ends with a closed form of q,
        networks fixed, in which these probabilities are calibrated on simulated screens (see
        docs/identifiability.md); without, q is where gradients left it. It is finite where a
        probability rounds to 1.
        With a Beta prior p(m = 1) is the Beta's mean a / (a + b); where the posterior of that
        probability is a point (SVAE+), the density of the prior pulls it to the Beta's mode, and
        the difference is not of the data alone.

        Returns
        -------
        One row per perturbation seen in training and latent dimension, the most probable
        dimensions of each perturbation first: perturbation, dimension, probability (posterior, as
        in `mask_probabilities`), prior (probability), log_bayes_factor, shift (probability *
        embedding, as in `embeddings`), n_train_cells (that received the perturbation). For SVAE+
        combinations are perturbations of their own.

        Raises
        ------
        InputError
            If the model is not trained, or infers no mask (CPA-VAE, conditional VAE).

        Examples
        --------
        >>> import samsvae
        >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(**sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
        >>> model = model.train(max_steps=5, progress=False)
        >>> list(model.inclusion().columns)[:5]
        ['perturbation', 'dimension', 'probability', 'prior', 'log_bayes_factor']
        """
        self._check_answers(seed=0)
        mask = self._shift("masks").mask
        if mask.variable is None:
            raise InputError(
                f"the mask of a {type(self).__name__} is all ones, not inferred, so there is no "
                "evidence for it: embeddings() has its shifts, a SAMSVAE infers a mask"
            )
        logit, prior_logit = mask.logit().detach().double(), mask.prior_logit().detach().double()
        probability = self.mask_probabilities()
        tables = {
            "probability": probability,
            "prior": self._by_perturbation(prior_logit.sigmoid()),
            "log_bayes_factor": self._by_perturbation(logit - prior_logit),
            "shift": probability * self.embeddings(),
        }
        pairs = pd.DataFrame(
            {name: table.dropna().stack(future_stack=True) for name, table in tables.items()}
        )
        pairs = pairs.rename_axis(["perturbation", "dimension"]).reset_index()
        pairs["n_train_cells"] = pairs["perturbation"].map(self._n_train_cells())
        position = probability.index.get_indexer(pairs["perturbation"])
        # Probabilities that round to 1 tie: among them the evidence decides.
        order = np.lexsort((-pairs["log_bayes_factor"], -pairs["probability"], position))
        return pairs.iloc[order].reset_index(drop=True)

    def dose_parameters(self) -> pd.DataFrame:
        """Return the Hill curve of each perturbation's dose, for models with `saturating_dose`.

        Returns
        -------
        Perturbations x (half_dose: the dose of half the displacement, in the units of the screen;
        slope: the Hill coefficient). A perturbation never seen in training is NaN.

        Raises
        ------
        InputError
            If the displacement is in proportion to the dose.
        """
        response = self._shift("dose curves").response
        if response is None:
            raise InputError("displacements are in proportion to the dose: no saturating_dose")
        both = torch.stack([response.log_half_dose, response.log_slope], 1).detach().exp()
        return self._by_perturbation(both, pd.Index(["half_dose", "slope"]))

    @checked
    def latent(
        self, screen: Screen, *, n_particles: int = 10, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the posterior means of cells' basal states and states.

        Parameters
        ----------
        screen
            The cells; matched by gene and perturbation name.
        n_particles
            Draws of mask and embedding that are averaged over.
        seed
            Same seed, same numbers.

        Returns
        -------
        "basal" and "state", `cell latent`: ready for `adata.obsm.update(...)`.

        Examples
        --------
        >>> import samsvae
        >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(**sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
        >>> model = model.train(max_steps=5, progress=False)
        >>> {name: values.shape[1] for name, values in model.latent(screen.test).items()}
        {'basal': 4, 'state': 4}
        """
        check_count("n_particles", n_particles)
        return latent_means(self.module, self.loader(screen), n_particles, self._generator(seed))

    def _shift(self, what: str) -> AdditiveShift:
        if not isinstance(self.module.mechanism, AdditiveShift):
            raise InputError(
                f"a {type(self).__name__} has no {what}: it displaces nothing in latent space"
            )
        return self.module.mechanism

    def _n_train_cells(self) -> pd.Series:
        """Return how many training cells received each perturbation (as the model encodes them)."""
        received = self.encoding(self.facts.received(self.facts.conditions)) != 0
        n_cells = received.T @ self.facts.cells_per_condition
        return pd.Series(n_cells, pd.Index(self.encoding.columns))

    def _by_perturbation(
        self, values: torch.Tensor, columns: pd.Index | None = None
    ) -> pd.DataFrame:
        """Return values by perturbation (as the model encodes them), unseen ones as NaN."""
        if columns is None:
            columns = pd.Index([f"z{i}" for i in range(values.shape[1])], name="latent")
        index = pd.Index(self.encoding.columns, name="perturbation")
        table = pd.DataFrame(values.double().cpu().numpy(), index, columns)
        unseen = set(self.facts.vocabulary.perturbations) - set(self.facts.seen)
        table.loc[table.index.isin(unseen)] = np.nan
        return table
