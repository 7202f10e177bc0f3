"""Cells whose sgRNAs are uncertain: kept, with the posterior of presence as a prior."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import samsvae
from helpers.sgrna_files import SGRNAS, Sequenced, sequenced
from samsvae import InputError, Screen
from samsvae.data.alignment import align_screen
from samsvae.data.loader import Loader
from samsvae.runs.run import write_experiment_data

QUIET = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cells() -> Sequenced:
    return sequenced(n_cells=480)


def counted(cells: Sequenced) -> AnnData:
    adata = cells.genes.copy()
    adata.obsm["guides"] = pd.DataFrame(cells.counts, adata.obs_names, list(SGRNAS))
    return adata


def weak(cells: Sequenced) -> Sequenced:
    """Return cells with signals of any size, of which the last ten have few counts, of two."""
    rng = np.random.default_rng(0)
    scale = rng.gamma(1.5, 1 / 1.5, cells.counts.shape)
    counts = np.where(cells.counts >= 10, np.rint(cells.counts * scale), cells.counts).astype(int)
    counts[-10:] = 0
    counts[-10:, [SGRNAS.index("Cg1"), SGRNAS.index("Bg2")]] = 3
    return cells._replace(counts=counts)


@QUIET
def test_uncertain_cells_are_kept_and_sure_doublets_are_not(cells: Sequenced) -> None:
    screen = Screen.from_anndata(counted(weak(cells)), uncertain_sgrnas=True)
    plain = Screen.from_anndata(counted(weak(cells)))
    sure = screen.cells.isin(plain.cells)
    kept = screen[sure]
    assert kept.absence.nnz == 0  # what the rule finds is certain
    np.testing.assert_array_equal(kept.dosage.toarray(), plain.dosage.toarray())
    is_two = np.asarray((screen.sgrna_assignment.posterior > 0.95).sum(1)).ravel() > 1
    doublets = cells.genes.obs_names[is_two & ~screen.sgrna_assignment.has_one]
    assert len(doublets) > 20
    assert not screen.cells.isin(doublets).any()
    # Those with few counts of two: either may be there, or both.
    others = screen[screen.cells.isin(cells.genes.obs_names[-10:])]
    assert len(others) == 10
    assert others.conditions == ("B+C",)
    posterior = screen.sgrna_assignment.posterior[-10:].toarray()
    b, c = (screen.perturbations.index(name) for name in "BC")
    presence = 1 - others.absence.toarray()
    np.testing.assert_allclose(presence[:, b], posterior[:, SGRNAS.index("Bg2")])
    np.testing.assert_allclose(presence[:, c], posterior[:, SGRNAS.index("Cg1")])
    assert ((presence > 0.05) & (presence < 1)).all(0)[[b, c]].any()
    assert others.sgrna.isna().all()
    combined = Screen.from_anndata(
        counted(weak(cells)), uncertain_sgrnas=True, several_sgrnas="combine"
    )
    assert combined.cells.isin(doublets).sum() > 20


@QUIET
def test_presence_goes_with_its_perturbation(cells: Sequenced) -> None:
    screen = Screen.from_anndata(counted(weak(cells)), uncertain_sgrnas=True)
    names = ("A", "AA", "B", "C")
    registry = screen.registry
    wider = align_screen(screen, type(registry)(**{**vars_of(registry), "perturbations": names}))
    assert wider.absence.shape[1] == 4
    for name in screen.perturbations:
        columns = screen.perturbations.index(name), names.index(name)
        own, moved = (
            x.absence.toarray()[:, i] for x, i in zip((screen, wider), columns, strict=True)
        )
        np.testing.assert_array_equal(own, moved)
    for one in (screen, wider):
        dosage = Loader(one, sgrnas=()).batch(slice(None)).dosage
        column = dosage.columns[dosage.position].numpy()
        for cell, slot in np.ndindex(*column.shape):
            expected = 1.0
            if dosage.dose[cell, slot] != 0:
                expected = 1 - one.absence[cell, column[cell, slot]]
            assert dosage.presence[cell, slot] == pytest.approx(expected, abs=1e-6)
    assert Loader(screen).batch(slice(None)).dosage.presence is None
    assert screen.digest != Screen.from_anndata(counted(weak(cells))).digest


def vars_of(registry: object) -> dict[str, object]:
    return {name: getattr(registry, name) for name in registry.__dataclass_fields__}


@QUIET
def test_models_that_cannot_weigh_them_refuse(cells: Sequenced, tmp_path) -> None:
    screen = Screen.from_anndata(counted(weak(cells)), uncertain_sgrnas=True, split_key="split")
    sizes = {"n_latent": 3, "n_hidden": 6}
    for kind in (samsvae.SAMSVAE, samsvae.SVAEPlus):
        with pytest.raises(InputError, match="uncertain sgRNAs: give learn_responders=True"):
            kind(screen, **sizes)
    with pytest.raises(InputError, match="several models does not keep"):
        write_experiment_data(tmp_path, screen)
    model = samsvae.SAMSVAE(screen, **sizes, learn_responders=True)
    model.train(max_steps=4, progress=False)
    table = model.responders(screen, progress=False).cells.set_index("cell")
    uncertain = table.loc[cells.genes.obs_names[-10:]]
    assert len(uncertain) == 20  # two rows each
    assert (uncertain["probability"] < table["probability"].median()).mean() > 0.4


@QUIET
def test_without_uncertain_cells_nothing_changes() -> None:
    counts = np.eye(8)[np.arange(240) % 8] * 50
    adata = counted(sequenced()._replace(counts=counts))
    plain, kept = (Screen.from_anndata(adata, uncertain_sgrnas=u) for u in (False, True))
    assert kept.absence is None
    assert kept.digest == plain.digest
