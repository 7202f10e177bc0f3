"""Simple predictors of effects of perturbations without cells, from features.

In the formulas delta_t is the effect of a perturbation that was measured alone, mu - mu_0 their
mean, and k the kernel of features, the mean of those of all sources, with ones on its diagonal.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from samsvae.benchmark.baselines import Baseline
from samsvae.benchmark.means import Means
from samsvae.data.features import Features
from samsvae.data.screen import Screen
from samsvae.settings.arguments import check


class FeatureBaseline(Baseline):
    """Predicts a perturbation without training cells from those that features say are like it.

    One that was measured alone has its own effect, a combination the sum of its parts'. A part
    without features has mu - mu_0.
    """

    def __init__(self, screen: Screen, features: Features) -> None:
        check("features", features, Features)
        super().__init__(screen)
        self.features = features

    def _predict(self, condition: str, means: Means) -> np.ndarray | None:
        singles = self.registry.singles(condition)
        own = {part: means.of(part) for part in singles}
        parts = [self._unmeasured(p, means) if e is None else e for p, e in own.items()]
        total: np.ndarray = np.sum(parts, axis=0)
        return total

    def _unmeasured(self, single: str, means: Means) -> np.ndarray:
        measured = {}
        for name in means.conditions:
            received = list(self.registry.read(name))
            if len(received) == 1:
                measured[received[0]] = means.of(name)
        (target,) = self.registry.read(single)
        kernels = [f @ f.T for f in self.features.factors([*measured, target], [])]
        kernel = np.mean(kernels, axis=0)
        np.fill_diagonal(kernel, 1)
        if not measured:
            return means.mean
        return self._from(kernel[-1, :-1], kernel[:-1, :-1], np.array(list(measured.values())))

    @abstractmethod
    def _from(self, alike: np.ndarray, kernel: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """Return an effect, `gene`, from how alike measured perturbations are, and their effects.

        `alike` is `perturbation`, `kernel` that of these, `effects` `perturbation gene`.
        """


class FeatureNeighbours(FeatureBaseline):
    """Predicts the mean effect of the three most similar perturbations; mu - mu_0 if none is."""

    name = "feature-neighbours"

    n_neighbours: ClassVar[int] = 3

    def _from(self, alike: np.ndarray, kernel: np.ndarray, effects: np.ndarray) -> np.ndarray:
        nearest = np.argsort(-alike, kind="stable")[: self.n_neighbours]
        nearest = nearest[alike[nearest] > 1e-9]
        return np.asarray(effects[nearest].mean(0) if len(nearest) else effects.mean(0))


class FeatureRidge(FeatureBaseline):
    """Kernel ridge regression: mu - mu_0 + k' (K + 0.3 I)^-1 (delta - mu + mu_0).

    The strength is fixed: what features are worth is not asked.
    """

    name = "feature-ridge"

    penalty: ClassVar[float] = 0.3

    def _from(self, alike: np.ndarray, kernel: np.ndarray, effects: np.ndarray) -> np.ndarray:
        mean = effects.mean(0)
        ridge = kernel + self.penalty * np.eye(len(kernel))
        return np.asarray(mean + alike @ np.linalg.solve(ridge, effects - mean))
