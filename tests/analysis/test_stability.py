"""How alike models of one screen are: masks and effects."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import jaccard_score

from helpers.masks import over_orders
from helpers.messages import fails
from helpers.models import Kind, Stub, shaken
from helpers.screens import make_adata, read
from samsvae import CPAVAE, ConditionalVAE, stability
from samsvae.estimators import ESTIMATORS
from samsvae.estimators.base import Estimator


@pytest.fixture(scope="module")
def family() -> dict[Kind, list[Estimator]]:
    """Return two models of each kind, of different seeds. Shared: do not change them."""
    screen = read(make_adata())
    return {kind: [shaken(kind, screen, seed=seed) for seed in (0, 1)] for kind in ESTIMATORS}


NAMES = [f"P{i}" for i in range(12)]
GENES = [f"g{i}" for i in range(7)]


def stub(
    seed: int, *, names: list[str] = NAMES, genes: list[str] = GENES, n_latent: int = 4
) -> Stub:
    rng = np.random.default_rng(seed)
    probabilities = pd.DataFrame(rng.random((len(names), n_latent)), names)
    conditions = [*names, "P0+P1"]
    effects = pd.DataFrame(rng.normal(size=(len(conditions), 7)), conditions, genes)
    embedding = pd.DataFrame(rng.normal(size=probabilities.shape), names)
    return Stub(probabilities, effects, embedding=embedding)


def test_a_model_in_another_order_is_the_same_model() -> None:
    first = stub(0)
    rng = np.random.default_rng(5)
    rows, latent = rng.permutation(NAMES), rng.permutation(4)
    table = first.table.loc[rng.permutation(first.table.index), rng.permutation(GENES)]
    assert first.embedding is not None
    sign = rng.choice([-1, 1], 4)
    embedding = first.embedding.loc[rows, latent] * sign
    second = Stub(first.probabilities.loc[rows, latent], table, embedding=embedding)
    result = stability([first, second]).iloc[0]
    assert result[["first", "second"]].tolist() == [0, 1]
    assert result["n_first"] == result["n_second"] == (first.probabilities.to_numpy() > 0.5).sum()
    assert result["mask_jaccard"] == 1 > result["mask_jaccard_chance"] > 0
    assert result["shift_agreement"] == pytest.approx(1)
    assert result["shift_agreement_rotated"] == pytest.approx(1)
    assert result["effect_pearson"] == pytest.approx(1)
    assert result["effect_pearson_median"] == pytest.approx(1)
    third = stub(3)
    for pair, same in (([third, second], [third, first]), ([second, third], [first, third])):
        pd.testing.assert_frame_equal(stability(pair), stability(same))


def test_models_are_compared_over_what_both_have_seen() -> None:
    first, second = stub(0), stub(1, names=[*NAMES[4:], "Q"], n_latent=5)
    second.probabilities.loc["P5"] = np.nan  # never seen in training
    second.table = second.table.drop(index=["P5", "P0+P1"])
    result = stability({"a": first, "b": second}, scale="log", n_particles=9, seed=4)
    row, both = result.iloc[0], ["P4", *NAMES[6:]]
    a, b = (one.probabilities.loc[both].to_numpy() > 0.5 for one in (first, second))
    assert row[["first", "second"]].tolist() == ["a", "b"]
    assert row[["n_first", "n_second"]].tolist() == [a.sum(), b.sum()]
    assert row["mask_jaccard"] == pytest.approx(over_orders(a, b, jaccard_score))
    x, y = (one.table.loc[both].to_numpy() for one in (first, second))
    assert row["effect_pearson"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1])
    own = [np.corrcoef(*pair)[0, 1] for pair in zip(x, y, strict=True)]
    assert row["effect_pearson_median"] == pytest.approx(np.median(own))
    expected = {"scale": "log", "n_particles": 9, "n_draws": 0, "seed": 4, "progress": True}
    assert first.asked == second.asked == [expected]


def test_conditions_are_compared_once_each_and_control_is_not() -> None:
    models = [stub(0), stub(1)]
    once = stability(models, conditions=["P0+P1", "P3"])
    more = stability(models, conditions=["control", "P1+P0", "P3", "P0+P1"])
    pd.testing.assert_frame_equal(once, more)
    x, y = (one.table.loc[["P0+P1", "P3"]].to_numpy().ravel() for one in models)
    assert once["effect_pearson"][0] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_every_pair_of_models_has_a_row() -> None:
    models = [stub(seed) for seed in range(4)]
    result = stability(models)
    pairs = result[["first", "second"]].to_numpy().tolist()
    assert pairs == [[i, j] for i in range(4) for j in range(i + 1, 4)]
    pair = stability([models[1], models[3]])
    pd.testing.assert_series_equal(pair.iloc[0, 2:], result.iloc[4, 2:], check_names=False)


def test_chance_permutes_perturbations() -> None:
    first, second = stub(0), stub(1)
    for one in (first, second):  # the same mask for all of them: no order can matter
        one.probabilities[:] = one.probabilities.iloc[0].to_numpy()
    row = stability([first, second]).iloc[0]
    assert row["mask_jaccard_chance"] == pytest.approx(row["mask_jaccard"])
    many = [f"P{i}" for i in range(200)]
    independent = stability([stub(0, names=many), stub(1, names=many)]).iloc[0]
    assert independent["mask_jaccard_chance"] == pytest.approx(
        independent["mask_jaccard"], abs=0.03
    )
    lone = stability([stub(2, names=["P0"]), stub(3, names=["P0"])]).iloc[0]
    assert lone["mask_jaccard_chance"] == lone["mask_jaccard"]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_stability_of_the_family(family: dict[Kind, list[Estimator]], kind: Kind) -> None:
    models = family[kind]
    options = {"n_particles": 20, "seed": 2, "progress": False}
    row = stability(models, **options).iloc[0]
    x, y = (model.effects(n_draws=0, **options).X for model in models)
    assert row["effect_pearson"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], rel=1e-4)
    if kind is ConditionalVAE:
        assert row.filter(regex="^n_|mask").isna().all()
        return
    a, b = (model.mask_probabilities().to_numpy() > 0.5 for model in models)
    assert row[["n_first", "n_second"]].tolist() == [a.sum(), b.sum()]
    assert row["mask_jaccard"] == pytest.approx(over_orders(a, b, jaccard_score))
    if kind is CPAVAE:
        assert row["mask_jaccard"] == row["mask_jaccard_chance"] == 1


def test_what_cannot_be_compared() -> None:
    first, ask = stub(0), stability
    fails(lambda: ask([first]), "^got 1 models to compare, expected at least two: train another")
    fails(lambda: ask({}), "^got 0 models to compare")
    other = stub(1)
    other.is_trained = False
    fails(lambda: ask({"a": first, "b": other}), "^model 'b' is not trained: call train first")
    genes = stub(1, genes=[*GENES[1:], "h"])
    fails(
        lambda: ask([first, stub(2), genes]), r"^models 0 and 2 have .* genes \(7 and 7, 6 in comm"
    )
    scaled = stub(1)
    scaled.scale = "mean"
    fails(
        lambda: ask([first, scaled]), r"^the models' effects .* scales \(mean, normalized\): give a"
    )
    apart = stub(1, names=["Q", "R"])
    apart.table = apart.table.drop(index="P0+P1")
    fails(lambda: ask([first, apart]), "^models 0 and 1 have no condition in common: expected")


class Located(Stub):
    """A model that says where cells lie."""

    states: np.ndarray

    def latent(self, screen: object, *, seed: int = 0) -> dict[str, np.ndarray]:
        return {"state": self.states}


def test_states_are_compared_axis_by_axis_and_rotated() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 3)) * [1.0, 1.3, 0.9]
    unused = 1e-3 * rng.normal(size=(400, 1))
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    first, permuted, turned = (
        Located(made.probabilities, made.table, embedding=made.embedding)
        for made in (stub(seed) for seed in range(3))
    )
    first.states = np.hstack([states, unused])
    permuted.states = np.hstack([unused, -states[:, [2, 0, 1]] + 5])
    turned.states = states @ q
    screen = read(make_adata())
    table = stability([first, permuted, turned], screen=screen)
    same, other = table.iloc[0], table.iloc[1]
    assert same["state_agreement"] == pytest.approx(1)
    assert same["state_agreement_rotated"] == pytest.approx(1)
    by_hand = np.abs(np.corrcoef(states.T, (states @ q).T)[:3, 3:])
    orders = permutations(range(3))
    best = max(by_hand[list(order), range(3)].mean() for order in orders)
    assert other["state_agreement"] == pytest.approx(best)
    assert other["state_agreement"] < 0.95
    assert other["state_agreement_rotated"] == pytest.approx(1)
    assert "state_agreement" not in stability([first, permuted])
