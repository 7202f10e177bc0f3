"""One trained model, scored beside baselines."""

from __future__ import annotations

from dataclasses import replace

from samsvae.data.screen import Screen
from samsvae.estimators import Estimator
from samsvae.evaluation.baselines import BASELINES
from samsvae.evaluation.effect_posterior import EffectPosterior
from samsvae.evaluation.evaluate import Evaluation, evaluated
from samsvae.evaluation.predictor import Predictor
from samsvae.settings.evaluation import ScoreSettings


def score(
    model: Estimator,
    screen: Screen,
    given: ScoreSettings,
    *,
    split: str = "test",
    baselines: bool = True,
) -> Evaluation:
    """Score a trained model on the scale of its likelihood; its effects get intervals.

    Parameters
    ----------
    model
        Trained.
    screen
        The whole screen; matched by gene and perturbation name.
    given
        How.
    split
        Whose cells are scored.
    baselines
        Beside all baselines and a technical duplicate, made from the screen's training cells, and
        what the model and the cells say together, where there are validation cells.
    """
    matched = model.matched(screen)
    others: list[Predictor] = [kind(matched) for kind in BASELINES] if baselines else []
    if not baselines:
        given = replace(given, n_halvings=0)
    scale = model.module.likelihood.scales[0]
    draws = given.n_draws
    beside: list[Predictor] = [model, *others]
    if baselines and split == "test" and EffectPosterior.learns_from(matched):
        beside.insert(1, EffectPosterior(model, matched))
    return evaluated(beside, matched, given, scale=scale, splits=[split], fixed_draws=draws)
