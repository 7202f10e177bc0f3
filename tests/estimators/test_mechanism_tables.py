"""The latent dimensions in use, what moves each and what each moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import samsvae
from helpers.models import shaken
from helpers.screens import SMALL, make_adata, read
from samsvae.data.fold_changes import typical_gene
from samsvae.model.mask import BernoulliMask
from samsvae.report.tables import directions


@pytest.fixture
def model() -> samsvae.SAMSVAE:
    """Return a model whose masks and embeddings are set: A and B move z1, A and C z3, C z0."""
    screen = read(make_adata())
    model = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=2, progress=False)
    mechanism = model.module.mechanism
    assert isinstance(mechanism.mask, BernoulliMask)
    with torch.no_grad():
        mechanism.mask.logits.fill_(-4.0)
        mechanism.mask.evidence.zero_()
        mechanism.embedding.loc.fill_(0.5)
        for row, column, shift in (
            (0, 1, 3.0),
            (1, 1, -1.0),
            (0, 3, 0.4),
            (2, 3, 0.6),
            (2, 0, 5.0),
        ):
            mechanism.mask.logits[row, column] = 6.0
            mechanism.embedding.loc[row, column] = shift
    return model


def test_dimensions_in_use(model: samsvae.SAMSVAE) -> None:
    table = model.mechanisms(n_genes=3)
    assert table.index.tolist() == ["z0", "z1", "z3"]  # by the size of their shifts
    assert table["perturbations"].tolist() == [["C"], ["A", "B"], ["C", "A"]]
    assert table["n_perturbations"].tolist() == [1, 2, 2]
    assert table.loc["z1", "shifts"] == pytest.approx([3.0, -1.0], rel=0.01)
    assert table.loc["z3", "probabilities"] == pytest.approx([0.9975, 0.9975], abs=1e-3)
    held = np.array([25, 10, 0.52])
    np.testing.assert_allclose(table["share"], held / held.sum(), rtol=0.02)
    assert (table["log_bayes_factor"] > 6).all()


def test_members_are_those_of_calibrated_probabilities(model: samsvae.SAMSVAE) -> None:
    """C moves z0 and B z1 with a probability of 0.8 alone: z0 has no member, and comes last."""
    mask = model.module.mechanism.mask
    with torch.no_grad():
        mask.logits[2, 0] = mask.logits[1, 1] = np.log(4)
    table = model.mechanisms(n_genes=3)
    assert table.index.tolist() == ["z1", "z3", "z0"]
    assert table["perturbations"].tolist() == [["A"], ["C", "A"], []]
    assert table["candidates"].tolist() == [["B"], [], ["C"]]
    assert table["n_perturbations"].tolist() == [1, 2, 0]
    assert table["n_candidates"].tolist() == [1, 0, 1]
    assert table.loc["z1", "candidate_probabilities"] == pytest.approx([0.8])
    assert table.loc["z1", "candidate_shifts"] == pytest.approx([-0.8], rel=0.01)
    assert table.loc["z0", "log_odds"] == pytest.approx(np.log(4))
    assert table.loc["z0", "direction"] == "positive"
    assert directions(table)["z0"] == [("positive", "C"), ("negative", "")]
    assert directions(table)["z1"] == [("positive", "A"), ("negative", "")]
    programs = model.programs(progress=False)
    assert list(programs["dimension"].unique()) == ["z1", "z3", "z0"]
    assert np.isfinite(programs["error"]).all()


def test_genes_are_the_first_of_the_program(model: samsvae.SAMSVAE) -> None:
    table, programs = model.mechanisms(n_genes=4), model.programs(progress=False)
    for name, row in table.iterrows():
        own = programs[programs["dimension"] == name]
        assert (own["loading"].abs() / own["error"]).is_monotonic_decreasing
        assert row["up"] == own["gene"][own["loading"] > 0].head(4).tolist()
        assert row["down"] == own["gene"][own["loading"] < 0].head(4).tolist()


@pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson", "gaussian"])
def test_errors_of_loadings_by_hand(likelihood: str) -> None:
    """A slope of log2 expression on movements, from the sampling noise of the movers' cells."""
    settings = {"counts": False} if likelihood == "gaussian" else {}
    screen = read(make_adata(), **settings)
    model = samsvae.SAMSVAE(screen, **SMALL, likelihood=likelihood)
    model.train(max_steps=2, progress=False)
    mask, own = model.module.mechanism.mask, model.module.likelihood
    with torch.no_grad():
        mask.logits.fill_(-6.0)
        mask.logits[0, 1] = mask.logits[2, 1] = 6.0
        model.module.mechanism.embedding.loc[:, 1] = torch.tensor([3.0, 9.0, -2.0])
        if likelihood == "negative_binomial":
            own.log_inverse_dispersion += torch.linspace(-2, 2, len(screen.genes))
    table = (
        model.programs(n_particles=2000, progress=False).set_index("gene").loc[list(screen.genes)]
    )
    state = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        hidden = model.module.decoder(state, torch.zeros(20_000, screen.covariates.shape[1]))
    size = float(np.median(screen.train.library_size))
    if likelihood == "negative_binomial":
        mu = size * own.proportions(hidden, panel=False).double().detach().numpy().mean(0)
        theta = own.log_inverse_dispersion.exp().double().detach().numpy()
        variance = (1 / mu + 1 / theta) / np.log(2) ** 2
    elif likelihood == "poisson":
        variance = own.expectation(hidden).double().detach().numpy().mean(0)
    else:
        variance = own.distribution(hidden).variance.double().detach().numpy().mean(0)
    pairs = model.inclusion()
    pairs = pairs[(pairs["dimension"] == "z1") & (pairs["probability"] > 0.9)]
    assert len(pairs) == 2
    information = (pairs["n_train_cells"] * pairs["shift"] ** 2).sum()
    expected = np.sqrt(variance / information + table["mc_se"] ** 2)
    np.testing.assert_allclose(table["error"], expected, rtol=0.03)


