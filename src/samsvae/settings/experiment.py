"""The settings of a run, of any model, and of an experiment: which models, splits and scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from samsvae._deprecated import takes_former_settings
from samsvae.errors import InputError, listed, unknown
from samsvae.settings.arguments import Count, Share, check
from samsvae.settings.conventions import completed
from samsvae.settings.fields import Settings, read_toml, settings_of
from samsvae.settings.model import MODEL_SETTINGS, ModelChoice
from samsvae.settings.questions import Checked, ScoreSettings
from samsvae.settings.screen import ScreenSettings
from samsvae.settings.train import TrainPlan
from samsvae.types import Scale

RUN = Settings(ScreenSettings, ModelChoice, *MODEL_SETTINGS.values(), TrainPlan)
"""Those of a run, of any model."""
COMPARED = Settings(ScreenSettings, *MODEL_SETTINGS.values(), TrainPlan)
"""Those of the runs of a comparison, which names its models otherwise."""


def gathered(
    options: Mapping[str, Any], *, assignments: Iterable[str] = (), config: Path | None = None
) -> dict[str, Any]:
    """Return all settings of a run: options and `--set` win over the file.

    A table of the file holds settings of the one model that it is named after.
    """
    where = f"in {str(config)!r}"
    file = {} if config is None else read_toml(config)
    tables = {
        _known(name): RUN.checked(file.pop(name), where)
        for name in [name for name, value in file.items() if isinstance(value, dict)]
    }
    general = RUN.checked(file, where)
    nearer = RUN.given(options, assignments)
    model = ModelChoice(**settings_of(ModelChoice, general | nearer)).model
    return complete(general | tables.get(_known(model), {}) | nearer)


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run of the chosen model: the content of config.toml.

    It is an error if there is no such model, or a setting is of other models.
    """
    model = _known(ModelChoice(**settings_of(ModelChoice, given)).model)
    of_model = Settings(ScreenSettings, ModelChoice, MODEL_SETTINGS[model], TrainPlan)
    foreign = [name for name in given if name not in of_model.fields]
    if foreign:
        takers = [
            name
            for name, source in MODEL_SETTINGS.items()
            if set(foreign) & settings_of(source, given).keys()
        ]
        raise InputError(
            f"the model {model!r} has no setting {listed(foreign)}: leave it out, or take "
            f"another --model, such as {listed(takers)}"
        )
    settings = of_model.complete(completed(given))
    reading = ScreenSettings(**settings_of(ScreenSettings, settings))
    return settings | settings_of(ScreenSettings, vars(reading))


def _known(model: str) -> str:
    """Return the name of a model, if there is one."""
    if model not in MODEL_SETTINGS:
        raise unknown("model", model, list(MODEL_SETTINGS))
    return model


@takes_former_settings
@dataclass(frozen=True, kw_only=True)
class PreparationSettings(Checked):
    """What is kept of a published file.

    The published description (Lopez et al. 2022, for the filtered Replogle screen) says that
    perturbations with strong effects were kept, and the genes associated with them; its exact
    thresholds are not known to us. The defaults take over the rule by which Replogle et al. 2022
    call a response strong; the tables print the paper's numbers next to ours, so that they can be
    tuned.

    Parameters
    ----------
    min_cells
        Cells below which a perturbation is left out (Replogle et al. 2022: 25).
    min_de_share
        Share of the genes that a perturbation must change to be kept (Replogle et al. 2022: more
        than 50 of 8,248 genes).
    fdr
        False discovery rate of these genes, Benjamini and Hochberg, per perturbation (5 %).
    min_perturbation_share
        Share of the kept perturbations that must change a gene for it to be kept (ours).
    n_genes
        Highly variable genes that are kept of Norman's (the paper: 5,000).
    n_bins
        Bins of mean expression within which their dispersions are compared (Satija et al. 2015:
        20).
    """

    min_cells: Count = 25
    min_de_share: Share = 50 / 8248
    fdr: Share = 0.05
    min_perturbation_share: Share = 0.02
    n_genes: Count = 5000
    n_bins: Count = 20


Split = Literal["given", "random", "norman-ood", "norman-data-efficiency"]
"""How cells are split: "given" is the split that the screen comes with."""
FRACTIONED = ("norman-ood", "norman-data-efficiency")
"""Splits that train on several fractions of the combinations."""
LEAST = {"steps": 50, "particles": 20, "cells": 20, "batch": 64, "draws": 1, "seeds": 2}
"""To which a scaled experiment is never brought down."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the experiment's table: a model, and what is chosen by validation cells.

    `settings` are all settings of its runs, `candidates` values of a setting that are tried: the
    one with the best validation IWELBO at the first seed (of each fraction) is taken for all seeds.
    A variant of `ours` is none of the paper's, and stands below a line.
    """

    label: str
    settings: Mapping[str, Any]
    candidates: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ours: bool = False

    @property
    def choices(self) -> list[dict[str, Any]]:
        """Every combination of the candidates' values; one, empty, where there is no choice."""
        names, values = self.candidates.keys(), self.candidates.values()
        return [dict(zip(names, some, strict=True)) for some in itertools.product(*values)]


