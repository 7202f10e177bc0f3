"""Settings written as TOML are read as they were."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samsvae.errors import InputError
from samsvae.settings.experiment import RUN
from samsvae.settings.fields import read_toml, toml


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation == tuple[str, ...]:
        return st.lists(values_of(str)).map(tuple)
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    kinds = get_args(annotation) or (annotation,)
    known = {
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False),
        str: st.text() | st.text("\"'\\#=[]{}\n\r\t\x00\x7f\x85 \u2028äé-", max_size=8),
        NoneType: st.none(),
    }
    return st.one_of(*(known[kind] if kind in known else values_of(kind) for kind in kinds))


CONFIGS = st.fixed_dictionaries(
    {}, optional={name: values_of(kind) for name, kind in RUN.types.items()}
)


@settings(max_examples=100, deadline=None)
@given(values=CONFIGS)
def test_config_round_trip(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_bytes(toml(RUN.complete(values)).encode())
    read = RUN.checked(read_toml(path), "in a file")
    assert RUN.complete(read) == RUN.complete(values)
    assert {name: type(value) for name, value in read.items()} == {
        name: type(value) for name, value in RUN.complete(values).items() if value is not None
    }


def test_a_choice_that_does_not_exist_is_an_error_with_the_choices() -> None:
    with pytest.raises(InputError, match="step = 'some' in x: expected 'auto' or 'plain' or"):
        RUN.checked({"step": "some"}, "in x")
