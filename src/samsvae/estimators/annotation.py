"""What a model knows of cells, written where scanpy and the tools around it look for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData

from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.mechanisms import Mechanisms
from samsvae.settings.arguments import checked
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.takes import takes

BASAL, STATE = "X_samsvae_basal", "X_samsvae"


class Annotation(Mechanisms):
    """Latent states in an AnnData object."""

    @checked
    @takes(ScreenSettings)
    def annotate(
        self, adata: AnnData, *, n_particles: int = 10, seed: int = 0, **settings: Any
    ) -> AnnData:
        """Write the latent states of cells into `adata.obsm`.

        "X_samsvae_basal" is the basal state: the cell without its perturbation. "X_samsvae" is the
        state: with it. Both are posterior means, as `latent` gives them; scanpy takes them by
        `sc.pp.neighbors(adata, use_rep="X_samsvae")`.

        Parameters
        ----------
        adata
            The cells; matched by gene and perturbation name. It is changed in place.
        n_particles
            Draws of mask and embedding that are averaged over.
        seed
            Same seed, same numbers.
        **settings
            Where it holds what, as `samsvae.Screen.from_anndata` takes them: such as `layer`,
            where `adata.X` does not hold the counts, or `perturbation_key`.

        Returns
        -------
        The same object. Cells that the settings leave out (`drop_empty_cells`,
        `drop_unlabelled`) are rows of NaN.

        Raises
        ------
        InputError
            If the model is not trained, or the cells cannot be used: as in `from_anndata` and
            `latent`. Nothing is written then.

        Examples
        --------
        >>> import samsvae
        >>> sizes = {"n_perturbations": 3, "n_combinations": 1, "n_genes": 20}
        >>> screen = samsvae.datasets.simulated_screen(**sizes)
        >>> model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
        >>> model = model.train(max_steps=5, progress=False)
        >>> adata = model.annotate(screen.train.to_anndata())
        >>> adata.obsm["X_samsvae"].shape == (adata.n_obs, 4)
        True
        """
        self._check_answers(seed=seed)
        screen = Screen.from_anndata(adata, **settings)
        states = self.latent(screen, n_particles=n_particles, seed=seed)
        rows: Any = slice(None)
        if len(screen) != adata.n_obs:
            if not adata.obs_names.is_unique:
                raise InputError(
                    "cell names are not unique, so it cannot be told which cells are left out: "
                    "make them unique with adata.obs_names_make_unique()"
                )
            rows = adata.obs_names.get_indexer(screen.cells)
        for key, values in ((BASAL, states["basal"]), (STATE, states["state"])):
            table = np.full((adata.n_obs, values.shape[1]), np.nan, np.float32)
            table[rows] = values
            adata.obsm[key] = table
        return adata
