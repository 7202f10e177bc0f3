"""Steps run in other ways than as written, and data on the device: the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import samsvae
from helpers.doses import ROWS, SCREEN, dense
from helpers.screens import SMALL, make_adata
from samsvae.data.loader import Loader
from samsvae.data.resident import ResidentCounts, distinct
from samsvae.estimators import ESTIMATORS
from samsvae.estimators.base import Estimator
from samsvae.model.mask import MASKS
from samsvae.ops import native
from samsvae.settings.train import TrainSettings
from samsvae.train import loop
from samsvae.train.step import CompiledStep, PlainStep, Replayed, Work, draw_noise

IDS = [kind.name for kind in ESTIMATORS]


def model_of(kind: type[Estimator], screen: samsvae.Screen) -> Estimator:
    names = set(kind.__dataclass_fields__)
    return kind(screen, **{k: v for k, v in SMALL.items() if k in names})


@pytest.mark.parametrize("rows", ROWS, ids=["all", "slice", "positions", "one", "controls"])
def test_resident_batches_are_the_loaders(rows: np.ndarray | slice) -> None:
    loader = Loader(SCREEN)
    position = torch.arange(len(SCREEN))[rows]
    ours, theirs = loader.resident.batch(position), loader.batch(rows)
    for name in ("counts", "library_size", "covariates"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    n = len(SCREEN.perturbations)
    np.testing.assert_array_equal(dense(ours.dosage, n), dense(theirs.dosage, n))
    assert len(ours.dosage.columns) == min(position.numel() * loader.n_slots, n)
    shares = [x.cells_per_column[x.dosage.position] for x in (ours, theirs)]
    received = theirs.dosage.dose != 0
    assert torch.equal(shares[0][received], shares[1][received])


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_distinct_is_unique_filled_up(values: list[int]) -> None:
    given_ = torch.tensor(values).view(1, -1)
    found, position = distinct(given_, 10)
    wanted = torch.unique(given_)
    assert torch.equal(found[: len(wanted)], wanted)
    assert not found[len(wanted) :].any()
    assert torch.equal(found[position], given_)


@pytest.mark.parametrize("largest", [1, 255, 256, 32767, 32768, 10**6])
def test_resident_counts_are_small_and_exact(largest: int) -> None:
    rng = np.random.default_rng(0)
    dense_counts = rng.poisson(0.3, (20, 31))
    dense_counts[3], dense_counts[4, 7] = 0, largest
    x = sp.csr_matrix(dense_counts.astype(np.min_scalar_type(largest)))
    counts = ResidentCounts(x.data, x.indices, x.indptr, 31, torch.device("cpu"))
    rows = torch.tensor([4, 3, 3, 19, 0])
    assert torch.equal(counts.rows(rows), torch.from_numpy(dense_counts[rows]).float())
    empty = ResidentCounts(x.data[:0], x.indices[:0], 0 * x.indptr, 31, torch.device("cpu"))
    assert not empty.rows(rows).any()


def test_resident_data_take_at_most_a_quarter_of_dense_ones() -> None:
    x = sp.random(2000, 5000, 0.19, "csr", np.float32, np.random.default_rng(0))
    x.data = np.random.default_rng(0).integers(1, 200, x.nnz).astype(np.uint8)
    counts = ResidentCounts(x.data, x.indices, x.indptr, 5000, torch.device("cpu"))
    assert counts.n_bytes <= 2000 * 5000 * 4 / 4


class Again:
    """Stands in for a recorder of CUDA graphs: what is replayed reads the recorded arguments."""

    def plain(self, work: Work) -> Tensor:
        return work()

    def record(self, work: Work) -> Work:
        return work


def steps_of(
    kind: type[Estimator],
    run: Callable[[loop.Training], Callable[[Tensor, Tensor], Tensor]],
    **given_: Any,
) -> tuple[dict[str, Tensor], Tensor]:
    """Return parameters and metrics after 20 steps in double precision, on resident data."""
    screen = samsvae.Screen.from_anndata(make_adata(n_cells=300), split_key="split")
    model = model_of(kind, screen)
    module = model.module.double()
    train, valid = (Loader(x, encoding=model.encoding) for x in (screen.train, screen.valid))
    chosen = TrainSettings(max_steps=20, batch_size=30, n_particles=2, clip_norm=50.0, **given_)
    training = loop.Training(module, train, valid, chosen, identity={}, history=[])
    resident = train.resident
    training.batch = lambda rows: double(resident.batch(rows))
    training.step_of = run(training)
    for _ in range(20):
        training._one_step()
    return module.state_dict(), torch.stack(training.pending)


def double(batch: Any) -> Any:
    floats = ("counts", "library_size", "covariates", "cells_per_column")
    dosage = batch.dosage._replace(dose=batch.dosage.dose.double())
    return batch._replace(dosage=dosage, **{n: getattr(batch, n).double() for n in floats})


def assert_same(ours: Any, theirs: Any) -> None:
    for name, value in ours[0].items():
        torch.testing.assert_close(value, theirs[0][name], rtol=1e-9, atol=1e-11, msg=name)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-11)


class OnDeviceOnly(TorchDispatchMode):
    """Refuses what a CUDA graph cannot record: host copies, and shapes that depend on the data."""

    REFUSED = frozenset(
        {
            "_local_scalar_dense",  # .item(), bool(), float()
            "lift_fresh",  # torch.tensor(...), new_tensor
            "nonzero",
            "masked_select",
            "_unique",
            "_unique2",
            "unique_dim",
            "unique_consecutive",
            "bincount",
            "repeat_interleave",
            "_pin_memory",
        }
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, func
        if name in ("index", "index_put", "index_put_"):
            assert all(x is None or x.dtype != torch.bool for x in args[1]), func
        return func(*args, **(kwargs or {}))


VARIANTS = [
    *((samsvae.SAMSVAE, {"mask": mask.name}) for mask in MASKS),
    (samsvae.SAMSVAE, {"embedding_given_mask": True}),
    (samsvae.SAMSVAE, {"saturating_dose": True}),
    (samsvae.SAMSVAE, {"learn_responders": True}),
    *((kind, {}) for kind in ESTIMATORS[1:]),
]


@pytest.mark.parametrize(
    ("kind", "given_"), VARIANTS, ids=[f"{kind.name} {given_}" for kind, given_ in VARIANTS]
)
@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("objective", ["elbo", "iwelbo"])
def test_a_recorded_step_stays_on_the_device(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Estimator],
    given_: dict[str, Any],
    closed_form: bool,
    objective: str,
) -> None:
    """A CUDA graph refuses anything else; assembling the batch is part of what is recorded."""
    names = set(kind.__dataclass_fields__)
    screen = SCREEN  # with batches, doses and library sizes of its own
    if kind is samsvae.SVAEPlus:  # a combination has one dose
        screen = samsvae.Screen.from_anndata(
            make_adata(n_cells=60), split_key="split", batch_key="batch"
        )
    model = kind(screen, **{k: v for k, v in SMALL.items() if k in names}, **given_)
    chosen = TrainSettings(
        max_steps=9,
        batch_size=20,
        n_particles=2,
        clip_norm=50.0,
        objective=objective,
        closed_form_kl=closed_form and objective == "elbo",
    )
    train, valid = (Loader(x, encoding=model.encoding) for x in (screen.train, screen.valid))
    training = loop.Training(model.module, train, valid, chosen, identity={}, history=[])
    training.optimizer.adam.defaults["capturable"] = True
    for group in training.optimizer.adam.param_groups:
        group["capturable"] = True
    training.batch = train.resident.batch
    monkeypatch.setattr(native, "library", lambda: None)  # as on a GPU
    rows, factors = torch.arange(20), torch.ones(len(list(chosen.factors(0))))
    training._step_of(rows, factors)  # the optimiser's state is made before steps are recorded
    with OnDeviceOnly():
        training._step_of(rows, factors)


@pytest.mark.parametrize("kind", ESTIMATORS, ids=IDS)
def test_replayed_steps_equal_plain_ones(kind: type[Estimator]) -> None:
    given_: dict[str, Any] = {"warmup_steps": 9, "basal_weight": 0.5}
    plain = steps_of(kind, lambda training: training._step_of, **given_)
    replayed = steps_of(kind, lambda training: Replayed(training._step_of, Again()), **given_)
    assert_same(replayed, plain)
    assert len(plain[1].unique(dim=0)) == 20


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # all are torch's own
@pytest.mark.filterwarnings("ignore:.*autograd.*Function.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("kind", [samsvae.SAMSVAE, samsvae.ConditionalVAE])
def test_compiled_steps_equal_plain_ones(kind: type[Estimator]) -> None:
    plain = steps_of(kind, lambda training: training._step_of)
    torch._dynamo.reset()
    compiled = steps_of(kind, lambda training: training._step_of, step="compiled")
    assert_same(compiled, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_a_step_that_cannot_be_compiled_is_plain_after_one_warning(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Callable[..., Any]:
        def fail(*_: object) -> Any:
            raise RuntimeError("no compiler\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    run: dict[str, Any] = {"max_steps": 3, "progress": False, "validate_every": 1}
    with pytest.warns(UserWarning, match=r"cannot be compiled \(no compiler\)") as warned:
        ours = samsvae.SAMSVAE(screen, **SMALL).train(**run, step="compiled")
    assert len(warned) == 1
    plain = samsvae.SAMSVAE(screen, **SMALL).train(**run)
    assert ours.history["objective"].equals(plain.history["objective"])


def test_an_error_of_the_step_itself_is_not_hidden(screen: samsvae.Screen) -> None:
    model = samsvae.SAMSVAE(screen, **SMALL).module
    step = CompiledStep(model, torch.optim.Adam(model.parameters()))
    step._evaluation = step._plain
    batch = Loader(screen.train).batch(slice(0, 8))
    noise, basal = draw_noise(model, batch, 1, torch.Generator())
    with pytest.raises(RuntimeError, match="size"):
        step(batch, noise, basal[:, :, :1].expand(1, 8, 3))


def test_steps_that_cannot_be_recorded_are_plain_after_one_warning() -> None:
    class Broken(Again):
        def record(self, work: Work) -> Work:
            raise RuntimeError("no graph today")

    replayed = Replayed(lambda x: 2 * x, Broken())
    values = torch.arange(8.0)
    with pytest.warns(UserWarning, match="no graph today") as warned:
        doubled = [replayed(x) for x in values]
    assert len(warned) == 1
    assert torch.equal(torch.stack(doubled), 2 * values)


def test_a_recorded_step_is_recorded_once() -> None:
    class Counting(Again):
        recorded = 0

        def record(self, work: Work) -> Work:
            self.recorded += 1
            return work

    recorder = Counting()
    replayed = Replayed(lambda x, y: x + y, recorder)
    for i in range(6):
        assert replayed(torch.tensor(i), torch.tensor(1)) == i + 1
    assert recorder.recorded == 1


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"step": "graph", "device": "cpu"}, "needs a CUDA device, not 'cpu'"),
        ({"step": "grph"}, "the nearest is 'graph'"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_settings_of_steps_are_checked(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(samsvae.InputError, match=said):
        TrainSettings(**given_)


def test_a_step_is_plain_on_a_cpu_and_a_graph_on_a_gpu() -> None:
    devices = torch.device("cpu"), torch.device("cuda")
    assert [TrainSettings().step_on(device.type) for device in devices] == ["plain", "graph"]
    forced = TrainSettings(step="compiled", device="cpu")
    assert [forced.step_on(device.type) for device in devices] == ["compiled", "compiled"]


class RoundedFactors(TorchDispatchMode):
    """Takes matrix products as TF32 does: of factors rounded to 10 bits, summed in float32."""

    PRODUCTS: ClassVar = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1)}
    n_products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = list(args)
        for i in self.PRODUCTS.get(func.overloadpacket.__name__, ()):
            bits = args[i].contiguous().view(torch.int32)
            args[i] = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
            self.n_products += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ESTIMATORS, ids=IDS)
def test_tf32_products_change_a_step_little(kind: type[Estimator]) -> None:
    """Simulated, since it takes a GPU: errors of the ELBO below 1e-4, of gradients below 1 %."""
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    model = model_of(kind, screen)
    batch = Loader(screen.train, encoding=model.encoding).batch(slice(0, 57))
    results = []
    for mode in (nullcontext(), RoundedFactors()):
        module = model.module
        step = PlainStep(module, torch.optim.SGD(module.parameters(), lr=0.0))
        noise = draw_noise(module, batch, 5, torch.Generator().manual_seed(0))
        with mode:
            metrics = step(batch, *noise)
        results.append((metrics, {n: p.grad.clone() for n, p in module.named_parameters()}))
    assert mode.n_products > 10
    (metrics, gradients), (rounded, rounded_gradients) = results
    assert rounded["elbo"].item() != metrics["elbo"].item()
    assert rounded["elbo"].item() == pytest.approx(metrics["elbo"].item(), rel=1e-4)
    for name, gradient in gradients.items():
        error = (rounded_gradients[name] - gradient).norm() / (gradient.norm() + 1e-3)
        assert error < 0.01, name


def test_training_leaves_the_precision_of_products_as_it_was(
    screen: samsvae.Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, value = [], PlainStep._value

    def noted(*given_: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return value(*given_)

    monkeypatch.setattr(PlainStep, "_value", noted)
    samsvae.SAMSVAE(screen, **SMALL).train(max_steps=2, precision="tf32", progress=False)
    assert seen == ["high", "high"]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("kind", ESTIMATORS, ids=IDS)
def test_bfloat16_products_change_a_step_little(kind: type[Estimator]) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split")
    module = model_of(kind, screen).module
    batch = Loader(screen.train, encoding=model_of(kind, screen).encoding).batch(slice(0, 57))
    results = []
    for bfloat16 in (False, True):
        step = PlainStep(module, torch.optim.SGD(module.parameters(), lr=0.0), bfloat16=bfloat16)
        noise = draw_noise(module, batch, 5, torch.Generator().manual_seed(0))
        metrics = step(batch, *noise)
        results.append((metrics, {n: p.grad.clone() for n, p in module.named_parameters()}))
    (metrics, gradients), (half, half_gradients) = results
    assert half["elbo"].item() != metrics["elbo"].item()
    assert half["elbo"].item() == pytest.approx(metrics["elbo"].item(), rel=2e-3)
    for name, gradient in gradients.items():
        error = (half_gradients[name] - gradient).norm() / (gradient.norm() + 1e-3)
        assert error < 0.11, name
        assert half_gradients[name].dtype == torch.float32


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tensors_of(result):
            self.n_bytes = max(self.n_bytes, made.numel() * made.element_size())
        return result


def tensors_of(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from tensors_of(part)


def test_memory_of_the_iwelbo_does_not_grow_with_its_particles(trained: samsvae.SAMSVAE) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(n_cells=2000), split_key="split")
    sizes = []
    for n_particles in (100, 1000):
        with Largest() as largest:
            trained.iwelbo(screen.test, n_particles=n_particles, progress=False)
        sizes.append(largest.n_bytes)
    assert sizes[1] <= 1.2 * sizes[0]
