"""The settings of questions to a trained model, and of how predictors are scored.

Each is defined once: a field is an argument in Python and an option of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Lt

from samsvae.settings.arguments import Count, Natural, Positive, Several, Share, check_fields
from samsvae.settings.fields import settings_of
from samsvae.types import Reference, Scale

LibrarySize = Annotated[Positive, Lt(2.0**31)]
"""Expected counts of a cell."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings whose fields are checked against their annotations when they are made."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def among(cls, settings: Mapping[str, Any]) -> Self:
        """Return these settings, of which others may stand in the same mapping."""
        return cls(**settings_of(cls, settings))


@dataclass(frozen=True, kw_only=True)
class SeedSettings(Checked):
    """The seed of random numbers.

    Parameters
    ----------
    seed
        The same seed gives the same numbers on the same machine.
    """

    seed: Natural = 0


@dataclass(frozen=True, kw_only=True)
class ProgressSettings(Checked):
    """Whether progress is shown.

    Parameters
    ----------
    progress
        Show a progress bar.
    """

    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Checked):
    """Where tensors are computed.

    Parameters
    ----------
    device
        Such as "cpu" or "cuda"; "auto" uses a GPU if there is one.
    """

    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class OutputSettings(Checked):
    """What happens to existing files.

    Parameters
    ----------
    overwrite
        Replace existing files; in a directory, only those that the command writes.
    """

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ResumeSettings(OutputSettings):
    """What happens to an existing directory.

    Parameters
    ----------
    resume
        Keep what is finished and go on with the rest: the same command, with this option.
    """

    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class JobSettings(ResumeSettings):
    """Where the jobs of an experiment run, and what happens to its directory.

    Parameters
    ----------
    jobs
        Models trained at a time, each in a process of its own; by default as many as there are
        cores, or one where there is a GPU. 1 starts no other process.
    engine
        Where jobs run: "local", or a "ray" or "dask" cluster that can see the output directory (see
        docs/reproduce.md).
    """

    jobs: Count | None = None
    engine: Literal["local", "ray", "dask"] = "local"


@dataclass(frozen=True, kw_only=True)
class EffectSettings(ProgressSettings, SeedSettings):
    """How effects are estimated.

    Parameters
    ----------
    scale
        "lfc": log2 fold change of the expected share of a gene, which depends neither on the
        library size nor on dispersion; "log": difference of drawn counts as log2(1 + 1e4 x / sum
        x), what the paper scores; "normalized": 1e4 times the expected share of a gene (counts per
        10,000), without drawing counts; "mean": the mean of the data, for likelihoods without a
        library size (Poisson, Gaussian). By default "lfc", or "mean" for those.
    relative_to
        What fold changes are relative to: the "typical gene", so that genes which do not change
        have none although others rise or fall (docs/discoveries.md), or the "library".
    library_size
        Expected counts of both arms over the screen's genes; "observed" draws library sizes from
        the training cells of the condition (of all conditions, for one without cells) and of
        control. The log scale depends on it strongly, the others do not.
    n_particles
        K, draws of basal state, mask and embedding.
    n_count_draws
        Draws of counts per particle, for scale "log".
    n_draws
        Draws of mask and embedding for the posterior interval, each averaged over the same basal
        draws; 0: no interval.
    basal
        Where basal states come from: their "prior" N(0, I) (the paper), or the posterior of
        the "control" training cells (at most 2,000 of them), in their own batches.
    batch
        Batch of both arms; by default drawn as in the training cells, for "observed" as in those of
        the condition.
    context
        Context of both arms, where the screen was read with `context_key`; by default effects are
        the mean over contexts.
    contamination
        The share of a condition's counts that are of other cells: of ambient RNA, of the second
        cells of doublets (half of their counts), of cells with a wrong label. Fold changes are
        given without them.
    """

    scale: Scale | None = None
    relative_to: Reference = "typical gene"
    library_size: LibrarySize | Literal["observed"] = 1e4
    n_particles: Several = 2500
    n_count_draws: Count = 1
    n_draws: Natural = 100
    basal: Literal["prior", "control"] = "prior"
    batch: str | None = None
    context: str | None = None
    contamination: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class SimulationSettings(SeedSettings):
    """How cells are drawn.

    Parameters
    ----------
    n_cells
        New cells per condition: each draws its own basal state, mask and embedding.
    library_size
        Of new cells: expected counts over the screen's genes, or drawn from those "observed"
        in the condition's training cells (of all conditions, for one without cells). Not used for
        likelihoods without a library size.
    context
        Context that conditions act in, and that new cells are of, where the screen was read with
        `context_key`; by default effects are the mean over contexts.
    """

    n_cells: Count = 1000
    library_size: LibrarySize | Literal["observed"] = "observed"
    context: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(ProgressSettings, SeedSettings):
    """How effects and their error rates are estimated from the model and the data together.

    Parameters
    ----------
    scale
        "lfc", "log", "normalized" or "mean", as for effects.
    relative_to
        Of fold changes: the "typical gene" or the "library", as for effects.
    cells
        "all", or "responders": effects on the cells in which a condition acts, each weighted by the
        probability of that; for a model trained with `learn_responders=True`.
    context
        The context that effects are of, from its cells alone, as for effects.
    contamination
        The share of a condition's counts that are of other cells, as for effects.
    n_particles
        Draws of basal state, mask and embedding for the model's effects.
    """

    scale: Scale | None = None
    relative_to: Reference = "typical gene"
    cells: Literal["all", "responders"] = "all"
    context: str | None = None
    contamination: Share = 0.0
    n_particles: Several = 1000

    def of_effects(self) -> EffectSettings:
        """Return the settings of the model's effects."""
        return EffectSettings(
            scale=self.scale,
            relative_to=self.relative_to,
            context=self.context,
            contamination=self.contamination,
            n_particles=self.n_particles,
            seed=self.seed,
            progress=self.progress,
        )


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings(ContrastSettings):
    """How effects are estimated as for contrasts, and of which cells.

    Parameters
    ----------
    by
        "condition"; "sgrna": one row for each sgRNA of a condition, from its own cells;
        "context": how effects differ between contexts, one row for each but the first of two, for
        each of several against the mean of the others; or "interaction": what combinations with
        training cells do beyond the sum of their parts.
    """

    by: Literal["condition", "sgrna", "context", "interaction"] = "condition"


