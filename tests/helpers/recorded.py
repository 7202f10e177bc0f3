"""Numbers recorded from the published implementation, beside our model with its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samsvae import objective
from samsvae.model.embedding import (
    Embedding,
    FreeEmbedding,
    MaskedEmbedding,
    PointEmbedding,
)
from samsvae.model.encoder import Encoder, StateEncoder
from samsvae.model.likelihood import (
    GaussianLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)
from samsvae.model.mask import (
    BernoulliMask,
    BetaBernoulliMask,
    FullMask,
    Mask,
    MaskPrior,
    PointBetaBernoulliMask,
)
from samsvae.model.mechanism import AdditiveShift, Concatenate, Mechanism
from samsvae.model.networks import MLP, GaussianNetwork, JointLinear
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, Dosage, ShiftNoise

FOLDER = Path(os.environ.get("SAMSVAE_REFERENCE_DIR", Path(__file__).parents[1] / "reference"))
FILES = [
    "sams_vae.correlated",
    "sams_vae.correlated_embedding_only",
    "sams_vae.correlated_basal_only",
    "sams_vae.mean_field",
    "sams_vae.correlated.poisson",
    "sams_vae.correlated.normal",
    "sams_vae_beta_bernoulli.mean_field",
    "cpa_vae.correlated",
    "cpa_vae.mean_field",
    "svae_plus",
    "conditional_vae",
]
PARAMETERS = {  # the file's name, our name; `hidden.0` and `hidden.j` are spelled out by `our_name`
    "likelihood.log_inverse_dispersion": "likelihood.log_inverse_dispersion",
    "likelihood.mean.": "likelihood.linear.",
    "likelihood.rate.": "likelihood.linear.",
    "likelihood.raw_variance.": "likelihood.raw_variance.",
    "decoder.hidden.": "decoder.",
    "encoder.hidden.": "encoder.network.hidden.",
    "encoder.": "encoder.network.",
    "mask.logits": "mechanism.mask.logits",
    "mask.prob_posterior_a": "mechanism.mask.log_a",
    "mask.prob_posterior_b": "mechanism.mask.log_b",
    "embedding.point": "mechanism.embedding.loc",
    "embedding.mean": "mechanism.embedding.loc",
    "embedding.log_scale": "mechanism.embedding.log_scale",
    "embedding.network.hidden.": "mechanism.embedding.network.hidden.",
    "embedding.network.": "mechanism.embedding.network.",
}
BY_LOGARITHM = ("mask.prob_posterior_a", "mask.prob_posterior_b")
"""Raw parameters of the files that we learn by their logarithm: values and draws are compared, not
their gradients."""


def our_name(key: str) -> str:
    prefix = max((p for p in PARAMETERS if key.startswith(p)), key=len)
    rest = key.removeprefix(prefix)
    if prefix.endswith("hidden."):
        layer, _, leaf = rest.partition(".")
        rest = f"first.{leaf}" if layer == "0" else f"rest.{int(layer) - 1}.{leaf}"
    return PARAMETERS[prefix] + rest


def arranged(model: PerturbationVAE, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters, or their gradients, as our layers hold them: a first layer's weight part
    by part, the heads of a Gaussian network in one."""
    values = dict(values)
    for name, module in model.named_modules():
        if isinstance(module, JointLinear):
            widths = [len(weight) for weight in module.weights]
            for i, part in enumerate(values.pop(f"{name}.weight").T.split(widths)):
                values[f"{name}.weights.{i}"] = part
        elif isinstance(module, GaussianNetwork):
            for leaf in ("weight", "bias"):
                heads = [values.pop(f"{name}.{head}.{leaf}") for head in ("mean", "raw_variance")]
                values[f"{name}.heads.{leaf}"] = torch.cat(heads)
    return values


