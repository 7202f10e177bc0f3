"""The demonstration: a screen whose truth is known, and how much of it a model recovers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from samsvae.data.simulate import SimulatedScreen, simulated_screen
from samsvae.estimator import Estimator
from samsvae.estimators import SAMSVAE
from samsvae.evaluation.differential_expression import differential_expression
from samsvae.evaluation.recovery import (
    chance_f1,
    correlation_per_condition,
    mask_score,
)
from samsvae.files import write_text
from samsvae.run import SETTINGS, Run, complete, write_h5ad
from samsvae.scoring import Score, score
from samsvae.train.settings import TrainSettings

CONFIG = {
    "split_key": "split",
    "n_latent": 20,
    "n_hidden": 32,
    "n_hidden_embedding": 64,
    "mask_prob": 0.001,
    "max_steps": 4000,
    "n_particles": 2,
    "learning_rate": 0.01,
}
"""The demonstration's settings, beside the defaults. The model has twice the true latent
dimensions, and is told nothing of the simulation."""


@dataclass(frozen=True)
class Recovery:
    """How much of a simulated screen's truth a model recovered."""

    mask_f1: float
    """Of the mask (posterior probability > 1/2) after matching latent dimensions."""
    mask_precision: float
    mask_recall: float
    random_mask_f1: float
    """Of masks at random with as many entries."""
    full_mask_f1: float
    """Of a mask that lets everything through."""
    singles: float
    """Median over perturbations of the correlation of effects with the truth."""
    unseen_combinations: float
    """The same over combinations never seen in training."""
    observed_singles: float
    """The same of differential expression between training cells, for singles."""
    sum_of_observed_singles: float
    """The same of its sum over the parts, for combinations never seen in training."""


def recovery(model: Estimator, screen: SimulatedScreen, *, seed: int = 0) -> Recovery:
    """Compare a model with the truth; effects on scale "normalized", correlated over genes."""
    truth = screen.truth
    fitted = (model.mask_probabilities() > 0.5).to_numpy()
    true = truth.mask.to_numpy()
    f1, precision, recall = mask_score(fitted, true)
    singles = list(screen.perturbations)
    combinations = sorted(set(screen.conditions) - set(model.facts.conditions))
    asked = [*singles, *combinations]
    effects = model.effects(asked, scale="normalized", n_draws=0, seed=seed, progress=False)
    true_effects = truth.effects(asked)
    ours = correlation_per_condition(effects.to_df(), true_effects)
    observed = differential_expression(screen.train, singles, scale="normalized")
    parts = screen.vocabulary.notation.parts
    sums = {name: observed.loc[parts(name)].sum() for name in combinations}
    theirs = correlation_per_condition(
        pd.concat([observed, pd.DataFrame(sums).T]) if sums else observed, true_effects
    )
    return Recovery(
        f1,
        precision,
        recall,
        chance_f1(fitted, true, seed=seed),
        mask_score(np.ones_like(fitted), true).f1,
        float(ours[singles].median()),
        float(ours[combinations].median()),
        float(theirs[singles].median()),
        float(theirs[combinations].median()),
    )


def demo(
    run: Run, *, seed: int = 0, progress: bool = True, say: Callable[[str], None] = print
) -> Recovery:
    """Simulate, train, score, compare with the truth, and write all of it into a run directory."""
    start = time.perf_counter()
    screen = simulated_screen(seed=seed)
    _, settings = complete(CONFIG | {"seed": seed, "progress": progress})
    say("A screen is simulated from the model's own process, so that the truth is known:")
    say(repr(screen))
    model = SAMSVAE(screen, **SETTINGS.of(SAMSVAE, settings))
    run.start(settings, screen, resume=False)
    write_h5ad(run / "screen.h5ad", screen.to_anndata())
    write_text(run / "true_shift.csv", screen.truth.shift.to_csv(index_label="perturbation"))
    say(f"\nSAMS-VAE with {model.n_latent} latent dimensions is trained on the training cells.")
    model.train(**SETTINGS.of(TrainSettings, settings), checkpoint=run.checkpoint)
    run.finish(model)
    result = score(model, screen, seed=seed, progress=progress)
    run.write_score(result, "test")
    found = recovery(model, screen, seed=seed)
    write_text(run / "recovery.json", json.dumps(asdict(found), indent=2) + "\n")
    summary = in_words(found, result, screen)
    write_text(run / "summary.txt", summary + "\n")
    say("\n" + summary)
    say(f"\nAll of it is in {run.folder}, after {time.perf_counter() - start:.0f} seconds.")
    return found


def in_words(found: Recovery, result: Score, screen: SimulatedScreen) -> str:
    """Say what was found, for someone who has not read the paper."""
    n_true = int(screen.truth.mask.to_numpy().sum())
    better = found.unseen_combinations > found.sum_of_observed_singles
    verdict = "better" if better else "not better"
    return "\n".join(
        [
            f"Mechanisms. {len(screen.perturbations)} perturbations shift "
            f"{screen.truth.mask.shape[1]} latent dimensions, in {n_true} pairs. The model finds "
            f"{found.mask_recall:.0%} of the pairs, and {found.mask_precision:.0%} of those it "
            f"names are true: F1 {found.mask_f1:.2f} (a random mask as sparse: "
            f"{found.random_mask_f1:.2f}; a mask of ones: {found.full_mask_f1:.2f}).",
            f"Effects. Predicted and true effects of single perturbations correlate at "
            f"{found.singles:.3f} (median); differences of observed means do at "
            f"{found.observed_singles:.3f}.",
            f"Unseen combinations. For pairs never seen in training the correlation is "
            f"{found.unseen_combinations:.3f}, {verdict} than the sum of the observed singles "
            f"({found.sum_of_observed_singles:.3f}).",
            f"Held-out cells. Their likelihood is {result.summary['iwelbo']:.2f} nats per cell "
            f"(K = {result.summary['n_particles']}); effects on the log scale correlate with the "
            f"noisy differential expression of held-out cells at "
            f"{result.summary['ate_pearson']:.2f}.",
        ]
    )
