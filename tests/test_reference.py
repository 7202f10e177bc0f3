"""Our model against numbers recorded from the published implementation, in float64.

|ours - theirs| <= 1e-9 (1 + max|theirs|) per array: densities per element, terms, objective,
predictive IWELBO, parameters of the distributions, and every gradient.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from samsvae import objective
from samsvae.model.embedding import FreeEmbedding, GaussianEmbedding, MaskedEmbedding
from samsvae.model.encoder import Encoder
from samsvae.model.likelihood import NegativeBinomialLikelihood
from samsvae.model.mask import BernoulliMask
from samsvae.model.mechanism import AdditiveShift
from samsvae.model.networks import MLP
from samsvae.model.vae import PerturbationVAE
from samsvae.types import Batch, Dosage, ShiftNoise

FOLDER = Path(os.environ.get("SAMSVAE_REFERENCE_DIR", Path(__file__).parent / "reference"))
FILES = [
    "sams_vae.correlated",
    "sams_vae.correlated_embedding_only",
    "sams_vae.correlated_basal_only",
    "sams_vae.mean_field",
]

PARAMETERS = {  # the file's name, our name; `hidden.0` and `hidden.j` are spelled out by `our_name`
    "likelihood.log_inverse_dispersion": "likelihood.log_inverse_dispersion",
    "likelihood.mean.": "likelihood.linear.",
    "decoder.hidden.": "decoder.",
    "encoder.hidden.": "encoder.network.hidden.",
    "encoder.": "encoder.network.",
    "mask.logits": "mechanism.mask.logits",
    "embedding.mean": "mechanism.embedding.loc",
    "embedding.log_scale": "mechanism.embedding.log_scale",
    "embedding.network.hidden.": "mechanism.embedding.network.hidden.",
    "embedding.network.": "mechanism.embedding.network.",
}


def our_name(key: str) -> str:
    prefix = max((p for p in PARAMETERS if key.startswith(p)), key=len)
    rest = key.removeprefix(prefix)
    if prefix.endswith("hidden."):
        layer, _, leaf = rest.partition(".")
        rest = f"first.{leaf}" if layer == "0" else f"rest.{int(layer) - 1}.{leaf}"
    return PARAMETERS[prefix] + rest


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
        n_perturbations, n_latent = a["prior.mask_prob"].shape
        width = a["decoder.hidden.0.weight"].shape[0]
        embedding: GaussianEmbedding
        scale = a["prior.embedding_scale"].flatten()[0].item()
        if "embedding.mean" in a:
            embedding = FreeEmbedding(n_perturbations, n_latent, scale=scale)
        else:
            embedding = MaskedEmbedding(
                n_perturbations,
                n_latent,
                scale=scale,
                width=a["embedding.network.hidden.0.weight"].shape[0],
                n_layers=self.depth("embedding.network"),
            )
        prob = a["prior.mask_prob"].flatten()[0].item()
        encoder = Encoder(
            n_genes,
            0,
            n_latent,
            n_context=a["encoder.hidden.0.weight"].shape[1] - n_genes,
            width=width,
            n_layers=self.depth("encoder"),
        )
        model = PerturbationVAE(
            AdditiveShift(BernoulliMask(n_perturbations, n_latent, prob=prob), embedding),
            encoder,
            MLP((n_latent, 0), width, self.depth("decoder")),
            NegativeBinomialLikelihood(width, n_genes),
        ).double()
        encoder.standardise_with(a["input.log1p_counts_mean"], a["input.log1p_counts_std"])
        state = {ours: a[theirs] for theirs, ours in self.names.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) == {"encoder.center", "encoder.scale"}
        return model

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
        everyone = self.batch.dosage.perturbations
        mechanism = self.model.mechanism
        loc, scale = a["posterior.embedding.loc"], a["posterior.embedding.scale"]
        noise = ShiftNoise(a["noise.mask_uniform"], (a["draw.embedding"] - loc) / scale)
        self.shifts = mechanism.draw(everyone, noise)
        self.mask = mechanism.mask.draw(everyone, noise.mask).value
        self.embedding = mechanism.embedding.posterior(everyone, self.mask)
        context = mechanism.context(self.batch.dosage, self.shifts)
        self.basal = self.model.encoder.posterior(self.batch, context)
        basal_noise = (a["draw.basal"] - a["posterior.basal.loc"]) / a["posterior.basal.scale"]
        self.weights = self.model(self.batch, self.shifts, basal_noise)
        state = mechanism.apply_to(a["draw.basal"], context)
        hidden = self.model.decoder(state, self.batch.covariates)
        self.mean = self.model.likelihood.mean(hidden, a["input.library_size"])
        self.loss = -objective.elbo(self.weights, self.batch).mean()

    def agrees(self, key: str, ours: Tensor) -> None:
        theirs = self.arrays[key]
        tolerance = 1e-9 * (1 + theirs.abs().max().item())
        error = (ours.detach() - theirs).abs().max().item()
        assert error <= tolerance, f"{key}: {error:.3g} > {tolerance:.3g}"


@pytest.fixture(params=FILES, scope="module")
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_densities_per_element(recorded: Recorded) -> None:
    a, mechanism = recorded.arrays, recorded.model.mechanism
    everyone = recorded.batch.dosage.perturbations
    recorded.agrees("draw.mask", recorded.mask)
    recorded.agrees("log_prior.mask", mechanism.mask.prior().log_prob(a["draw.mask"]))
    q_mask = mechanism.mask.posterior(everyone)
    recorded.agrees("posterior.mask.probs", q_mask.probs)
    recorded.agrees("log_posterior.mask", q_mask.log_prob(a["draw.mask"]))
    e = a["draw.embedding"]
    recorded.agrees("log_prior.embedding", mechanism.embedding.prior().log_prob(e))
    recorded.agrees("log_posterior.embedding", recorded.embedding.log_prob(e))
    z = a["draw.basal"]
    recorded.agrees("log_prior.basal", recorded.model.encoder.prior().log_prob(z))
    recorded.agrees("log_posterior.basal", recorded.basal.log_prob(z))


def test_parameters_of_distributions(recorded: Recorded) -> None:
    recorded.agrees("posterior.embedding.loc", recorded.embedding.loc)
    recorded.agrees("posterior.embedding.scale", recorded.embedding.scale)
    recorded.agrees("posterior.basal.loc", recorded.basal.loc)
    recorded.agrees("posterior.basal.scale", recorded.basal.scale)
    recorded.agrees("likelihood_of_counts.mean", recorded.mean)


def test_terms_and_objectives(recorded: Recorded) -> None:
    weights, batch = recorded.weights, recorded.batch
    recorded.agrees("term.likelihood", weights.likelihood)
    recorded.agrees("term.basal", weights.basal)
    for name, values in weights.shifts.items():
        recorded.agrees(f"term.{name}", objective.per_cell(values, batch))
    recorded.agrees("log_weight", objective.log_weights(weights, batch))
    recorded.agrees("loss", recorded.loss)
    iwelbo = objective.iwelbo(objective.predictive_log_weights(weights))
    recorded.agrees("predictive_iwelbo", iwelbo)


def test_gradients(recorded: Recorded) -> None:
    parameters = dict(recorded.model.named_parameters())
    keys = [key for key in recorded.names if f"grad.{key}" in recorded.arrays]
    assert {recorded.names[key] for key in keys} == set(parameters)
    gradients = torch.autograd.grad(
        recorded.loss, [parameters[recorded.names[key]] for key in keys], retain_graph=True
    )
    for key, gradient in zip(keys, gradients, strict=True):
        recorded.agrees(f"grad.{key}", gradient)