@dataclass(frozen=True, kw_only=True)
class Experiment(Checked):
    """What is trained and scored.

    The split is "given", "random" (64/16/20), "norman-ood" or "norman-data-efficiency"; for the
    latter two, `fractions` of the combinations (or their cells) are trained on. Each of the
    `seeds`, from the setting `seed` on, is a split and a training of its own. Candidates are chosen
    by a validation IWELBO of `choice_particles`.
    """

    variants: tuple[Variant, ...]
    split: Split = "given"
    fractions: tuple[Share, ...] = ()
    seeds: Count = 5
    baselines: tuple[str, ...] = ()
    scoring: ScoreSettings = field(default_factory=ScoreSettings)
    scale: Scale = "log"
    choice_particles: Count = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.fractions) != (self.split in FRACTIONED):
            raise InputError(
                f"fractions are {list(self.fractions)} for split {self.split!r}: they are expected "
                f"for {listed(FRACTIONED)}, and for no other"
            )
        labels = [variant.label for variant in self.variants]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise InputError(f"the experiment names {twice[0]!r} twice")

    @property
    def record(self) -> dict[str, Any]:
        """All that the results depend on, flat: what a resumed experiment must share."""
        plain = {**vars(self), **vars(self.scoring)}
        del plain["variants"], plain["scoring"]
        for variant in self.variants:
            for name, value in {**variant.settings, **variant.candidates}.items():
                plain[f"{variant.label}: {name}"] = value
        free = ("device", "step", "progress", "checkpoint_every")
        kept = {k: v for k, v in plain.items() if k.rpartition(": ")[2] not in free}
        return json.loads(json.dumps(kept))  # as it is read again

    def scaled(self, scale: float) -> Experiment:
        """Return the experiment with a share of its steps, batch, particles and seeds.

        Never fewer than 50 steps, 64 cells in a batch, 20 particles (1 in training) and 2 seeds,
        nor more than there are.

        >>> settings = gathered({"model": "cpa-vae", "max_steps": 30_000})
        >>> experiment = Experiment(variants=(Variant(label="a", settings=settings),))
        >>> small = experiment.scaled(0.01)
        >>> small.variants[0].settings["max_steps"], small.seeds, small.scoring.n_particles
        (300, 2, 20)
        """
        check("scale", scale, Share)
        if scale == 0:
            raise InputError(
                "scale is 0, which leaves nothing of the experiment: expected a share above 0, at "
                "most 1"
            )
        if scale == 1:
            return self

        def share(what: str, number: int) -> int:
            return min(number, max(LEAST[what], round(scale * number)))

        variants = []
        for variant in self.variants:
            steps = share("steps", variant.settings["max_steps"] or 10_000)
            every = max(1, min(steps // 3, variant.settings["validate_every"]))
            shorter = {
                "max_steps": steps,
                "validate_every": every,
                "batch_size": share("batch", variant.settings["batch_size"]),
                "n_particles": share("draws", variant.settings["n_particles"]),
            }
            variants.append(replace(variant, settings={**variant.settings, **shorter}))
        scoring: dict[str, Any] = {
            name: share("particles", getattr(self.scoring, name))
            for name in ("n_particles", "effect_particles", "n_draws", "n_halvings")
        }
        return replace(
            self,
            variants=tuple(variants),
            seeds=share("seeds", self.seeds),
            scoring=replace(self.scoring, **scoring),
            choice_particles=share("particles", self.choice_particles),
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    """What stands at the top of an experiment's file."""

    split: Literal["random", "norman-ood", "norman-data-efficiency"] = "random"
    settings: str | None = None
    seeds: int = 5
    scale: Scale = "log"
    choice_particles: int = 100


_LISTS = ("fractions", "baselines", "models", "scoring")


def read_experiment(path: Path, *, options: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment from a TOML file; `options` are settings of all runs that win over files.

    At the top stand split, fractions, seeds, scale, baselines, choice_particles, and `settings`: a
    file of settings of all runs (as `samsvae train --config` takes it), in the same folder. The
    table `[scoring]` holds those of the scores. Each `[[models]]` is a row: its `label`, `model`,
    other settings, whether it is `ours`, and `candidates`, lists of values by setting.
    """
    content, where = read_toml(path), f"in {str(path)!r}"
    top = Settings(_File)
    for name in content:
        if name not in (*top.fields, *_LISTS):
            raise unknown(f"entry {where}:", name, [*top.fields, *_LISTS])
    head = top.checked({k: v for k, v in content.items() if k not in _LISTS}, where)
    config = None if head.get("settings") is None else path.parent / head.pop("settings")
    scoring = Settings(ScoreSettings).checked(content.get("scoring", {}), where)
    rows = content.get("models", [])
    if not rows or not all(isinstance(row, dict) and "label" in row for row in rows):
        raise InputError(f"{str(path)!r} has no models: expected tables [[models]], each a label")
    variants = []
    for row in rows:
        tried = row.pop("candidates", {})
        label, ours = str(row.pop("label")), bool(row.pop("ours", False))
        candidates = {k: [RUN.checked({k: v}, where)[k] for v in tried[k]] for k in tried}
        settings = gathered({**RUN.checked(row, where), **(options or {})}, config=config)
        foreign = [name for name in candidates if name not in settings]
        if foreign:
            raise unknown(f"setting of {settings['model']!r} {where}:", foreign[0], list(settings))
        TrainPlan(**settings_of(TrainPlan, settings))  # raises before anything is trained
        variants.append(Variant(label=label, settings=settings, candidates=candidates, ours=ours))
    return Experiment(
        variants=tuple(variants),
        fractions=tuple(map(float, content.get("fractions", ()))),
        baselines=tuple(content.get("baselines", ())),
        scoring=ScoreSettings(**scoring),
        **head,
    )