def test_the_direction_in_which_genes_rise_is_said(model: samsvae.SAMSVAE) -> None:
    before = model.mechanisms(n_genes=3)
    assert before["direction"].tolist() == ["positive"] * 3
    with torch.no_grad():
        embedding = model.module.mechanism.embedding
        embedding.loc[0, 1], embedding.loc[1, 1] = -3.0, 1.0  # the strongest is negative now
    after = model.mechanisms(n_genes=3)
    assert after.loc["z1", "direction"] == "negative"
    assert directions(after)["z1"] == [("negative", "A"), ("positive", "B")]
    assert directions(after)["z0"] == [("positive", "C"), ("negative", "")]


def test_axes_that_nothing_tells_apart_are_named(model: samsvae.SAMSVAE) -> None:
    mask = model.module.mechanism.mask
    assert isinstance(mask, BernoulliMask)
    with torch.no_grad():
        mask.logits[1, 3], mask.logits[2, 3] = 6.0, -4.0  # z3 as z1: of A and B
    with pytest.warns(UserWarning, match=r"1 groups of dimensions .* \(z1\+z3\)"):
        model.mechanisms()


def test_without_an_open_mask_there_is_no_mechanism(model: samsvae.SAMSVAE) -> None:
    mask = model.module.mechanism.mask
    assert isinstance(mask, BernoulliMask)
    with torch.no_grad():
        mask.logits.fill_(-4.0)
    assert model.mechanisms().empty
    with pytest.raises(samsvae.InputError, match="n_genes"):
        model.mechanisms(n_genes=0)
    other = samsvae.CPAVAE(read(make_adata()), n_latent=3, n_hidden=6)
    with pytest.raises(samsvae.InputError, match="not inferred"):
        other.train(max_steps=1, progress=False).mechanisms()