@dataclass(frozen=True, kw_only=True)
class ErrorRateSettings(Checked):
    """Which rows of a table of discoveries are kept.

    Parameters
    ----------
    fdr
        Leave out rows with a larger q_value (false discovery rate), such as 0.05.
    """

    fdr: Share = 1.0


@dataclass(frozen=True, kw_only=True)
class RegulatorSettings(Checked):
    """Which regulators of a gene are listed.

    Parameters
    ----------
    lfsr
        Leave out rows with a larger local false sign rate, such as 0.05.
    """

    lfsr: Share = 1.0


@dataclass(frozen=True, kw_only=True)
class CombinationSettings(ProgressSettings, SeedSettings):
    """How combinations are compared with the sum of their parts.

    Parameters
    ----------
    scale
        "lfc", "log", "normalized" or "mean", as for effects.
    relative_to
        Of fold changes: the "typical gene" or the "library", as for effects.
    library_size
        Expected counts of both arms, or "observed", as for effects: on scale "log" expression
        depends on it, and observed effects are at the cells' own library sizes.
    contamination
        The share of a condition's counts that are of other cells, as for effects.
    n_particles
        Draws of basal state, mask and embedding for the model's effects.
    """

    scale: Scale | None = None
    relative_to: Reference = "typical gene"
    library_size: LibrarySize | Literal["observed"] = 1e4
    contamination: Share = 0.0
    n_particles: Several = 500


@dataclass(frozen=True, kw_only=True)
class ResponderSettings(ProgressSettings, SeedSettings):
    """How responders are inferred.

    Parameters
    ----------
    n_particles
        Draws per cell.
    """

    n_particles: Count = 25


@dataclass(frozen=True, kw_only=True)
class MechanismSettings(Checked):
    """How mechanisms are listed.

    Parameters
    ----------
    n_genes
        Genes that are named in each direction.
    """

    n_genes: Count = 10


@dataclass(frozen=True, kw_only=True)
class SgrnaSettings(ProgressSettings, SeedSettings):
    """How sgRNAs of a condition are compared.

    Parameters
    ----------
    scale
        "log", "normalized" (counts per 10,000) or "mean", as for differences from control.
    n_permutations
        Permutations of the sgRNAs: p values are at least 1 / (n_permutations + 1).
    """

    scale: Scale = "log"
    n_permutations: Annotated[int, Ge(19)] = 999


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(ProgressSettings, SeedSettings):
    """How programs are estimated.

    Parameters
    ----------
    n_particles
        Basal states that loadings are averaged over.
    """

    n_particles: Several = 500


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(ProgressSettings, SeedSettings):
    """How predictors are scored on held-out cells.

    Parameters
    ----------
    n_particles
        Particles of the IWELBO.
    effect_particles
        Particles of the models' effects. They are predicted at library size 1e4 for correlations,
        and at the observed library sizes for errors and coverage.
    n_draws
        Draws of mask and embedding for the intervals of effects; 0: no coverage.
    basal
        Basal states of the models' effects: from their "prior" or of "control" cells.
    n_halvings
        How often the cells are split into random halves for the technical replicate; 0: none, and
        no dynamic range.
    n_cells
        Largest number of cells of a condition whose distribution is compared (E-distance, MMD); 0:
        neither.
    """

    n_particles: Count = 100
    effect_particles: Several = 2500
    n_draws: Natural = 100
    basal: Literal["prior", "control"] = "prior"
    n_halvings: Natural = 20
    n_cells: Natural = 200


@dataclass(frozen=True, kw_only=True)
class ReportSettings(ProgressSettings, SeedSettings, DeviceSettings):
    """How the effects of a report are estimated.

    Parameters
    ----------
    n_particles
        Draws of basal state, mask and embedding for the model's effects.
    """

    n_particles: Several = 2500
