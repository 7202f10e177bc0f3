"""Which cells respond: training, the tables, saving, and screens that know their sgRNAs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import samsvae
from helpers.models import replicated
from helpers.screens import SMALL, half_dead, make_adata, read
from samsvae import CPAVAE, SAMSVAE, InputError, Screen, SVAEPlus
from samsvae.estimators import saving
from samsvae.estimators.base import Estimator
from samsvae.model.mechanism import Responding
from samsvae.storage import tensors

TRAINING: dict[str, Any] = {
    "max_steps": 300,
    "batch_size": 128,
    "learning_rate": 0.01,
    "progress": False,
}
QUICK = TRAINING | {"max_steps": 6, "checkpoint_every": 3, "validate_every": 3}


@pytest.fixture(scope="module")
def model() -> Estimator:
    return CPAVAE(half_dead(), n_latent=4, n_hidden=16, learn_responders=True).train(**TRAINING)


def test_a_dead_sgrna_is_told_from_one_that_works(model: Estimator) -> None:
    found = model.responders(half_dead(), progress=False)
    rates = found.rates.set_index("sgrna")
    assert rates["rate"]["Ag1"] > 0.9
    assert rates["rate"]["Ag2"] < 0.15
    assert rates["upper"]["Ag2"] < rates["lower"]["Ag1"]
    assert rates["log_bayes_factor"]["Ag1"] > 50
    assert rates["log_bayes_factor"]["Ag2"] < 3
    pooled = found.rates[found.rates["sgrna"] == "(all)"].set_index("perturbation")
    assert list(pooled.index) == ["A", "B", "C"]
    assert pooled["rate"]["A"] == pytest.approx(0.5, abs=0.1)
    informative = found.rates[found.rates["informative"]]
    assert {"Ag1", "Ag2"} <= set(informative["sgrna"])
    assert (informative["lower"] <= informative["rate"]).all()
    assert (informative["rate"] <= informative["upper"]).all()
    probability = found.cells.groupby("sgrna", observed=True)["probability"].mean()
    assert probability["Ag1"] > 0.9
    assert probability["Ag2"] < 0.1


def test_the_share_of_responders_of_an_inert_target_is_not_informative() -> None:
    """With the mask closed a cell's likelihood is the same, whether it responds or not."""
    screen = half_dead()
    model = SAMSVAE(screen, n_latent=4, n_hidden=16, learn_responders=True)
    model.train(**TRAINING | {"alignment": "none"})
    with torch.no_grad():
        mechanism = model.module.mechanism
        assert isinstance(mechanism, Responding)
        mask: Any = mechanism.inner.mask
        row = list(model.encoding.columns).index("B")
        mask.logits[row] = -60.0
    rates = model.responders(screen, progress=False).rates.set_index(["perturbation", "sgrna"])
    own = rates.loc[["B"]]
    assert not own["informative"].any()
    assert own[["rate", "lower", "upper"]].isna().all(axis=None)
    assert own["log_bayes_factor"].abs().max() < 0.5
    assert rates.loc[[("A", "(all)"), ("A", "Ag1"), ("A", "Ag2")], "informative"].all()
    assert rates.loc[("A", "Ag2"), "upper"] < 0.3


def test_the_table_of_cells_is_labelled(model: Estimator) -> None:
    screen = half_dead()
    cells = model.responders(screen, progress=False).cells
    perturbed = screen[~screen.is_control]
    assert list(cells.columns) == [
        *("cell", "condition", "perturbation", "sgrna", "log_odds", "probability")
    ]
    assert list(cells["cell"]) == list(perturbed.cells)
    assert list(cells["sgrna"].astype(str)) == list(perturbed.sgrna.astype(str))
    expected = [perturbed.condition_names[i] for i in perturbed.condition]
    assert list(cells["perturbation"].astype(str)) == expected
    again = model.responders(screen[::-1], progress=False, seed=0).cells
    assert list(again["cell"]) == list(perturbed.cells[::-1])


def test_probabilities_are_bayes_rule_with_the_updated_rates(model: Estimator) -> None:
    cells = model.responders(half_dead(), progress=False).cells
    mechanism = model.module.mechanism
    assert isinstance(mechanism, Responding)
    logits = mechanism.logits.detach().numpy()[3:]
    own = {name: logit for (name, _), logit in zip(model.metadata.sgrnas, logits, strict=True)}
    prior = np.array([own[name] for name in cells["sgrna"]])
    expected = 1 / (1 + np.exp(-(cells["log_odds"] + prior)))
    np.testing.assert_allclose(cells["probability"], expected, atol=1e-6)


