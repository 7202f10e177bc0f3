"""Fixtures of the tests of latent variables."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[False, True], ids=["drawn", "closed_form"])
def closed_form(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
