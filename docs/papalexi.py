"""Draw the picture of the README: `SAMSVAE_DATA=FOLDER python docs/papalexi.py`.

Left the mechanisms of the screen of Papalexi et al. 2021, right what the knock-out of STAT1 does.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import samsvae
from samsvae import plotting


def main() -> None:
    """Train with the settings that `samsvae inspect` proposes, and draw."""
    screen = samsvae.Screen.open(
        samsvae.datasets.locate("papalexi2021.h5ad"),
        sgrna_key="guide",
        split_key="split",
        batch_key="bio_rep",
    )
    model = samsvae.SAMSVAE(screen).train(progress=False)
    table = samsvae.discoveries(model, screen, progress=False)
    inclusion = model.inclusion()
    shifts = inclusion.pivot(index="perturbation", columns="dimension", values="shift")
    mechanisms = model.mechanisms()
    mechanisms = mechanisms[mechanisms["n_perturbations"] > 0]
    order = list(dict.fromkeys(mechanisms["perturbations"].explode()))
    shown = shifts.loc[order, mechanisms.index].abs()

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(1, 1.3)
    )
    image = left.imshow(shown, cmap="Blues", vmin=0, aspect="auto")
    lowered = ["\n".join(genes[:4]) for genes in mechanisms["down"]]
    left.set_xticks(np.arange(shown.shape[1]), lowered, fontsize=7)
    left.set_yticks(np.arange(len(order)), order, fontsize=9)
    left.set(
        title="Mechanisms: which knock-outs share one", xlabel="mechanism, by genes that it lowers"
    )
    figure.colorbar(image, ax=left, label="size of the shift", shrink=0.8)
    plotting.volcano(table, "STAT1", ax=right)
    right.set_ylim(top=16)  # room for the legend
    right.set_title("Genes that the knock-out of STAT1 changes")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