class Recorded:
    """One file: its arrays, the model with its weights, and the model's answer to its draws."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as file:
            self.arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        self.names = {
            key: our_name(key)
            for key in self.arrays
            if key.split(".")[0] in ("likelihood", "decoder", "encoder", "mask", "embedding")
        }
        self.model = self._model()
        self._run()

    def depth(self, prefix: str) -> int:
        layers = {key for key in self.arrays if key.startswith(f"{prefix}.hidden.")}
        return len({key.split("hidden.")[1].split(".")[0] for key in layers})

    def _model(self) -> PerturbationVAE:
        a = self.arrays
        n_genes = a["input.counts"].shape[1]
        n_latent = a["encoder.mean.weight"].shape[0]
        width = a["decoder.hidden.0.weight"].shape[0]
        likelihood = self._likelihood()(width, n_genes)
        mechanism = self._mechanism(a["input.dosage"].shape[1], n_latent)
        encoder = (StateEncoder if "embedding.point" in a else Encoder)(
            n_genes,
            0,
            n_latent,
            n_context=a["encoder.hidden.0.weight"].shape[1] - n_genes,
            width=width,
            n_layers=self.depth("encoder"),
            log1p=likelihood.counts,
        )
        decoder = MLP((*mechanism.state_widths, 0), width, self.depth("decoder"))
        model = PerturbationVAE(mechanism, encoder, decoder, likelihood).double()
        statistics = "log1p_counts" if likelihood.counts else "counts"
        encoder.standardise_with(a[f"input.{statistics}_mean"], a[f"input.{statistics}_std"])
        state = {
            ours: a[theirs].log() if theirs in BY_LOGARITHM else a[theirs]
            for theirs, ours in self.names.items()
        }
        missing, unexpected = model.load_state_dict(arranged(model, state), strict=False)
        assert not unexpected
        of_ours = {"mechanism.mask.evidence", "mechanism.embedding.updated"}  # zeros
        assert set(missing) - of_ours == {"encoder.center", "encoder.scale"}
        return model

    def _likelihood(self) -> type[Likelihood]:
        if "likelihood.rate.weight" in self.arrays:
            return PoissonLikelihood
        if "likelihood.raw_variance.weight" in self.arrays:
            return GaussianLikelihood
        return NegativeBinomialLikelihood

    def _mechanism(self, n_perturbations: int, n_latent: int) -> Mechanism:
        a = self.arrays
        sizes = n_perturbations, n_latent
        if not any(key.startswith("embedding.") for key in a):
            return Concatenate(*sizes)
        prior = {
            ours: a[theirs].flatten()[0].item()
            for ours, theirs in (
                ("prob", "prior.mask_prob"),
                ("a", "prior.mask_prob_a"),
                ("b", "prior.mask_prob_b"),
            )
            if theirs in a
        }
        mask: Mask = FullMask(*sizes)
        if "mask.prob_posterior_a" in a:
            mask = BetaBernoulliMask(*sizes, MaskPrior(**prior))
        elif "prior.mask_prob_a" in a:
            mask = PointBetaBernoulliMask(*sizes, MaskPrior(**prior))
        elif "mask.logits" in a:
            mask = BernoulliMask(*sizes, MaskPrior(**prior))
        if "embedding.point" in a:
            return AdditiveShift(mask, PointEmbedding(*sizes))
        scale = a["prior.embedding_scale"].flatten()[0].item()
        embedding: Embedding
        if "embedding.mean" in a:
            embedding = FreeEmbedding(*sizes, scale=scale)
        else:
            embedding = MaskedEmbedding(
                *sizes,
                scale=scale,
                width=a["embedding.network.hidden.0.weight"].shape[0],
                n_layers=self.depth("embedding.network"),
            )
        return AdditiveShift(mask, embedding)

    @property
    def basal_name(self) -> str:
        """The file's name of what the encoder infers: the perturbed state, for some."""
        return "basal" if "draw.basal" in self.arrays else "state"

    def _noise(self) -> ShiftNoise:
        """Return the noise that gives the file's draws."""
        a = self.arrays
        n_particles = a["term.likelihood"].shape[0]
        empty = a["input.dosage"].new_empty(n_particles, a["input.dosage"].shape[1], 0)
        mask = embedding = empty
        if "noise.mask_uniform" in a:
            mask = a["noise.mask_uniform"]
        elif "draw.mask" in a:  # m ~ Bernoulli(p): only p and m are recorded, any noise serves
            uniform = torch.where(a["draw.mask"] > 0.5, 1 - 1e-12, 1e-12).double()
            one, zero = torch.ones_like(uniform), torch.zeros_like(uniform)
            exponential = -a["mask.prob_posterior_a"] * a["draw.mask_prob"].logit()
            mask = torch.stack([uniform, one, one, exponential, zero], -1)
        if "draw.embedding" in a:
            loc, scale = a["posterior.embedding.loc"], a["posterior.embedding.scale"]
            embedding = (a["draw.embedding"] - loc) / scale
        return ShiftNoise(mask, embedding)

    def _run(self) -> None:
        a = self.arrays
        dosage = a["input.dosage"]
        n_cells, n_perturbations = dosage.shape
        self.batch = Batch(
            a["input.counts"],
            a["input.library_size"],
            torch.zeros(n_cells, 0, dtype=torch.float64),
            Dosage(
                torch.arange(n_perturbations),
                torch.arange(n_perturbations).expand(n_cells, -1),
                dosage,
            ),
            a["input.cells_per_perturbation"],
        )
        self.everyone = self.batch.dosage.columns
        mechanism, basal = self.model.mechanism, self.basal_name
        self.noise = self._noise()
        self.shifts = mechanism.draw(self.everyone, self.noise)
        context = mechanism.context(self.batch, self.shifts)
        self.basal = self.model.encoder.posterior(self.batch, context)
        self.moved: Any = 0  # from basal to what the file records
        if basal == "state" and isinstance(mechanism, AdditiveShift):
            self.moved = context
        basal_noise = (a[f"draw.{basal}"] - a[f"posterior.{basal}.loc"]) / a[
            f"posterior.{basal}.scale"
        ]
        self.weights = self.model(self.batch, self.shifts, basal_noise)
        state = mechanism.apply_to(a[f"draw.{basal}"] - self.moved, context)
        self.hidden = self.model.decoder(*state, self.batch.covariates)
        self.loss = -objective.elbo(self.weights, self.batch).mean()

    def agrees(self, key: str, ours: Tensor) -> None:
        agree(key, ours, self.arrays[key])


def agree(what: str, ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-9 * (1 + theirs.abs().max().item())
    error = (ours.detach() - theirs).abs().max().item()
    assert error <= tolerance, f"{what}: {error:.3g} > {tolerance:.3g}"
