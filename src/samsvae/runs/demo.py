"""The demonstration: a simulated screen, and how much of the truth a model recovers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from samsvae.analysis.agreement import Recovery, recovery
from samsvae.data.simulate import SimulatedScreen, simulated_screen
from samsvae.estimators.models import SAMSVAE
from samsvae.runs.jobs import score
from samsvae.runs.reporting import report_run
from samsvae.runs.run import Run
from samsvae.settings.experiment import complete
from samsvae.settings.fields import settings_of
from samsvae.settings.questions import ScoreSettings
from samsvae.settings.train import TrainPlan
from samsvae.storage.files import write_json, write_text
from samsvae.storage.tables import write_csv, write_h5ad

CONFIG = {
    "split_key": "split",
    "n_latent": 20,
    "n_hidden": 64,
    "max_steps": 2000,
    "n_particles": 2,
    "learning_rate": 0.005,
}
"""Settings that differ from the defaults. The model has twice as many latent dimensions as the
simulation, and nothing else of the simulation enters it."""
PARTICLES = 1000
"""Particles of the effects."""


def demonstrate(
    run: Run, *, seed: int = 0, progress: bool = True, say: Callable[[str], None] = print
) -> Recovery:
    """Simulate, train, score, compare with the truth, and write everything into a run directory."""
    start = time.perf_counter()
    screen = simulated_screen(seed=seed, decoder="mixed")
    settings = complete(CONFIG | {"seed": seed, "progress": progress})
    say("A screen is simulated from the model's own process, so that the truth is known:")
    say(repr(screen))
    model = SAMSVAE(screen, **settings_of(SAMSVAE, settings))
    with run.made():
        run.start(settings, screen, resume=False)
        write_h5ad(run / "screen.h5ad", screen.to_anndata())
        shift = screen.truth.shift.rename_axis("perturbation").reset_index()
        write_csv(run / "true_shift.csv", shift)
        say(f"\nSAMS-VAE with {model.n_latent} latent dimensions is trained on the training cells.")
        run.train(model, settings, resume=False)
        scoring = ScoreSettings(
            seed=seed, progress=progress, n_cells=0, n_halvings=5, effect_particles=PARTICLES
        )
        result = score(model, screen, scoring)
        run.write_scores(result, model.name)
        mixed = recovery(model, screen, seed=seed)
        say("The same is done with a screen in which each dimension has genes of its own.")
        separate = simulated_screen(seed=seed, decoder="programs")
        other = SAMSVAE(separate, **settings_of(SAMSVAE, settings))
        other.train(**settings_of(TrainPlan, settings))
        programs = recovery(other, separate, seed=seed)
        write_json(run / "recovery.json", {"mixed": asdict(mixed), "programs": asdict(programs)})
        summary = in_words(mixed, programs, result.summary(model.name)["test"], screen)
        write_text(run / "summary.txt", summary + "\n")
        path = report_run(run, model, screen, n_particles=PARTICLES, seed=seed, progress=progress)
    say("\n" + summary)
    say(f"\nAll files are in {run.folder}, after {time.perf_counter() - start:.0f} seconds.")
    say(f"The report is {path}: open it in a browser.")
    return mixed


def in_words(
    mixed: Recovery, programs: Recovery, scores: Mapping[str, Any], screen: SimulatedScreen
) -> str:
    """Say what was recovered, for someone who has not read the paper."""
    mask = screen.truth.mask
    is_better = mixed.unseen_combinations > mixed.sum_of_observed_singles
    return "\n".join(
        [
            f"Mechanisms. {len(screen.perturbations)} perturbations shift {mask.shape[1]} latent "
            f"dimensions, in {int(mask.to_numpy().sum())} pairs. The model finds "
            f"{mixed.mask_recall:.0%} of the pairs, and {mixed.mask_precision:.0%} of the pairs "
            f"that it reports are true: F1 {mixed.mask_f1:.2f} (a random mask as sparse: "
            f"{mixed.random_mask_f1:.2f}; a mask of ones: {mixed.full_mask_f1:.2f}). Every "
            f"dimension changes every gene here, so only the sparsity of the shifts separates "
            f"them; where each dimension has genes of its own, F1 is {programs.mask_f1:.2f}.",
            f"Effects (differences in expected counts per 10,000). Predicted and true effects of "
            f"single perturbations correlate at {mixed.singles:.3f} (median); differences of "
            f"observed means correlate with the true effects at {mixed.observed_singles:.3f}.",
            f"Unseen combinations. For pairs never seen in training the correlation with the truth "
            f"is {mixed.unseen_combinations:.3f}, {'better' if is_better else 'not better'} than "
            f"the sum of the observed singles ({mixed.sum_of_observed_singles:.3f}).",
            f"Held-out cells. Cells of conditions seen in training have a likelihood of "
            f"{scores['iwelbo']:.2f} nats per cell; effects on the log scale correlate with their "
            f"noisy differential expression at {scores['ate_pearson']:.2f}.",
            "The report, and the cautions below, know no truth: they compare with held-out cells.",
        ]
    )