def test_cells_of_unknown_sgrnas_respond_as_their_perturbation_does(model: Estimator) -> None:
    screen = half_dead()
    renamed = Screen(**{**vars(screen), "sgrna": pd.Categorical(["new"] * len(screen))})
    found = model.responders(renamed, progress=False)
    assert set(found.rates["sgrna"]) == {"(all)"}
    without = Screen(**{**vars(screen), "sgrna": None})
    plain = model.responders(without, progress=False)
    assert "sgrna" not in plain.cells.columns
    np.testing.assert_allclose(plain.cells["probability"], found.cells["probability"])


def test_effects_are_those_of_cells_that_respond(model: Estimator) -> None:
    """Of all cells, gene 2 would rise by half as much."""
    asked: dict[str, Any] = {"scale": "normalized", "n_particles": 500, "n_draws": 0}
    screen = half_dead()
    learned = model.effects(["A"], progress=False, **asked).to_df()["g2"]["A"]
    whole = samsvae.differential_expression(screen, ["A"], scale="normalized")["g2"]["A"]
    live = screen[np.asarray((screen.sgrna == "Ag1") | screen.is_control)]
    right = samsvae.differential_expression(live, ["A"], scale="normalized")["g2"]["A"]
    assert whole < 0.6 * right
    assert learned > 1.3 * whole
    assert learned == pytest.approx(right, rel=0.3)


def test_states_of_cells_that_do_not_respond_are_not_shifted(model: Estimator) -> None:
    screen = half_dead()
    found = model.latent(screen)
    shift = np.linalg.norm(found["state"] - found["basal"], axis=1)
    assert shift[screen.is_control].max() < 1e-5
    dead, live = (np.asarray(screen.sgrna == name) for name in ("Ag2", "Ag1"))
    assert shift[dead].mean() < 0.2 * shift[live].mean()


def test_cells_are_drawn_as_they_respond(model: Estimator) -> None:
    screen = half_dead()
    drawn = replicated(model.module, model.loader(screen), torch.Generator().manual_seed(0))
    means = {name: drawn[np.asarray(screen.sgrna == name)].mean(0)[0, 2] for name in ("Ag1", "Ag2")}
    assert means["Ag1"] > 2 * means["Ag2"]


@pytest.mark.parametrize("kind", [SAMSVAE, CPAVAE])
def test_saving_and_resuming_give_the_same_numbers(kind: type[Estimator], tmp_path: Path) -> None:
    screen, sizes = half_dead(n_cells=240), SMALL if kind is SAMSVAE else {"n_latent": 4}
    whole = kind(screen, learn_responders=True, **sizes).train(**QUICK)
    whole.save(tmp_path)
    loaded = samsvae.load(tmp_path)
    assert loaded.metadata.sgrnas == whole.metadata.sgrnas
    first, second = (m.responders(screen, progress=False) for m in (whole, loaded))
    pd.testing.assert_frame_equal(first.rates, second.rates)
    pd.testing.assert_frame_equal(first.cells, second.cells)
    state = {"checkpoint": tmp_path / "c.safetensors"}
    half = kind(screen, learn_responders=True, **sizes)
    half.train(**QUICK | {"max_steps": 3} | state)
    is_aligned = kind is SAMSVAE  # in a run of another length, at another step
    with pytest.warns(UserWarning, match="aligned after") if is_aligned else nullcontext():
        half.train(**QUICK | state, resume=True)
    assert "response" in half.history
    if not is_aligned:
        for name, value in whole.module.state_dict().items():
            torch.testing.assert_close(half.module.state_dict()[name], value, msg=name)


