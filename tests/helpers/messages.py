"""Mistakes are told in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from samsvae import InputError


def fails(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)
