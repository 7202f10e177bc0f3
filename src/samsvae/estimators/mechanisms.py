"""How perturbations move cells in latent space: masks, embeddings, dose curves, latent states.

Through which mechanisms: the latent dimensions in use, and their programs of genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from samsvae.data.screen import Screen
from samsvae.errors import InputError, note
from samsvae.estimators.trained import TrainedModel
from samsvae.inference.latent import (
    Batches,
    Loadings,
    latent_means,
    loadings,
    movements,
    sampling_sd,
)
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
        """Return the table of `model.inclusion()`, see `samsvae.estimators.consistency`."""
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
        """Return the posterior means of cells' basal states and states: two embeddings.

        The basal state is what the counts say of a cell apart from its perturbation: cell cycle,
        cell types and the like. The state is basal + shift, and the shift is that of the cell's
        label: cells of one label lie together in it whether or not anything happened to them, and
        clusters by label are no evidence of an effect. With `learn_responders` the shift is
        weighted by the posterior probability that the perturbation acts in the cell, so cells that
        do not respond lie with control: use such a model for a map of cells. Ask
        `samsvae.discoveries` whether there is an effect, `responders` in which cells.

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
        table = table[self.model.encoding.is_shared]
        unseen = set(self.metadata.registry.perturbations) - set(
            self.metadata.trained_perturbations
        )
        table.loc[table.index.isin(unseen)] = np.nan
        return table


IN_USE, MEMBER = 0.5, 0.9
"""Probabilities above which a perturbation is a candidate for a mechanism, and a member of it: from
0.9 on they are right in simulations (docs/identifiability.md)."""
_LOADING = ("loading", "error", "lower", "upper", "mc_se", "sd")
_DRAWS = 1000
"""Draws of masks and embeddings for the interval of a program."""


