"""Run directories that somebody changed, digests made anew: a line, or an answer, and no harm."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import samsvae
from helpers.isolated import Outcome, outcome
from helpers.screens import SMALL, make_adata, read
from samsvae.estimators import saving
from samsvae.storage import tensors as files

Times = Callable[[int, int], int]
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 10**9, 2**63, 10**30, 0.5, -1e308, float("nan"), float("inf")),
    *("", "x", "sams-vae", "\ud800", "\x00", "=1+1", "../../x", "a" * 10_000, [], {}, [[]]),
    *([None], ["a", "a"], [1, 2], {"a": 1}, [["a"]], {"name": "x"}),
)


@pytest.fixture(scope="module", params=["sams-vae", "cpa-vae learned", "svae-plus"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    screen = read(make_adata(), batch_key="batch")
    kinds: dict[str, Callable[[], Any]] = {
        "sams-vae": lambda: samsvae.SAMSVAE(screen, **SMALL),
        "cpa-vae learned": lambda: samsvae.CPAVAE(screen, n_latent=4, learn_responders=True),
        "svae-plus": lambda: samsvae.SVAEPlus(screen, n_latent=4, n_hidden=8),
    }
    model = kinds[request.param]()
    model.train(max_steps=4, batch_size=64, progress=False).save(folder)
    return folder


def places(record: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where values stand in a record, at any depth."""
    found = [at] if at else []
    steps: Any = ()
    if isinstance(record, dict):
        steps = record
    elif isinstance(record, list):
        steps = range(len(record))
    for step in steps:
        found += places(record[step], (*at, step))
    return found


def mutate_names(names: dict[str, Any], rng: random.Random) -> str:
    """Change, remove, double or rename something in model.json; return what."""
    place = rng.choice(places(names))
    parent = names
    for step in place[:-1]:
        parent = parent[step]
    kind, step = rng.choice(["value", "remove", "double", "rename"]), place[-1]
    if kind == "remove":
        del parent[step]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[step])
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(["x", "__class__", "n_latent"])] = parent.pop(step)
    else:
        parent[step] = rng.choice(VALUES)
    return f"{kind} of {place}"


def mutate_tensors(parts: dict[str, torch.Tensor], rng: random.Random) -> str:
    """Change, remove, rename, cut or convert a tensor; return what."""
    name = rng.choice(sorted(parts))
    kind, value = rng.choice(["value", "remove", "rename", "cut", "type", "shape"]), parts[name]
    if kind == "remove":
        del parts[name]
    elif kind == "rename":
        parts[rng.choice(["x", "model.x", "facts.x", "facts.vocabulary"])] = parts.pop(name)
    elif kind == "cut":
        parts[name] = value[:-1] if value.ndim else value.new_zeros(2)
    elif kind == "type":
        parts[name] = value.to(rng.choice([torch.float64, torch.int8, torch.bool, torch.float16]))
    elif kind == "shape":
        parts[name] = value.unsqueeze(0)
    else:
        flat = value.flatten().clone()
        wrong = [float("nan"), float("inf"), -1.0, -1e30, 1e30, 3.0, 0.0]
        if not flat.is_floating_point():
            wrong = [-1, 0, 1, 100]
        if flat.numel():
            flat[rng.randrange(flat.numel())] = rng.choice(wrong)
        parts[name] = flat.view_as(value)
    return f"{kind} of {name}"


def sign(folder: Path, names: dict[str, Any], parts: dict[str, torch.Tensor]) -> None:
    """Write a model with digests that fit: nothing but its content tells that it was changed."""
    names.pop("digest", None)
    names["digest"] = files.digest(parts, names)
    (folder / saving.NAMES).write_text(json.dumps(names))
    (folder / saving.TENSORS).write_bytes(files.to_bytes(parts, {}))


def asked(folder: Path) -> list[list[float]]:
    """Return what a loaded model answers."""
    model = samsvae.load(folder)
    effects = model.effects(["A", "A+B"], n_particles=8, n_draws=2, progress=False)
    repr(model)
    if hasattr(model, "inclusion_probabilities"):
        model.embeddings()
    model.simulate(["A"], n_cells=3)
    values = np.asarray(effects.X, float)
    assert np.isfinite(values).all(), "an answer that is no number"
    return [list(row) for row in values]


def test_a_changed_run_is_refused_or_answers(
    run: Path, tmp_path: Path, times: Times, seed: int
) -> None:
    rng, n = random.Random(seed), times(170, 40)
    whole = outcome(lambda: asked(run))
    assert whole.kind == "answer", whole
    counts: Counter[str] = Counter()
    wrong: list[tuple[str, Outcome]] = []
    for _ in range(n):
        bad = tmp_path / "bad"
        shutil.copytree(run, bad, dirs_exist_ok=True)
        names = json.loads((bad / saving.NAMES).read_text())
        parts, _ = files.read(bad / saving.TENSORS)
        what = mutate_names(names, rng) if rng.random() < 0.6 else mutate_tensors(parts, rng)
        try:
            sign(bad, names, parts)
        except (TypeError, ValueError, UnicodeEncodeError):
            continue  # cannot be written so
        found = outcome(lambda: asked(tmp_path / "bad"))
        counts[found.kind] += 1
        if found.kind not in ("answer", "refused"):
            wrong.append((what, found))
    print(dict(counts))  # make soak shows it
    assert not wrong, "\n".join(f"{what}: {found}" for what, found in wrong) + f"\n{counts}"
    assert counts["refused"] > n / 4


CHECKPOINTS = {"batch_size": 64, "progress": False, "validate_every": 5, "checkpoint_every": 3}


def mutate_checkpoint(parts: dict[str, Any], header: dict[str, Any], rng: random.Random) -> str:
    """Change something that a checkpoint says; return what."""
    name = rng.choice([*parts, *header])
    if name in header:
        header[name] = rng.choice(VALUES)
        return f"{name} = {header[name]!r}"
    kind = rng.choice(["gone", "cut", "double", "long", "nan"])
    value = parts.pop(name)
    if kind != "gone":
        changed = {"cut": value.reshape(-1)[:1][None], "double": value.double()}
        changed |= {"long": value.long(), "nan": value * float("nan")}
        parts[name] = changed[kind]
    return f"{name}: {kind}"


@pytest.mark.filterwarnings("ignore")
def test_a_changed_checkpoint_is_refused(tmp_path: Path, times: Times, seed: int) -> None:
    """Signed anew, so that it looks whole."""
    rng, n = random.Random(seed), times(300, 40)
    screen, path = read(make_adata()), tmp_path / "checkpoint.safetensors"

    def train(n_steps: int) -> int:
        model = samsvae.SAMSVAE(screen, **SMALL)
        settings = CHECKPOINTS | {"max_steps": n_steps, "checkpoint": path, "resume": True}
        return len(model.train(**settings).history)

    train(14)
    parts, header = files.read(path)
    del header["schema_version"]
    counts: Counter[str] = Counter()
    for _ in range(n):
        changed, names = dict(parts), copy.deepcopy(header)
        what = mutate_checkpoint(changed, names, rng)
        files.write(path, changed, names)
        found = outcome(lambda: train(20))
        counts[found.kind] += 1
        assert found.kind in ("answer", "refused"), (what, found)
    print(dict(counts))  # make soak shows it
    assert counts["refused"] > n / 2
