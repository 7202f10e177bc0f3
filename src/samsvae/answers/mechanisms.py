"""Through which mechanisms: masks, embeddings, dose curves, latent states."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from samsvae.answers.trained import Trained
from samsvae.data.screen import Screen
from samsvae.errors import InputError, check_count
from samsvae.evaluation.latent import embedding_means, latent_means
from samsvae.model.mechanism import AdditiveShift


class Mechanisms(Trained):
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
        return self._by_perturbation(embedding_means(self._shift("embeddings")))

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
        """
        check_count("n_particles", n_particles)
        return latent_means(self.module, self._loader(screen), n_particles, self._generator(seed))

    def _shift(self, what: str) -> AdditiveShift:
        if not isinstance(self.module.mechanism, AdditiveShift):
            raise InputError(
                f"a {type(self).__name__} has no {what}: it displaces nothing in latent space"
            )
        return self.module.mechanism

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
