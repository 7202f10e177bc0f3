"""What the models share that add up shifts with a prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samsvae.errors import check_range, unknown
from samsvae.estimators.base import Estimator
from samsvae.estimators.trained import check_slots
from samsvae.model.dose import HillResponse
from samsvae.model.embedding import Embedding, FreeEmbedding
from samsvae.model.encoder import Encoder
from samsvae.model.mask import Mask
from samsvae.model.mechanism import AdditiveShift, Mechanism
from samsvae.model.responders import Responders
from samsvae.settings.model import ShiftSettings


@dataclass(kw_only=True, eq=False, repr=False)
class AdditiveEstimator(ShiftSettings, Estimator):
    """A model whose perturbations add up to a shift of the state, each with a prior."""

    def _additive(self, mask: Mask, embedding: Embedding) -> AdditiveShift:
        response = None
        if self.saturating_dose:
            response = HillResponse(torch.from_numpy(self.facts.median_dose).float())
        return AdditiveShift(mask, embedding, response=response, responders=self._responders())

    def _responders(self) -> Responders | None:
        if self.response not in ("all", "learned"):
            raise unknown("response", self.response, ["all", "learned"])
        if self.response == "all":
            return None
        notation = self.facts.vocabulary.notation
        check_slots(max(len(notation.parts(name)) for name in self.facts.conditions))
        return Responders(len(self.facts.vocabulary.perturbations) + len(self.facts.sgrnas))

    def _free_embedding(self) -> Embedding:
        check_range("embedding_scale", self.embedding_scale, low=0, high=float("inf"), open_=True)
        return FreeEmbedding(*self._sizes, scale=self.embedding_scale)

    def _encoder(self, mechanism: Mechanism) -> Encoder:
        return self._amortised(n_context=mechanism.n_context if self.basal_given_shift else 0)
