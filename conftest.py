"""What the examples of docstrings may use without making it: `samsvae`, `np`, `screen`, `model`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest


@cache
def names() -> dict[str, Any]:
    """Return a small simulated screen, and a SAMSVAE that was trained on it for five steps."""
    import numpy as np

    import samsvae

    screen = samsvae.datasets.simulated_screen(n_perturbations=3, n_combinations=1, n_genes=20)
    model = samsvae.SAMSVAE(screen, n_latent=4, n_hidden=8)
    model.train(max_steps=5, progress=False)
    return {"np": np, "samsvae": samsvae, "screen": screen, "model": model}


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace.update(names())
