"""Wrong things at every public entrance are told in one line: got, expected, do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from helpers.screens import SMALL, make_adata, read
from samsvae import InputError, Screen, baselines, datasets, export, splits

WRONG: dict[str, Callable[[], Any]] = {
    "a file name": lambda: "screen.h5ad",
    "an AnnData": make_adata,
    "a screen": lambda: read(make_adata()),
    "None": lambda: None,
    "a number": lambda: 3.5,
    "a dict": lambda: {"cell0": "train"},
    "a frame": lambda: pd.DataFrame({"a": [1, 2]}),
    "an array": lambda: np.ones((2, 3)),
    "a list": lambda: [["x"], 3],
    "a set": lambda: {object()},
    "a class": lambda: Screen,
    "a function": lambda: make_adata,
}


def entrances(
    trained: samsvae.SAMSVAE, folder: Path
) -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """Return public functions of one argument, and which of the wrong things are right there."""
    adata, screen = make_adata(), read(make_adata())
    effects = trained.effects(n_particles=4, n_draws=0, progress=False).to_df()
    quick = {"max_steps": 1, "progress": False}
    few = {"n_particles": 4, "n_draws": 0, "progress": False}
    a_screen = ("a screen",)
    found: dict[str, tuple[Callable, tuple[str, ...]]] = {
        "Screen.from_anndata": (Screen.from_anndata, ("an AnnData",)),
        "Screen.open": (Screen.open, ()),
        "Screen.of": (screen.of, ()),
        "Screen.with_split": (screen.with_split, ()),
        "read_h5ad": (samsvae.read_h5ad, ()),
        "counts_from_normalised": (samsvae.counts_from_normalised, ("an AnnData",)),
        "load": (samsvae.load, ()),
        "differential_expression, screen": (samsvae.differential_expression, a_screen),
        "differential_expression": (
            lambda x: samsvae.differential_expression(screen, x),
            ("None",),
        ),
        "ate_pearson": (lambda x: samsvae.ate_pearson(x, screen), ()),
        "ate_pearson, screen": (lambda x: samsvae.ate_pearson(effects, x), a_screen),
        "evaluate": (lambda x: samsvae.evaluate(x, screen, scale="log"), ()),
        "evaluate, screen": (lambda x: samsvae.evaluate(trained, x, scale="log"), a_screen),
        "evaluate, scale": (
            lambda x: samsvae.evaluate(trained, screen, scale=x, n_cells=0, n_halvings=0),
            ("None",),
        ),
        "predictive_check": (lambda x: samsvae.predictive_check(x, screen), ()),
        "predictive_check, screen": (lambda x: samsvae.predictive_check(trained, x), a_screen),
        "recovery": (lambda x: samsvae.recovery(x, screen), ()),
        "recovery, screen": (lambda x: samsvae.recovery(trained, x), ()),
        "stability": (samsvae.stability, ()),
        "pathway_score": (lambda x: samsvae.pathway_score(x, {"A": "x", "B": "y"}), ()),
        "pathway_score, annotation": (lambda x: samsvae.pathway_score(trained, x), ()),
        "cell_eval": (lambda x: export.cell_eval(x, screen, folder / "e"), ()),
        "cell_eval, screen": (lambda x: export.cell_eval(trained, x, folder / "e"), a_screen),
        "cell_eval, folder": (lambda x: export.cell_eval(trained, screen, x), ("a file name",)),
        "simulated_screen": (lambda x: datasets.simulated_screen(n_genes=x), ()),
        "effects": (lambda x: trained.effects(x, **few), ("None",)),
        "effects, n_particles": (lambda x: trained.effects("A", n_particles=x), ()),
        "effects, scale": (lambda x: trained.effects("A", scale=x, **few), ("None",)),
        "iwelbo": (lambda x: trained.iwelbo(x, n_particles=2, progress=False), a_screen),
        "iwelbo, n_particles": (lambda x: trained.iwelbo(screen, n_particles=x), ()),
        "latent": (trained.latent, a_screen),
        "simulate": (trained.simulate, ()),
        "simulate, cells": (lambda x: trained.simulate("A", cells=x), ("a screen", "None")),
        "dose_response": (lambda x: trained.dose_response(x, [1.0]), ()),
        "dose_response, doses": (lambda x: trained.dose_response("A", x), ()),
        "mechanisms": (lambda x: trained.mechanisms(n_genes=x), ()),
        "save": (trained.save, ("a file name",)),
        "train": (lambda x: samsvae.SAMSVAE(screen, **SMALL).train(**quick, batch_size=x), ()),
        "train, device": (lambda x: samsvae.SAMSVAE(screen, **SMALL).train(**quick, device=x), ()),
    }
    for split in (splits.random, splits.stratified, splits.heldout_combinations):
        found[f"splits.{split.__name__}"] = (split, a_screen)
        found[f"splits.{split.__name__}, seed"] = (lambda x, f=split: f(screen, seed=x), ())
    found["splits.data_efficiency"] = (lambda x: splits.data_efficiency(x, fraction=0.5), a_screen)
    for kind in baselines.BASELINES:
        found[kind.__name__] = (kind, a_screen)
        found[f"{kind.__name__}.effects"] = (kind(screen).effects, ("None",))
    for model in (samsvae.SAMSVAE, samsvae.CPAVAE, samsvae.SVAEPlus, samsvae.ConditionalVAE):
        found[model.__name__] = (model, a_screen)
        found[f"{model.__name__}, n_latent"] = (lambda x, m=model: m(screen, n_latent=x), ())
        found[f"{model.__name__}, likelihood"] = (lambda x, m=model: m(screen, likelihood=x), ())
    for key in (
        "perturbation_key",
        "separator",
        "layer",
        "dosage_key",
        "batch_key",
        "split_key",
        "library_size_key",
        "sgrna_key",
        "replicate_key",
        "gene_key",
        "convention",
        "drop_empty_cells",
    ):
        found[f"from_anndata, {key}"] = (
            lambda x, k=key: Screen.from_anndata(adata, **{k: x}),
            ("None", "a dict"),
        )
    return found


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_things_are_input_errors(
    wrong: str, trained: samsvae.SAMSVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = []
    for name, (function, right) in entrances(trained, tmp_path).items():
        if wrong in right:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                function(WRONG[wrong]())
        except InputError as error:
            if "\n" in str(error) or len(str(error)) > 600:
                failed.append(f"{name}: not a line: {error}")
        except Exception as error:  # noqa: BLE001  that is what is looked for
            failed.append(f"{name}: {type(error).__name__}: {error}")
        else:
            failed.append(f"{name}: taken")
    assert not failed, "\n".join(failed)


def test_what_to_do_is_said(trained: samsvae.SAMSVAE) -> None:
    adata = make_adata()
    with pytest.raises(InputError, match=r"^adata is 'x\.h5ad': expected an AnnData; read it with"):
        Screen.from_anndata("x.h5ad")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"^screen is an AnnData: .* take samsvae\.Screen\.from_an"
    ):
        samsvae.SAMSVAE(adata)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"^screen is an AnnData: .* take samsvae\.Screen\.from_an"
    ):
        trained.iwelbo(adata)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^split is a DataFrame: expected a Series or .*columns"):
        read(adata).with_split(adata.obs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no argument of effects: 'n_particle': the nearest is"):
        trained.effects("A", n_particle=3)


def test_a_column_twice() -> None:
    adata: AnnData = make_adata()
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    with pytest.raises(InputError, match=r"adata\.obs has several columns 'perturbation'"):
        Screen.from_anndata(adata)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: samsvae.differential_expression(s, scale="logg"), "no scale 'logg'.*'log'"),
        (lambda s: samsvae.sgrnas(s, scale="Log"), "no scale 'Log'.*'log'"),
        (lambda _: datasets.simulated_screen(decoder="x"), "no decoder 'x': .*'programs'"),
        (lambda s: samsvae.ate_pearson(pd.DataFrame(), s, scale="lgo"), "no scale 'lgo'"),
        (lambda s: samsvae.evaluate([], s, scale="log", basal="contrl"), "'control'"),
    ],
)
def test_a_value_that_is_not_among_the_choices_names_the_nearest(
    call: Callable[[Screen], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(read(make_adata()))
