"""A model that is certain of its globals."""

from __future__ import annotations

import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata, read


@pytest.fixture(scope="session")
def certain() -> samsvae.SAMSVAE:
    """Return a model whose posterior over globals has no spread."""
    screen = read(make_adata())
    model = samsvae.SAMSVAE(screen, **SMALL, embedding_given_mask=False).train(
        max_steps=30, batch_size=64, alignment="none", validate_every=30, progress=False
    )
    with torch.no_grad():
        model.module.mechanism.mask.logits.fill_(30.0)
        embedding = model.module.mechanism.embedding
        embedding.loc.normal_(generator=torch.Generator().manual_seed(0))
        embedding.log_scale.fill_(-30.0)
    return model
