"""The contract of the mechanisms, the response to a dose, and networks that see a dosage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.tensors import normal, seeded
from samsvae.model.embedding import Embedding, FreeEmbedding, MaskedEmbedding, PointEmbedding
from samsvae.model.mask import MASKS, FullMask, Mask, MaskPrior
from samsvae.model.mechanism import AdditiveShift, Concatenate, HillCurve, Mechanism
from samsvae.model.networks import MLP, JointLinear
from samsvae.types import Batch, Dosage, Shifts

N_PERTURBATIONS, N_LATENT, N_CELLS, N_PARTICLES = 5, 3, 4, 2
SIZE = (N_PERTURBATIONS, N_LATENT)


DOSAGE = Dosage(
    columns=torch.tensor([3, 0, 4]),
    position=torch.tensor([[0, 1], [2, 0], [1, 0], [0, 0]]),
    dose=torch.tensor([[1.0, 0.4], [2.5, 0.0], [0.7, 1.3], [0.0, 0.0]], dtype=torch.float64),
)
"""Of four cells: two of them received a pair, one a single perturbation, one nothing."""
NOTHING = DOSAGE._replace(dose=torch.zeros_like(DOSAGE.dose))
BASAL = normal(N_PARTICLES, N_CELLS, N_LATENT, seed=9)


def dense(dosage: Dosage, doses: Tensor | None = None) -> Tensor:
    """Return a dosage as `cell perturbation`, with its own doses or others in their place."""
    rows = torch.zeros(len(dosage.dose), N_PERTURBATIONS, dtype=torch.float64)
    values = dosage.dose if doses is None else doses
    for cell, slot in np.ndindex(*dosage.dose.shape):
        rows[cell, dosage.columns[dosage.position[cell, slot]]] += values[cell, slot]
    return rows


def shaken(mechanism: nn.Module) -> None:
    mechanism.double()
    with torch.no_grad():
        for seed, parameter in enumerate(mechanism.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=seed))


def hill() -> HillCurve:
    return HillCurve(N_PERTURBATIONS)


def additive(
    mask: type[Mask], embedding: str = "point", curve: Callable[[], HillCurve | None] = hill
) -> AdditiveShift:
    own_mask = FullMask(*SIZE) if mask is FullMask else mask(*SIZE, MaskPrior())
    mechanism = AdditiveShift(own_mask, EMBEDDINGS[embedding](), dose_response=curve())
    shaken(mechanism)
    return mechanism


EMBEDDINGS: dict[str, Callable[[], Embedding]] = {
    "free": lambda: FreeEmbedding(*SIZE, scale=1.0),
    "masked": lambda: MaskedEmbedding(*SIZE, scale=1.0, width=6, n_layers=2),
    "point": lambda: PointEmbedding(*SIZE),
}
EVERY_MASK: list[type[Mask]] = [*MASKS, FullMask]
RESPONSES: dict[str, Callable[[], HillCurve | None]] = {"plain": lambda: None, "hill": hill}
ADDITIVE: dict[str, Callable[[], AdditiveShift]] = {
    f"{mask.name}-{embedding}-{name}": partial(additive, mask, embedding, response)
    for mask in EVERY_MASK
    for embedding in EMBEDDINGS
    for name, response in RESPONSES.items()
    if name == "plain" or embedding == "masked"
}
MECHANISMS: dict[str, Callable[[], Mechanism]] = {
    **ADDITIVE,
    "concatenate": lambda: Concatenate(*SIZE),
}


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]()


@pytest.fixture(params=ADDITIVE)
def shift(request: pytest.FixtureRequest) -> AdditiveShift:
    return ADDITIVE[request.param]()


def cells(dosage: Dosage) -> Batch:
    return Batch.without_data(dosage, torch.zeros(N_CELLS, 0))


def drawn(mechanism: Mechanism, *, closed_form: bool = False) -> Shifts:
    noise = mechanism.noise(DOSAGE.columns, N_PARTICLES, seeded(0))
    return mechanism.draw(DOSAGE.columns, noise, closed_form=closed_form)


@pytest.mark.parametrize("closed_form", [False, True])
def test_draws_pay_for_every_variable(mechanism: Mechanism, closed_form: bool) -> None:
    shifts = drawn(mechanism, closed_form=closed_form)
    assert shifts.value.shape[:2] == (N_PARTICLES, 3)
    assert tuple(shifts.log_ratios) == mechanism.variables
    for log_ratio in shifts.log_ratios.values():
        assert log_ratio.shape == (N_PARTICLES, 3)
        assert torch.all(log_ratio != 0)


def test_the_parts_have_the_widths_that_are_said(mechanism: Mechanism) -> None:
    context = mechanism.context(cells(DOSAGE), drawn(mechanism))
    encoder = MLP((mechanism.n_context,), 6, 1).double()
    decoder = MLP(mechanism.state_widths, 6, 1).double()
    assert encoder(context).shape[-2:] == (N_CELLS, 6)
    assert decoder(*mechanism.apply_to(BASAL, context)).shape == (N_PARTICLES, N_CELLS, 6)


def state_of(mechanism: Mechanism, dosage: Dosage) -> Tensor:
    state, *_ = mechanism.apply_to(BASAL, mechanism.context(cells(dosage), drawn(mechanism)))
    assert isinstance(state, Tensor)
    return state


def test_a_cell_that_received_nothing_is_at_its_basal_state(mechanism: Mechanism) -> None:
    assert torch.equal(state_of(mechanism, NOTHING), BASAL)
    assert torch.equal(state_of(mechanism, DOSAGE)[:, 3], BASAL[:, 3])


def test_metrics_are_numbers(mechanism: Mechanism) -> None:
    for value in mechanism.metrics().values():
        assert value.shape == ()
        assert torch.isfinite(value)


def test_a_shift_is_the_mask_times_the_embedding_given_the_mask(shift: AdditiveShift) -> None:
    noise = shift.noise(DOSAGE.columns, N_PARTICLES, seeded(0))
    mask = shift.mask.draw(DOSAGE.columns, noise.mask)
    embedding = shift.embedding.draw(DOSAGE.columns, mask.value, noise.embedding)
    found, (value, paid) = drawn(shift), (mask.value * embedding.value, {})
    for part, draw in ((shift.mask, mask), (shift.embedding, embedding)):
        if part.variable is not None:
            paid[part.variable] = draw.log_ratio
    torch.testing.assert_close((found.value, found.log_ratios), (value, paid), rtol=0, atol=0)
    parameters = [*shift.mask.parameters(), *shift.embedding.parameters()]
    ours, theirs = (
        torch.autograd.grad(sum((r.sum() for r in ratios.values()), values.sum()), parameters)
        for values, ratios in (found, (value, paid))
    )
    torch.testing.assert_close(ours, theirs)


def test_shifts_add_up_by_their_doses(shift: AdditiveShift) -> None:
    shifts, response = drawn(shift), shift.dose_response
    rows = dense(DOSAGE, None if response is None else response(DOSAGE))
    expected = rows[:, DOSAGE.columns] @ shifts.value
    (state,) = shift.apply_to(BASAL, shift.context(cells(DOSAGE), shifts))
    torch.testing.assert_close(state - BASAL, expected)


def test_a_gradient_reaches_every_parameter_of_the_shifts(shift: AdditiveShift) -> None:
    context = shift.context(cells(DOSAGE), drawn(shift))
    parameters = list(shift.parameters())
    for gradient in torch.autograd.grad((context**2).sum(), parameters):
        assert torch.all(torch.isfinite(gradient))
        assert torch.any(gradient != 0)


@pytest.mark.parametrize("mask", MASKS)
def test_mask_sparsity_is_the_share_of_probabilities_up_to_one_half(mask: type[Mask]) -> None:
    mechanism = additive(mask)
    low = mechanism.mask.probability() <= 0.5
    assert 0 < low.sum() < low.numel()
    assert mechanism.metrics()["mask_sparsity"].item() == low.sum().item() / low.numel()
    assert not additive(FullMask).metrics()


def test_concatenate_leaves_the_dosage_to_the_decoder() -> None:
    mechanism = Concatenate(*SIZE)
    decoder = MLP(mechanism.state_widths, 6, 3).double()
    side_by_side = MLP((sum(mechanism.state_widths),), 6, 3).double()
    state = decoder.state_dict()
    parts_of_first = [state.pop(f"first.weights.{part}") for part in range(2)]
    side_by_side.load_state_dict(state | {"first.weights.0": torch.cat(parts_of_first)})
    parts = mechanism.apply_to(BASAL, mechanism.context(cells(DOSAGE), drawn(mechanism)))
    whole = torch.cat([BASAL, dense(DOSAGE).expand(N_PARTICLES, -1, -1)], -1)
    torch.testing.assert_close(decoder(*parts), side_by_side(whole))


REPEATED = Dosage(
    columns=torch.tensor([2, 1]),
    position=torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]),
    dose=torch.tensor(
        [[1.0, 2.0, 0.5], [0.3, 0.3, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 0.0]]
    ).double(),
)
"""Perturbations that stand in several slots of a cell add up; empty slots count nothing."""


@pytest.mark.parametrize("dosage", [DOSAGE, REPEATED, NOTHING], ids=["plain", "repeated", "empty"])
def test_a_joint_linear_map_looks_a_dosage_up(dosage: Dosage) -> None:
    layer = JointLinear((N_LATENT, 0, N_PERTURBATIONS), 6)
    shaken(layer)
    basal, dose = BASAL.clone().requires_grad_(), dosage.dose.clone().requires_grad_()
    out = layer(basal, normal(N_CELLS, 0), dosage._replace(dose=dose))
    whole = torch.cat([basal, dense(dosage, dose).expand(N_PARTICLES, -1, -1)], -1)
    expected = whole @ layer.weight.T + layer.bias
    torch.testing.assert_close(out, expected)
    inputs, weight = (basal, dose, *layer.weights, layer.bias), normal(*out.shape)
    ours = torch.autograd.grad((out * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for found, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, exact)


def test_a_joint_linear_map_takes_integers_for_one_hot_rows_and_broadcasts_its_parts() -> None:
    layer = JointLinear((N_LATENT, N_PERTURBATIONS), 6).double()
    names = torch.tensor([4, 1, 1, 0])
    one_hot = torch.eye(N_PERTURBATIONS, dtype=torch.float64)[names]
    whole = torch.cat([BASAL, one_hot.expand(N_PARTICLES, -1, -1)], -1)
    torch.testing.assert_close(layer(BASAL, names), whole @ layer.weight.T + layer.bias)


def of_doses(*doses: float) -> Dosage:
    """Return one perturbation in a cell per dose: the second of the screen."""
    position = torch.zeros(len(doses), 1, dtype=torch.int64)
    return Dosage(torch.tensor([1]), position, torch.tensor(doses, dtype=torch.float64)[:, None])


def fixed_hill(half_dose: float, slope: float) -> HillCurve:
    """Return a response of which only the second perturbation is this."""
    response = HillCurve(3).double()
    response.log_half_dose.data[1] = np.log(half_dose)
    response.log_slope.data[1] = np.log(slope)
    return response


@pytest.mark.parametrize(("half_dose", "slope"), [(0.3, 1.0), (2.0, 3.5), (40.0, 0.4)])
def test_the_hill_response_is_that_of_the_formula(half_dose: float, slope: float) -> None:
    doses = np.array([1e-3, 0.2, 1.0, half_dose, 17.0, 1e4])
    expected = doses**slope / (half_dose**slope + doses**slope)
    found = fixed_hill(half_dose, slope)(of_doses(*doses)).detach().numpy()[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found[3] == pytest.approx(0.5, abs=1e-12)
    assert np.all(np.diff(found[doses.argsort()]) >= 0)
    (saturated,) = fixed_hill(half_dose, slope)(of_doses(1e30))
    assert saturated.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hill_response_is_zero_without_a_dose_with_a_finite_gradient(
    dtype: torch.dtype,
) -> None:
    response, dosage = fixed_hill(2.0, 0.5).to(dtype), of_doses(0.0, 1e-30, 3.0)
    dose = dosage.dose.to(dtype).requires_grad_()
    values = response(dosage._replace(dose=dose))
    assert values[0].item() == 0
    assert torch.all(values[1:] > 0)
    for gradient in torch.autograd.grad(values.sum(), (dose, *response.parameters())):
        assert torch.all(torch.isfinite(gradient))
    for gradient in torch.autograd.grad(response(of_doses(0.0)).sum(), [*response.parameters()]):
        assert torch.all(gradient == 0)


def test_a_hill_response_starts_at_one_half_at_dose_one_with_slope_one() -> None:
    response, every = HillCurve(3), torch.arange(3)
    torch.testing.assert_close(response.log_slope.exp(), torch.ones(3))
    values = response(Dosage(every, every[:, None], torch.ones(3, 1)))
    torch.testing.assert_close(values, torch.full_like(values, 0.5))
