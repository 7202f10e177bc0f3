"""Draw the figure of identifiability.md: `python docs/identifiability.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

import samsvae
from samsvae.ops.rotation import sparsest


def main() -> None:
    """Train with open masks, rotate, and draw shifts beside the true ones."""
    screen = samsvae.datasets.simulated_screen(seed=0, decoder="mixed")
    model = samsvae.CPAVAE(screen, n_latent=20, n_hidden=64)
    model.train(max_steps=1000, n_particles=2, learning_rate=5e-3, progress=False)
    embedding = model.module.mechanism.embedding
    found = embedding.loc.detach().double().numpy()
    scale = (embedding.log_scale.exp() + 1e-4).detach().double().numpy()
    turned = found @ sparsest(found, scale).matrix
    true = screen.truth.shift.to_numpy()
    panels = {
        "open masks": found[:, matched(true, found)],
        "the same, rotated": turned[:, matched(true, turned)],
        "the truth": true,
    }
    figure, axes = plt.subplots(1, 3, figsize=(10, 4.5), sharey=True, layout="constrained")
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(np.abs(values), cmap="viridis", vmin=0, vmax=4, aspect="auto")
        axis.set(title=title, xlabel="latent dimension")
    axes[0].set_ylabel("perturbation")
    figure.colorbar(image, ax=axes, label="|shift|, in standard deviations of the basal state")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)


def matched(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the dimensions that match the true ones, in their order."""
    return linear_sum_assignment(-np.abs(true.T @ found))[1]


if __name__ == "__main__":
    main()