def test_programs_are_mean_changes_over_basal_states() -> None:
    screen = read(make_adata())
    model = shaken(samsvae.SAMSVAE, screen)
    with torch.no_grad():  # two dimensions in use, moved by one perturbation each
        model.module.mechanism.mask.logits.fill_(-8)
        model.module.mechanism.mask.logits[0, 1] = model.module.mechanism.mask.logits[1, 3] = 8
    table = model.programs(n_particles=4000, progress=False)
    mechanisms = model.mechanisms()
    assert list(table["dimension"].unique()) == list(mechanisms.index)
    assert len(table) == 2 * len(screen.genes)
    own = table[table["dimension"] == "z1"]
    assert (own["loading"].abs() / own["error"]).is_monotonic_decreasing
    shift = mechanisms.loc["z1", "shifts"][0]
    state = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(5))
    moved = []
    for by in (1, 0):
        at = state.clone()
        at[:, 1] += by * shift
        nothing = torch.zeros(20_000, screen.covariates.shape[1])
        with torch.no_grad():
            rho = model.module.likelihood.expectation(model.module.decoder(at, nothing))
        moved.append(rho.double().numpy())
    means = [rho.mean(0) for rho in moved]
    expected = np.log2(means[0] / means[1]) / abs(shift)
    expected -= typical_gene(expected[None]).shift
    influence = (moved[0] / means[0] - moved[1] / means[1]) / (abs(shift) * np.log(2))
    loading = own.set_index("gene")["loading"][list(screen.genes)]
    error = own.set_index("gene")["mc_se"][list(screen.genes)]
    assert (np.abs(loading - expected) < 6 * error + 0.01).all()
    spread = own.set_index("gene")["sd"][list(screen.genes)]
    np.testing.assert_allclose(spread, influence.std(0), rtol=0.1)


def test_programs_are_as_sure_as_the_movement_of_their_dimension() -> None:
    """One perturbation, open for sure, of embedding N(2, 0.5^2): it moves by 1 +- 0.25."""
    screen = read(make_adata())
    model = shaken(samsvae.SAMSVAE, screen, embedding_given_mask=False)
    mechanism = model.module.mechanism
    with torch.no_grad():
        mechanism.mask.logits.fill_(-30)
        mechanism.mask.logits[0, 1] = 30
        mechanism.embedding.loc[0, 1] = -2.0
        mechanism.embedding.log_scale[0, 1] = np.log(0.5)
    table = model.programs(n_particles=3000, progress=False).set_index("gene")
    state = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(5))
    nothing = torch.zeros(20_000, screen.covariates.shape[1])

    def change(step: float) -> np.ndarray:
        moved = []
        for by in (1, 0):
            at = state.clone()
            at[:, 1] -= by * step * 2  # the perturbation moves it down
            with torch.no_grad():
                rho = model.module.likelihood.expectation(model.module.decoder(at, nothing))
            moved.append(rho.double().numpy().mean(0))
        loading = np.log2(moved[0] / moved[1]) / 2
        return loading - typical_gene(loading[None]).shift

    own = table.loc[list(screen.genes)]
    np.testing.assert_allclose(own["loading"], change(1.0), atol=0.05)
    ends = np.sort([change(1 - 1.645 * 0.25), change(1 + 1.645 * 0.25)], axis=0)
    width = (ends[1] - ends[0]).max()
    np.testing.assert_allclose(own["lower"], ends[0], atol=0.1 * width + 0.03)
    np.testing.assert_allclose(own["upper"], ends[1], atol=0.1 * width + 0.03)
    with torch.no_grad():  # open in three draws of four: often it does not move at all
        mechanism.mask.logits[0, 1] = np.log(3)
    table = model.programs(n_particles=50, progress=False)
    assert (np.minimum(table["lower"].abs(), table["upper"].abs()) == 0).all()
