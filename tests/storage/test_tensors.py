"""Files of tensors: whatever is changed in them is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from samsvae import InputError
from samsvae.storage import tensors as files

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "state": torch.arange(5, dtype=torch.uint8),
}
HEADER = {"step": 3, "names": ["a", "b"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    files.write(tmp_path / "file", TENSORS, HEADER)
    return tmp_path / "file"


def test_it_comes_back_as_it_was(path: Path) -> None:
    tensors, header = files.read(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert header == HEADER | {"schema_version": files.SCHEMA_VERSION}


def test_the_same_content_is_the_same_bytes() -> None:
    assert len({files.to_bytes(TENSORS, HEADER) for _ in range(20)}) == 1


def test_another_type_of_the_same_bytes_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'"F32"') == 1
    path.write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(InputError, match="damaged"):
        files.read(path)


def test_a_type_that_is_never_written_is_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"U8"', b'"I8"'))
    with pytest.raises(InputError, match="damaged"):
        files.read(path)
    halves = {"weight": torch.zeros(3, dtype=torch.bfloat16)}
    header = {"schema_version": files.SCHEMA_VERSION, "digest": "0"}
    path.write_bytes(save(halves, {"samsvae": json.dumps(header)}))
    with pytest.raises(InputError, match="damaged"):
        files.read(path)


def test_another_shape_is_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"[3,4]", b"[4,3]"))
    with pytest.raises(InputError, match="damaged"):
        files.read(path)


@pytest.mark.parametrize("old", [b'step\\": 3', b'[\\"a\\"'])
def test_another_header_is_noticed(path: Path, old: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, old.replace(b"3", b"4").replace(b"a", b"c")))
    with pytest.raises(InputError, match="damaged"):
        files.read(path)


def test_any_flipped_bit_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(bytes(damaged))
        try:
            tensors, header = files.read(path)
        except InputError:
            continue
        # Some spellings of JSON say the same.
        assert header == HEADER | {"schema_version": files.SCHEMA_VERSION}
        assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_what_is_not_finite_is_named() -> None:
    with pytest.raises(InputError, match="not finite, in 'b'"):
        files.check_finite("file", {"a": torch.zeros(2), "b": torch.tensor([0.0, float("nan")])})


def test_a_header_that_is_no_record(path: Path) -> None:
    for header in ("3", "[", "null", json.dumps({"schema_version": True})):
        save_file(TENSORS, path, {"samsvae": header})
        with pytest.raises(InputError):
            files.read(path)
