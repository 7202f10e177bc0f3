"""How perturbations move cells in latent space: masks, embeddings, dose curves, latent states.

Through which mechanisms: the latent dimensions in use, and their programs of genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from samsvae.data.screen import Screen
from samsvae.errors import InputError, note
from samsvae.estimators.trained import TrainedModel
from samsvae.inference.latent import Batches, latent_means, loadings, movements, program_of
from samsvae.model.mechanism import AdditiveShift
from samsvae.settings.arguments import Count, checked
from samsvae.settings.fields import takes
from samsvae.settings.questions import ProgramSettings


class LatentSpace:
    """Where a trained model places cells, and how perturbations shift them."""

    def __init__(self, model: TrainedModel) -> None:
        self.model, self.module, self.metadata = model, model.module, model.metadata

    def mask_probabilities(self) -> pd.DataFrame:
        """Return the posterior probability that a perturbation shifts a latent dimension.

        Perturbations x latent dimensions; NaN for a perturbation never seen in training. For SVAE+
        combinations are perturbations of their own; for CPA-VAE all are 1. A model that displaces
        nothing in latent space (conditional VAE) is an error.

        Examples
        --------
        >>> model.mask_probabilities().shape
        (3, 4)
        """
        return self._by_perturbation(self._shift("masks").mask.probability().detach())

    def embeddings(self) -> pd.DataFrame:
        """Return the posterior mean of each embedding, given its most probable mask.

        It is the shift at the perturbation's median dose (with a dose curve, at saturation).
        Perturbations x latent dimensions, as in `mask_probabilities`.
        """
        return self._by_perturbation(self._shift("embeddings").most_probable()[1])

    def inclusion(self) -> pd.DataFrame:
        """Return the evidence that a perturbation shifts a latent dimension, for every pair.

        With alignment, training ends with the closed-form inclusion update, whose probabilities are
        well calibrated in simulations (docs/identifiability.md). The log Bayes factor is then that
        of the entry alone: how much likelier its estimate is if the shift is not 0. The log odds,
        logit q(m = 1), also hold what other perturbations say: that the dimension is in use, and
        how often its entries are not 0.

        Without alignment, and in models that earlier versions saved, q is where training left it,
        and the log Bayes factor is logit q(m = 1) - logit p(m = 1): how far the log odds have moved
        from the prior. With a Beta prior p(m = 1) is the Beta's mean a / (a + b); where the
        posterior of that probability is a point (SVAE+), the density of the prior pulls it to the
        Beta's mode, and the difference is not of the data alone.

        Returns
        -------
        One row per perturbation seen in training and latent dimension, the most probable
        dimensions of each perturbation first: perturbation, dimension, probability (posterior, as
        in `mask_probabilities`), prior (probability), log_bayes_factor and log_odds (nats; both
        finite where a probability rounds to 1), shift (probability * embedding, as in
        `embeddings`), n_train_cells (that received the perturbation).

        Raises
        ------
        InputError
            If the model is not trained, or infers no mask (CPA-VAE, conditional VAE).

        Examples
        --------
        >>> list(model.inclusion().columns)[:5]
        ['perturbation', 'dimension', 'probability', 'prior', 'log_bayes_factor']
        """
        self.model.check_can_answer()
        mask = self._shift("masks").mask
        if mask.variable is None:
            raise InputError(
                f"the mask of a {type(self.model).__name__} is all ones, not inferred, so there "
                "is no evidence for it: embeddings() has its shifts, a SAMSVAE infers a mask"
            )
        logit, prior_logit = mask.logit().detach().double(), mask.prior_logit().detach().double()
        evidence = mask.evidence.double()  # 0: not known
        probability = self.mask_probabilities()
        tables = {
            "probability": probability,
            "prior": self._by_perturbation(prior_logit.sigmoid()),
            "log_bayes_factor": self._by_perturbation(
                torch.where(evidence != 0, evidence, logit - prior_logit)
            ),
            "log_odds": self._by_perturbation(logit),
            "shift": probability * self.embeddings(),
        }
        pairs = pd.DataFrame(
            {name: table.dropna().stack(future_stack=True) for name, table in tables.items()}
        )
        pairs = pairs.rename_axis(["perturbation", "dimension"]).reset_index()
        received = self.model.encoding(self.metadata.received(self.metadata.conditions)) != 0
        n_cells = received.T @ self.metadata.cells_per_condition
        columns = pd.Index(self.model.encoding.columns)
        pairs["n_train_cells"] = pairs["perturbation"].map(pd.Series(n_cells, columns))
        position = probability.index.get_indexer(pairs["perturbation"])
        # Probabilities that round to 1 tie: among them the log odds decide.
        order = np.lexsort((-pairs["log_odds"], -pairs["probability"], position))
        return pairs.iloc[order].reset_index(drop=True)

    def dose_parameters(self) -> pd.DataFrame:
        """Return the Hill curve of each perturbation's dose, for models with `saturating_dose`.

        Perturbations x (half_dose: the dose of half the displacement, in the units of the screen;
        slope: the Hill coefficient). A perturbation never seen in training is NaN. It is an error
        if the displacement is in proportion to the dose.
        """
        curve = self._shift("dose curves").dose_response
        if curve is None:
            raise InputError("displacements are in proportion to the dose: no saturating_dose")
        both = torch.stack([curve.log_half_dose, curve.log_slope], 1).detach().exp()
        table = self._by_perturbation(both, pd.Index(["half_dose", "slope"]))
        unit = pd.Series(self.metadata.median_dose, self.metadata.registry.perturbations)
        table["half_dose"] *= unit.reindex(table.index, fill_value=1.0)
        return table

    @checked
    def latent(
        self, screen: Screen, *, n_particles: Count = 10, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the posterior means of cells' basal states and states.

        Parameters
        ----------
        screen
            The cells; matched by gene and perturbation name.
        n_particles, seed
            Draws of mask and embedding that are averaged over, and their seed.

        Returns
        -------
        "basal" and "state", `cell latent`: ready for `adata.obsm.update(...)`.

        Examples
        --------
        >>> {name: values.shape[1] for name, values in model.latent(screen.test).items()}
        {'basal': 4, 'state': 4}
        """
        return latent_means(
            self.module, self.model.loader(screen), n_particles, self.model.generator(seed)
        )

    def _shift(self, what: str) -> AdditiveShift:
        additive = self.module.mechanism.additive
        if additive is None:
            raise InputError(
                f"a {type(self.model).__name__} has no {what}: it displaces nothing in latent space"
            )
        return additive

    def _by_perturbation(
        self, values: torch.Tensor, columns: pd.Index | None = None
    ) -> pd.DataFrame:
        """Return values by perturbation (as the model encodes them), unseen ones as NaN."""
        if columns is None:
            columns = pd.Index([f"z{i}" for i in range(values.shape[1])], name="latent")
        index = pd.Index(self.model.encoding.columns, name="perturbation")
        table = pd.DataFrame(values.double().cpu().numpy(), index, columns)
        unseen = set(self.metadata.registry.perturbations) - set(
            self.metadata.trained_perturbations
        )
        table.loc[table.index.isin(unseen)] = np.nan
        return table