class Mechanisms(LatentSpace):
    """What the latent dimensions of a trained model stand for."""

    @checked
    def mechanisms(self, *, n_genes: Count = 10) -> pd.DataFrame:
        """Return the latent dimensions in use, with the perturbations and genes of each.

        A dimension is in use if a perturbation shifts it with a probability above 1/2. Its members
        are those with a probability above 0.9, where probabilities are right in simulations; the
        others are candidates. Its genes are the first of `programs` with its default settings.

        Returns
        -------
        One row per dimension in use, the one with the largest shifts first, those without a member
        last: n_perturbations; perturbations (its members, the largest shift first), their shifts
        and probabilities; n_candidates, candidates, candidate_shifts, candidate_probabilities;
        direction, up and down (names of genes, `n_genes` at most: shifts of the sign that
        `direction` names, "positive" or "negative", raise those in `up` and lower those in `down`;
        shifts of the other sign do the opposite); share (of the sum of squared shifts of all
        dimensions in use); log_bayes_factor and log_odds (of its surest entry, nats).

        A UserWarning says if these axes are not identifiable up to rotation (see
        docs/identifiability.md). Errors are those of `inclusion`.

        Examples
        --------
        >>> list(model.mechanisms().columns)[:3]
        ['n_perturbations', 'perturbations', 'shifts']
        """
        entries, chosen = self._entries(), ProgramSettings()
        noise = self._noise(chosen) if entries else np.empty(0)
        rows = [
            _listed(own) | self._genes_of(own, noise, chosen, n_genes) for own in entries.values()
        ]
        columns = ["n_perturbations", "perturbations", "shifts", "probabilities"]
        columns += ["n_candidates", "candidates", "candidate_shifts", "candidate_probabilities"]
        columns += ["direction", "up", "down", "share", "log_bayes_factor", "log_odds"]
        table = pd.DataFrame(rows, pd.Index(list(entries), name="dimension"), columns)
        table["share"] /= table["share"].sum()
        return table

    @checked
    @takes(ProgramSettings)
    def programs(self, **settings: Any) -> pd.DataFrame:
        """Return what each mechanism does to every gene: its program, signed.

        The loading of a gene is the log2 fold change of its expected expression, relative to the
        typical gene, when the dimension moves by 1 in the direction in which the strongest
        perturbation moves it: that of all of this perturbation's shift, from basal states, over the
        size of the shift.

        The error of a loading is what the members' cells allow: the standard error of the slope of
        log2 expression on the movement, by the sampling noise of the likelihood,

        error_g^2 = (1 / mu_g + 1 / theta_g) / (ln(2)^2 sum_t n_t s_t^2) + mc_se_g^2,

        over the members t (else the candidates), n_t their training cells, s_t their shifts; mu_g
        the expected counts at the median library size, theta_g the inverse dispersion. Without a
        library size the variance of a cell's value stands for (1 / mu + 1 / theta) / ln(2)^2. Genes
        are ordered by |loading| / error: large changes of genes that are hardly counted come late.

        How far the dimension moves is uncertain. Draws of masks and embeddings, projected on their
        mean over the perturbations that move the dimension, move it by 1 on average; `lower` and
        `upper` are the loadings at the ends of the central 90 % interval of these movements. The
        interval includes 0 if many posterior draws show no shift, or shifts in both directions. The
        decoder is a point estimate, whose error is in neither: compare seeds with
        `samsvae.stability`.

        Settings are n_particles (500 basal states), seed (0) and progress; see
        `samsvae.settings.questions.ProgramSettings`.

        Returns
        -------
        One row per dimension in use and gene, as in `mechanisms`, the genes with the largest
        |loading| / error of each first: dimension, gene, loading, error, lower, upper, mc_se (Monte
        Carlo standard error of the loading), sd (between basal states). `samsvae.enrichment` takes
        it, with `score="loading"` and the dimension as the condition.

        Examples
        --------
        >>> list(model.programs(n_particles=10, progress=False).columns)[:5]
        ['dimension', 'gene', 'loading', 'error', 'lower']
        """
        chosen, entries = ProgramSettings(**settings), self._entries()
        if not entries:
            nothing = pd.DataFrame(columns=["dimension", "gene", *_LOADING])
            return nothing.astype(dict.fromkeys(_LOADING, float))
        genes = np.array(self.metadata.registry.genes, object)
        noise, ends = self._noise(chosen), self._movement_ends(entries, chosen.seed)
        parts = []
        rows = track(entries.items(), "programs", total=len(entries), disable=not chosen.progress)
        for (name, own), multiples in zip(rows, ends, strict=True):
            loading, others, error, order = self._loadings(own, noise, chosen, multiples)
            interval = np.sort([other.mean for other in others], axis=0)
            columns = (loading.mean, error, *interval, loading.mc_se, loading.sd)
            parts.append(
                pd.DataFrame(
                    {
                        "dimension": name,
                        "gene": genes[order],
                        **{k: values[order] for k, values in zip(_LOADING, columns, strict=True)},
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def _entries(self) -> dict[str, pd.DataFrame]:
        """Return the pairs of each dimension in use: as `mechanisms` orders them."""
        pairs = self.inclusion()
        included = pairs[pairs["probability"] > IN_USE]
        self._warn_of_axes(included)
        by_size = np.argsort(-included["shift"].abs(), kind="stable")
        groups = included.iloc[by_size].groupby("dimension", sort=False)
        order = pd.DataFrame(
            {
                "has_member": groups["probability"].max() > MEMBER,
                "size": groups["shift"].agg(lambda shift: np.square(shift).sum()),
            }
        ).sort_values(["has_member", "size"], ascending=False, kind="stable")
        return {str(name): groups.get_group(name) for name in order.index}

    def _noise(self, chosen: ProgramSettings) -> np.ndarray:
        """Return the sampling error of each gene in a cell of the median library size."""
        return sampling_sd(
            self.module,
            float(np.median(self.metadata.library_size)),
            n_particles=chosen.n_particles,
            batches=self._batches,
            generator=self.model.generator(chosen.seed),
        )

    @property
    def _batches(self) -> Batches:
        return Batches(self.metadata.shares_of(None), self.metadata.registry.design)

    def _movement_ends(self, entries: dict[str, pd.DataFrame], seed: int) -> np.ndarray:
        """Return the central 90 % interval of how far each dimension moves, `dimension end`."""
        names = {key: movers_of(own)["perturbation"] for key, own in entries.items()}
        moving = pd.Index(sorted(set(pd.concat(names.values()))))
        column = torch.from_numpy(pd.Index(self.model.encoding.columns).get_indexer(moving))
        generator = self.model.generator(seed)
        moved = movements(
            self.module,
            column.to(generator.device),
            [int(key[1:]) for key in names],
            np.stack([moving.isin(own) for own in names.values()], 1),
            n_draws=_DRAWS,
            generator=generator,
        )
        return np.quantile(moved, [0.05, 0.95], axis=0, method="weibull").T

    def _loadings(
        self,
        entries: pd.DataFrame,
        noise: np.ndarray,
        chosen: ProgramSettings,
        multiples: Sequence[float] = (),
    ) -> tuple[Loadings, list[Loadings], np.ndarray, np.ndarray]:
        """Return a dimension's loadings, those of further multiples, errors, genes in order."""
        movers = movers_of(entries)
        loading, *others = loadings(
            self.module,
            int(movers["dimension"].iloc[0][1:]),
            shift=float(movers["shift"].iloc[0]),
            multiples=[1.0, *multiples],
            n_particles=chosen.n_particles,
            batches=self._batches,
            generator=self.model.generator(chosen.seed),
        )
        weight = float((movers["n_train_cells"] * np.square(movers["shift"])).sum())
        error = np.hypot(noise / np.sqrt(weight), loading.mc_se)
        expressed = np.flatnonzero(~self.metadata.unexpressed)
        order = np.argsort(-np.abs(loading.mean / error)[expressed], kind="stable")
        return loading, others, error, expressed[order]

    def _genes_of(
        self, entries: pd.DataFrame, noise: np.ndarray, chosen: ProgramSettings, n_genes: int
    ) -> dict[str, Any]:
        """Return the first genes of a dimension that rise and fall, and with which shifts."""
        loading, _, _, order = self._loadings(entries, noise, chosen)
        names, signed = np.array(self.metadata.registry.genes)[order], loading.mean[order]
        is_positive = movers_of(entries)["shift"].iloc[0] > 0
        return {
            "direction": "positive" if is_positive else "negative",
            "up": names[signed > 0][:n_genes].tolist(),
            "down": names[signed < 0][:n_genes].tolist(),
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


def movers_of(entries: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of a dimension's members; if it has none, those of its candidates."""
    is_member = entries["probability"] > MEMBER
    return entries[is_member] if is_member.any() else entries


def _listed(entries: pd.DataFrame) -> dict[str, Any]:
    """Return the members and candidates of a dimension, its sum of squares, its surest entry."""
    is_member = entries["probability"] > MEMBER
    members, candidates = entries[is_member], entries[~is_member]
    surest = entries.loc[entries["log_odds"].idxmax()]
    return {
        "n_perturbations": len(members),
        "perturbations": members["perturbation"].tolist(),
        "shifts": members["shift"].tolist(),
        "probabilities": members["probability"].tolist(),
        "n_candidates": len(candidates),
        "candidates": candidates["perturbation"].tolist(),
        "candidate_shifts": candidates["shift"].tolist(),
        "candidate_probabilities": candidates["probability"].tolist(),
        "share": np.square(entries["shift"]).sum(),
        "log_bayes_factor": surest["log_bayes_factor"],
        "log_odds": surest["log_odds"],
    }
