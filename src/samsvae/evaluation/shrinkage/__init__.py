"""Effects given both a model's prediction and what cells show: a mixture of normals.

The effect theta of a condition on a gene is negligible, or drawn about 0, or about the model's
prediction m:

    p(theta) = pi_0 N(0, lambda_1 t') + sum_k pi_k N(0, lambda_k t)
               + sum_k rho_k N(b m, lambda_k t' + b^2 v)

with t and t' of rank one in condition and gene, v the model's own posterior variance, lambda_k a
grid, and the difference from control that cells show N(theta, s^2), s its standard error; beside
the model's prediction N(theta, kappa s^2), for cells from which it has learned. Weights, the slope
b and kappa are chosen to predict validation cells from training cells: whatever the model took over
from the noise of training cells, it loses there, and kappa weighs down what it shares with them
(other cells tell what they tell). Before, m and v are multiplied by a slope of each condition, and
what rho_k says goes to the components about 0 as far as the model is wrong about the condition (see
`Trust`). Where the model says that there is an effect, it is less probably negligible: with t'' the
mean of t',

    log pi_0 / (1 - pi_0) = l + a log(m^2 / t'' + lambda_1)

and validation cells choose l and a. A negligible effect is smaller than what the model's own errors
can be told from; it counts as none (a local false sign rate is the probability of none or of the
wrong sign), and intervals hold it. Adaptive shrinkage (Stephens 2017, Biostatistics 18: 275) with
a second centre, a learned scale, and a prior that goes with a covariate.
"""

from samsvae.evaluation.shrinkage.evidence import Predicted, Shown, rank_one
from samsvae.evaluation.shrinkage.mixture import GRID, N_ZERO
from samsvae.evaluation.shrinkage.prior import EffectPrior, Posterior, fitted_prior
from samsvae.evaluation.shrinkage.trust import Trust
from samsvae.evaluation.shrinkage.zero_centred import zero_centred

__all__ = [
    "GRID",
    "N_ZERO",
    "EffectPrior",
    "Posterior",
    "Predicted",
    "Shown",
    "Trust",
    "fitted_prior",
    "rank_one",
    "zero_centred",
]