def test_checkpoints_of_before_there_was_a_choice_go_on(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    model = CPAVAE(half_dead(n_cells=240), n_latent=4)
    model.train(**QUICK | {"max_steps": 3}, checkpoint=path)
    _, header = tensors.read(path)
    assert "learn_responders" not in header["model"]
    learned = CPAVAE(half_dead(n_cells=240), n_latent=4, learn_responders=True)
    with pytest.raises(InputError, match="another model"):
        learned.train(**QUICK, checkpoint=path, resume=True)


def test_pairs_are_looked_at_one_by_one() -> None:
    screen = read(make_adata())
    model = CPAVAE(screen, n_latent=3, n_hidden=8, learn_responders=True).train(**QUICK)
    found = model.responders(screen, progress=False)
    n = np.diff(screen.dosage.indptr)
    assert n.max() == 2
    assert len(found.cells) == n.sum()
    assert (found.cells["cell"].value_counts()[screen.cells[n > 0]] == n[n > 0]).all()
    per_perturbation = found.rates.set_index("perturbation")["n_cells"]
    np.testing.assert_array_equal(per_perturbation, screen.cells_per_perturbation)


def test_what_it_refuses(model: Estimator) -> None:
    screen = half_dead(n_cells=240)
    with pytest.raises(InputError, match="learn_responders=True"):
        CPAVAE(screen, n_latent=3, n_hidden=8).train(**QUICK).responders(screen)
    with pytest.raises(InputError, match="not trained"):
        CPAVAE(screen, n_latent=3, learn_responders=True).responders(screen)
    with pytest.raises(InputError, match="learn_responders is 'some': expected True or False"):
        CPAVAE(screen, learn_responders="some")
    with pytest.raises(TypeError):
        SVAEPlus(screen, learn_responders=True)
    four = make_adata(labels=("control", "A", "B", "C", "D", "A+B+C+D"))
    with pytest.raises(InputError, match=r"a cell has 4 perturbations: .* at most 3"):
        CPAVAE(read(four), learn_responders=True)


@pytest.mark.parametrize("kind", [SAMSVAE, CPAVAE])
def test_the_former_name_of_the_setting_is_understood(kind: type[Estimator]) -> None:
    screen = half_dead(n_cells=240)
    with pytest.warns(DeprecationWarning, match=r"response='learned' is now learn_responders=True"):
        assert kind(screen, n_latent=3, response="learned").learn_responders
    with pytest.warns(DeprecationWarning, match=r"response='all' is now learn_responders=False"):
        assert not kind(screen, n_latent=3, response="all").learn_responders


def test_models_that_earlier_versions_saved_are_read(tmp_path: Path) -> None:
    """Parameters of responders and of dose curves had other names."""
    screen = half_dead(n_cells=240)
    model = CPAVAE(screen, n_latent=3, learn_responders=True, saturating_dose=True).train(**QUICK)
    model.save(tmp_path / "model")
    rewritten(tmp_path / "model")
    again = samsvae.load(tmp_path / "model")
    assert again.learn_responders
    for name, value in model.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name


def rewritten(folder: Path) -> None:
    """Rewrite a saved model as earlier versions wrote it."""
    header = json.loads((folder / saving.NAMES).read_text())
    parts, _ = tensors.read(folder / saving.TENSORS)
    former = {
        name.replace("mechanism.logits", "mechanism.responders.logits")
        .replace("mechanism.inner.", "mechanism.")
        .replace("mechanism.dose_response.", "mechanism.response."): value
        for name, value in parts.items()
    }
    assert former.keys() != parts.keys()
    del header["digest"]
    del header["hyperparameters"]["learn_responders"]
    header["hyperparameters"]["response"] = "learned"
    header["digest"] = tensors.digest(former, header)
    (folder / saving.NAMES).write_text(json.dumps(header))
    (folder / saving.TENSORS).write_bytes(tensors.to_bytes(former, {}))


def test_simulated_screens_tell_what_acts() -> None:
    sizes = {"n_perturbations": 4, "n_combinations": 2, "n_genes": 30}
    plain = samsvae.datasets.simulated_screen(**sizes)
    assert plain.truth.response is None
    assert (plain.responds != plain.dosage).nnz == 0
    screen = samsvae.datasets.simulated_screen(response_prob=(0.2, 0.6), n_sgrnas=2, **sizes)
    response = screen.truth.response
    assert response is not None
    assert list(response.index[:3]) == ["G01g1", "G01g2", "G02g1"]
    assert response.between(0.2, 0.6).all()
    assert screen.sgrna is not None
    for name in ("G01g1", "G03g2"):
        own = np.asarray(screen.sgrna == name) & (np.diff(screen.dosage.indptr) == 1)
        share = screen.responds[own].sum() / own.sum()
        assert share == pytest.approx(response[name], abs=4 * np.sqrt(0.25 / own.sum()))
    none = samsvae.datasets.simulated_screen(response_prob=0.0, **sizes)
    assert none.responds.nnz == 0
    assert none.dosage.nnz == plain.dosage.nnz
    with pytest.raises(InputError, match="smaller number first"):
        samsvae.datasets.simulated_screen(response_prob=(0.6, 0.2))
