"""Posterior predictive check: replicates of the observed cells, held against the same effects."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import samsvae
from helpers.models import replicated
from helpers.screens import SMALL, make_adata
from helpers.statistics import errors
from samsvae.data.expression import normalised
from samsvae.estimators import ESTIMATORS

QUICK = {"n_draws": 20, "effect_particles": 300, "progress": False}


def test_observed_is_the_correlation_of_effects_with_the_data(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    check = samsvae.predictive_check(trained, screen.test, **QUICK)
    names = ["A", "A+B", "B", "C"]
    assert list(check.observed.index) == ["(all)", *names]
    assert check.replicated.shape == (20, 5)
    ate = trained.effects(
        names, scale="log", library_size="observed", n_particles=300, n_draws=0, progress=False
    ).to_df()
    de = samsvae.differential_expression(screen.test, names, scale="log")
    expected = scipy.stats.pearsonr(ate.to_numpy().ravel(), de.to_numpy().ravel()).statistic
    assert check.observed["(all)"] == pytest.approx(expected)
    for name in names:
        expected = scipy.stats.pearsonr(ate.loc[name], de.loc[name]).statistic
        assert check.observed[name] == pytest.approx(expected)
    below = (check.replicated < check.observed).mean()
    assert check.percentile.equals(below)
    assert check.replicated.std().min() > 0


def test_same_seed_same_replicates(trained: samsvae.SAMSVAE, screen: samsvae.Screen) -> None:
    tables = [
        samsvae.predictive_check(trained, screen.test, **QUICK, seed=seed).replicated
        for seed in (0, 0, 1)
    ]
    assert tables[0].equals(tables[1])
    assert not np.allclose(tables[0], tables[2])


def test_replicates_keep_what_cells_received_and_their_sizes(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    cells = screen.train
    generator = torch.Generator().manual_seed(0)
    loader = trained.loader(cells)
    drawn = [replicated(trained.module, loader, generator) for _ in range(100)]
    totals = np.array([np.asarray(x.sum(1)).ravel() for x in drawn])
    error = totals.std(0, ddof=1) / 10
    assert np.all(np.abs(totals.mean(0) - cells.library_size) < errors(len(cells)) * error)
    simulated = trained.simulate(["A"], n_cells=4000, library_size="observed", seed=1)
    mine = np.concatenate([normalised(x, "log").toarray()[cells.condition == 1] for x in drawn])
    theirs = normalised(simulated.X, "log").toarray()
    # The replicates of one draw share their globals: count the draws, not the cells.
    by_draw = mine.reshape(100, -1, 12).mean(1)
    spread = np.hypot(by_draw.std(0, ddof=1) / 10, theirs.std(0) / 4000**0.5)
    assert np.all(np.abs(by_draw.mean(0) - theirs.mean(0)) < errors(12) * spread + 0.02)


@pytest.mark.parametrize("kind", ESTIMATORS, ids=[kind.name for kind in ESTIMATORS])
def test_data_of_the_model_itself_are_what_it_expects(kind: type[samsvae.SAMSVAE]) -> None:
    """A replicate taken for the data falls anywhere among the others, not beyond them all."""
    screen = samsvae.Screen.from_anndata(make_adata(n_cells=400), split_key="split")
    names = set(kind.__dataclass_fields__)
    model = kind(screen, **{k: v for k, v in SMALL.items() if k in names})
    model.train(max_steps=150, batch_size=64, learning_rate=0.01, progress=False)
    check = samsvae.predictive_check(model, screen.train, **QUICK)
    assert check.replicated.notna().all(axis=None)
    generator = torch.Generator().manual_seed(99)
    cells = replicated(model.module, model.loader(screen.train), generator)
    adata = screen.train.to_anndata()
    adata.X = cells
    adata = adata[np.asarray(cells.sum(1)).ravel() > 0]
    own = samsvae.Screen.from_anndata(adata)
    again = samsvae.predictive_check(model, own, **QUICK)
    centre, sd = check.replicated["(all)"].mean(), check.replicated["(all)"].std()
    assert abs(again.observed["(all)"] - centre) < errors() * sd


def test_cells_without_control_are_refused(
    trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    for cells in (screen.test[~screen.test.is_control], screen.test.control):
        with pytest.raises(samsvae.InputError, match="control and of at least one"):
            samsvae.predictive_check(trained, cells, **QUICK)
