"""Questions to a trained model that it cannot answer, labels of its answers, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import samsvae
from helpers.screens import SMALL, make_adata

Answer = Callable[..., object]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.effects("Z"), "no perturbation 'Z'"),
        (lambda m: m.effects("A+A"), "twice"),
        (lambda m: m.effects("A+"), "empty part"),
        (lambda m: m.effects([]), "no conditions"),
        (
            lambda m: m.effects("A", scale="lgo"),
            "no scale 'lgo': the nearest is 'log'",
        ),
        (lambda m: m.effects("A", library_size=0), "library_size"),
        (lambda m: m.effects("A", library_size="observd"), "the nearest is 'observed'"),
        (lambda m: m.effects("A", n_particles=1), "n_particles is 1"),
        (lambda m: m.effects("A", n_draws=-1), "n_draws is -1"),
        (lambda m: m.simulate("A", n_cells=0), "n_cells is 0"),
        (lambda m: m.simulate("A", library_size=-1.0), "library_size"),
    ],
)
def test_bad_questions_get_one_clear_line(
    trained: samsvae.SAMSVAE, ask: Answer, message: str
) -> None:
    with pytest.raises(samsvae.InputError, match=message) as error:
        ask(trained)
    assert "\n" not in str(error.value)


def test_an_untrained_model_says_so(screen: samsvae.Screen) -> None:
    with pytest.raises(samsvae.InputError, match="not trained: call train"):
        samsvae.SAMSVAE(screen, **SMALL).effects("A")


def unseen_in_training() -> samsvae.Screen:
    """Return a screen whose perturbation C occurs in test cells alone."""
    adata = make_adata()
    adata.obs.loc[adata.obs["perturbation"] == "C", "split"] = "test"
    return samsvae.Screen.from_anndata(adata, split_key="split")


def test_a_perturbation_never_seen_in_training_is_named() -> None:
    screen = unseen_in_training()
    with pytest.warns(match="^perturbations that only validation or test cells have: 'C'"):
        model = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=2, progress=False)
    for ask in (
        lambda: model.effects("A+C"),
        lambda: model.simulate("C"),
        lambda: model.iwelbo(screen.test),
    ):
        with pytest.raises(samsvae.InputError, match="never seen in training: 'C'"):
            ask()
    assert model.mask_probabilities().loc["C"].isna().all()
    assert model.embeddings().loc[["A", "B"]].notna().all(axis=None)
    assert list(model.effects(n_particles=10, progress=False).obs_names) == ["A", "A+B", "B"]


def test_masks_and_embeddings_are_labelled(trained: samsvae.SAMSVAE) -> None:
    for table in (trained.mask_probabilities(), trained.embeddings()):
        assert isinstance(table, pd.DataFrame)
        assert list(table.index) == ["A", "B", "C"]
        assert list(table.columns) == ["z0", "z1", "z2", "z3"]
    assert trained.mask_probabilities().to_numpy().min() > 0


@pytest.mark.parametrize("embedding_given_mask", [True, False])
@pytest.mark.parametrize("basal_given_shift", [True, False])
def test_every_posterior_family_trains_and_answers(
    screen: samsvae.Screen, embedding_given_mask: bool, basal_given_shift: bool
) -> None:
    options = {"embedding_given_mask": embedding_given_mask, "basal_given_shift": basal_given_shift}
    model = samsvae.SAMSVAE(screen, **SMALL, **options).train(
        max_steps=200, batch_size=64, n_particles=2, validate_every=50, progress=False
    )
    assert model.history["valid_elbo"].iloc[-1] > model.history["valid_elbo"].iloc[0]
    assert np.isfinite(model.iwelbo(screen.test, n_particles=5, progress=False)).all(axis=None)
    assert np.isfinite(model.effects(n_particles=50, n_draws=3, progress=False).X).all()
    assert repr(model).startswith("SAMSVAE(n_latent=4")


def test_control_states_are_saved_and_keep_their_batches(tmp_path: Path) -> None:
    screen = samsvae.Screen.from_anndata(make_adata(), split_key="split", batch_key="batch")
    model = samsvae.SAMSVAE(screen, **SMALL).train(max_steps=5, progress=False)
    control = screen.train.control
    assert torch.equal(model.control_basal.covariates.argmax(1), torch.from_numpy(control.batch))
    model.save(tmp_path)
    options: dict[str, Any] = {"n_particles": 30, "n_draws": 4, "progress": False}
    ours, theirs = (
        x.effects(["A"], basal="control", **options) for x in (model, samsvae.load(tmp_path))
    )
    np.testing.assert_array_equal(ours.X, theirs.X)
    one = model.effects(["A"], basal="control", batch="one", **options)
    assert not np.array_equal(one.X, ours.X)
    with pytest.raises(samsvae.InputError, match=r"basal 'controls'.*'control'"):
        model.effects(["A"], basal="controls", progress=False)  # type: ignore[arg-type]


# New data without control cells


def test_cells_without_control_are_scored(trained: samsvae.SAMSVAE) -> None:
    """Differences from control need control cells; what a cell is likely to show does not."""
    adata = make_adata()
    whole = samsvae.Screen.from_anndata(adata)
    perturbed = adata[adata.obs["perturbation"] != "control"].copy()
    with pytest.warns(
        match="^no cell is control, so a trained model can score .* give the label of cells without"
    ):
        new = samsvae.Screen.from_anndata(perturbed)
    assert not new.is_control.any()
    own = whole[~whole.is_control]
    given = {"n_particles": 3, "progress": False}
    for name in ("iwelbo", "mc_se"):
        theirs = trained.iwelbo(own, **given)[name]
        np.testing.assert_array_equal(trained.iwelbo(new, **given)[name], theirs)
    np.testing.assert_array_equal(trained.latent(new)["state"], trained.latent(own)["state"])
    drawn = trained.simulate("A", cells=new)
    assert list(drawn.obs["cell"]) == list(new.cells)
    ask = [
        lambda: samsvae.differential_expression(new),
        lambda: samsvae.evaluate(trained, split_of(new), scale="log"),
        lambda: samsvae.SAMSVAE(split_of(new), **SMALL),
    ]
    for one in ask:
        with pytest.raises(samsvae.InputError, match="no control cells"):
            one()


def split_of(screen: samsvae.Screen) -> samsvae.Screen:
    return screen.with_split(samsvae.splits.stratified(screen))