_LOADING = ("loading", "lower", "upper", "mc_se", "sd")
_DRAWS = 1000
"""Draws of masks and embeddings for the interval of a program."""


class Mechanisms(LatentSpace):
    """What the latent dimensions of a trained model stand for."""

    @checked
    def mechanisms(self, *, n_genes: Count = 10) -> pd.DataFrame:
        """Return the latent dimensions in use, with the perturbations and genes of each.

        A dimension is in use if a perturbation shifts it with a probability above 1/2. Its genes
        are ranked by its effect: the log2 fold change of rho relative to the typical gene, between
        states a unit apart along it, at the mean state of the perturbations that move it, in the
        direction in which the strongest of them moves it, times e / (1 + e), e = 1e4 rho: changes
        of rare genes are hardly seen. `n_genes` of them are named in each direction.

        Returns
        -------
        One row per dimension in use, the one with the largest shifts first: n_perturbations;
        perturbations (their names, the largest shift first); shifts and probabilities, in that
        order; direction, up and down (names of genes: shifts of the sign that `direction` names,
        "positive" or "negative", raise those in `up` and lower those in `down`; shifts of the other
        sign do the opposite); share (of the sum of squared shifts of all dimensions
        in use); log_bayes_factor (the largest of its entries, nats).

        A UserWarning says if these axes are not identifiable up to rotation (see
        docs/identifiability.md). Errors are those of `inclusion`.

        Examples
        --------
        >>> list(model.mechanisms().columns)[:3]
        ['n_perturbations', 'perturbations', 'shifts']
        """
        pairs = self.inclusion()
        included = pairs[pairs["probability"] > 0.5]
        size = included["shift"].abs()
        included = included.assign(size=size).sort_values("size", ascending=False, kind="stable")
        squares = np.square(included["shift"]).groupby(included["dimension"]).sum()
        dimensions = squares.sort_values(ascending=False, kind="stable").index
        rows = [
            self._row_of(included[included["dimension"] == name], n_genes) for name in dimensions
        ]
        columns = ["n_perturbations", "perturbations", "shifts", "probabilities"]
        columns += ["direction", "up", "down"]
        table = pd.DataFrame(rows, pd.Index(dimensions, name="dimension"), columns)
        table["share"] = squares[dimensions] / squares.sum()
        largest = included.groupby("dimension")["log_bayes_factor"].max()
        table["log_bayes_factor"] = largest.reindex(dimensions)
        self._warn_of_axes(included)
        return table

    @checked
    @takes(ProgramSettings)
    def programs(self, **settings: Any) -> pd.DataFrame:
        """Return what each mechanism does to every gene: its program, signed.

        The loading of a gene is the log2 fold change of its expected expression, relative to the
        typical gene, when the dimension moves by 1: half of that between a step of 1 to either
        side of basal states, in the direction in which the strongest perturbation moves it.

        How far the dimension moves is uncertain. Draws of masks and embeddings, projected on their
        mean over the perturbations that move the dimension, move it by 1 on average; `lower` and
        `upper` are the loadings at the ends of the central 90 % interval of these movements. The
        interval includes 0 if many posterior draws show no shift, or shifts in both directions. The
        decoder is a point estimate, whose error is not included: compare seeds with
        `samsvae.stability`.

        Settings are n_particles (500 basal states), seed (0) and progress; see
        `samsvae.settings.questions.ProgramSettings`.

        Returns
        -------
        One row per dimension in use and gene, as in `mechanisms`, the largest loadings of each
        first: dimension, gene, loading, lower, upper, mc_se (Monte Carlo standard error of the
        loading), sd (between basal states). `samsvae.enrichment` takes it, with
        `score="loading"` and the dimension as the condition.

        Examples
        --------
        >>> list(model.programs(n_particles=10, progress=False).columns)
        ['dimension', 'gene', 'loading', 'lower', 'upper', 'mc_se', 'sd']
        """
        chosen = ProgramSettings(**settings)
        table = self.mechanisms()
        if table.empty:
            nothing = pd.DataFrame(columns=["dimension", "gene", *_LOADING])
            return nothing.astype(dict.fromkeys(_LOADING, float))
        metadata, genes = self.metadata, np.array(self.metadata.registry.genes, object)
        batches = Batches(metadata.shares_of(None), metadata.registry.design)
        moving = pd.Index(sorted({name for names in table["perturbations"] for name in names}))
        column = torch.from_numpy(pd.Index(self.model.encoding.columns).get_indexer(moving))
        generator = self.model.generator(chosen.seed)
        dimensions = [int(str(name)[1:]) for name in table.index]
        moves = np.zeros((len(moving), len(table)), bool)
        for i, names in enumerate(table["perturbations"]):
            moves[moving.get_indexer(names), i] = True
        moved = movements(
            self.module,
            column.to(generator.device),
            dimensions,
            moves,
            n_draws=_DRAWS,
            generator=generator,
        )
        parts = []
        rows = track(table.iterrows(), "programs", total=len(table), disable=not chosen.progress)
        for i, (name, row) in enumerate(rows):
            sign = float(np.sign(row["shifts"][0]))
            ends = np.quantile(moved[:, i], [0.05, 0.95], method="weibull")
            loading, *others = loadings(
                self.module,
                dimensions[i],
                steps=[sign, *(sign * ends)],
                n_particles=chosen.n_particles,
                batches=batches,
                generator=self.model.generator(chosen.seed),
            )
            interval = np.sort([other.mean for other in others], axis=0)
            expressed = np.flatnonzero(~metadata.unexpressed)
            order = expressed[np.argsort(-np.abs(loading.mean[expressed]), kind="stable")]
            columns = (loading.mean, *interval, loading.mc_se, loading.sd)
            parts.append(
                pd.DataFrame(
                    {
                        "dimension": str(name),
                        "gene": genes[order],
                        **{k: values[order] for k, values in zip(_LOADING, columns, strict=True)},
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def _row_of(self, entries: pd.DataFrame, n_genes: int) -> dict[str, Any]:
        """Return the row of one dimension: of its entries, the largest first."""
        names = list(entries["perturbation"])
        shifts = self.mask_probabilities().loc[names] * self.embeddings().loc[names]
        is_positive = bool(entries["shift"].iloc[0] > 0)
        program, weight = program_of(
            self.module,
            torch.from_numpy(shifts.to_numpy()),
            int(entries["dimension"].iloc[0][1:]),
            sign=1.0 if is_positive else -1.0,
            covariates=self.metadata.registry.even,
        )
        genes = np.array(self.metadata.registry.genes)
        expressed = np.flatnonzero(~self.metadata.unexpressed)
        order = expressed[np.argsort(-(program * weight)[expressed], kind="stable")]
        return {
            "n_perturbations": len(names),
            "perturbations": names,
            "shifts": entries["shift"].tolist(),
            "probabilities": entries["probability"].tolist(),
            "direction": "positive" if is_positive else "negative",
            "up": [str(genes[i]) for i in order[:n_genes] if program[i] > 0],
            "down": [str(genes[i]) for i in order[::-1][:n_genes] if program[i] < 0],
        }

    def _warn_of_axes(self, included: pd.DataFrame) -> None:
        """Warn of dimensions that the very same perturbations shift: any rotation fits as well."""
        mask = included.assign(one=1).pivot_table(
            index="perturbation", columns="dimension", values="one", fill_value=0
        )
        _, same = np.unique(mask.to_numpy().T, axis=0, return_inverse=True)
        twins = [mask.columns[same == i].tolist() for i in np.unique(same) if (same == i).sum() > 1]
        if twins:
            note(
                f"{len(twins)} groups of dimensions are shifted by the very same perturbations "
                f"({', '.join(map('+'.join, twins))}): their axes are not identifiable, any "
                "rotation of them fits as well; see docs/identifiability.md"
            )
