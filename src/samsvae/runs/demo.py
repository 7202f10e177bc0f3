"""The demonstration: a screen whose truth is known, and how much of it a model recovers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any
from samsvae.data.simulate import SimulatedScreen, simulated_screen
from samsvae.estimators import SAMSVAE
from samsvae.analysis.agreement import Recovery, recovery
from samsvae.runs.reporting import report_run
from samsvae.runs.run import Run
from samsvae.runs.jobs import score
from samsvae.settings.fields import settings_of
from samsvae.settings.questions import ScoreSettings
from samsvae.settings.run import complete
from samsvae.settings.train import TrainPlan
from samsvae.storage.files import write_text
from samsvae.storage.tables import write_h5ad
from samsvae.storage.files import write_json
from samsvae.storage.tables import write_csv

CONFIG = {
    "split_key": "split",
    "n_latent": 20,
    "n_hidden": 64,
    "max_steps": 2000,
    "n_particles": 2,
    "learning_rate": 0.005,
}
"""The demonstration's settings, beside the defaults. The model has twice the true latent
dimensions, and is told nothing of the simulation."""

PARTICLES = 1000
"""Of the effects."""


def demonstrate(
    run: Run, *, seed: int = 0, progress: bool = True, say: Callable[[str], None] = print
) -> Recovery:
    """Simulate, train, score, compare with the truth, and write all of it into a run directory."""
    start = time.perf_counter()
    screen = simulated_screen(seed=seed, decoder="mixed")
    settings = complete(CONFIG | {"seed": seed, "progress": progress})
    say("A screen is simulated from the model's own process, so that the truth is known:")
    say(repr(screen))
    model = SAMSVAE(screen, **settings_of(SAMSVAE, settings))
    with run.made():
        run.start(settings, screen, resume=False)
        write_h5ad(run / "screen.h5ad", screen.to_anndata())
        write_csv(
            run / "true_shift.csv", screen.truth.shift.rename_axis("perturbation").reset_index()
        )
        say(f"\nSAMS-VAE with {model.n_latent} latent dimensions is trained on the training cells.")
        run.train(model, settings, resume=False)
        given = ScoreSettings(
            seed=seed, progress=progress, n_cells=0, n_halvings=5, effect_particles=PARTICLES
        )
        result = score(model, screen, given)
        run.write_scores(result, model.name)
        found = recovery(model, screen, seed=seed)
        say("The same is done with a screen in which each dimension has genes of its own.")
        easier = simulated_screen(seed=seed, decoder="programs")
        other = SAMSVAE(easier, **settings_of(SAMSVAE, settings))
        other.train(**settings_of(TrainPlan, settings))
        own_genes = recovery(other, easier, seed=seed)
        write_json(run / "recovery.json", {"mixed": asdict(found), "programs": asdict(own_genes)})
        summary = in_words(found, own_genes, result.summary(model.name)["test"], screen)
        write_text(run / "summary.txt", summary + "\n")
        path = report_run(run, model, screen, n_particles=PARTICLES, seed=seed, progress=progress)
    say("\n" + summary)
    say(f"\nAll of it is in {run.folder}, after {time.perf_counter() - start:.0f} seconds.")
    say(f"The report is {path}: open it in a browser.")
    return found


def in_words(
    found: Recovery, own_genes: Recovery, scores: Mapping[str, Any], screen: SimulatedScreen
) -> str:
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
            f"{found.random_mask_f1:.2f}; a mask of ones: {found.full_mask_f1:.2f}). Every "
            f"dimension drives every gene here, so that nothing but the sparsity of the shifts "
            f"tells them apart; where each has genes of its own, F1 is {own_genes.mask_f1:.2f}.",
            f"Effects. Predicted and true effects of single perturbations correlate at "
            f"{found.singles:.3f} (median); differences of observed means do at "
            f"{found.observed_singles:.3f}.",
            f"Unseen combinations. For pairs never seen in training the correlation is "
            f"{found.unseen_combinations:.3f}, {verdict} than the sum of the observed singles "
            f"({found.sum_of_observed_singles:.3f}).",
            f"Held-out cells. Those of conditions seen in training have a likelihood of "
            f"{scores['iwelbo']:.2f} nats per cell; effects on the log scale correlate with their "
            f"noisy differential expression at {scores['ate_pearson']:.2f}.",
        ]
    )
