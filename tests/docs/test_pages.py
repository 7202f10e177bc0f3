"""The code of every page of the documentation runs (make test-docs)."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.pages import PAGES, PYTHON, blocks, demo_folder, run

DOCS = [page for page in PAGES if blocks("python", page)]
COMMANDS = [page for page in PAGES if blocks("sh", page)]

CHECKS = {
    "index": "assert effects.shape == (2, len(screen.genes))",
    "family": "assert model.mask_probabilities().shape[1] == 20",
    "large": "assert not screen.is_in_memory and model.is_trained",
    "contexts": """
assert set(differences["context"]) == {"RPE1"}
assert effects.uns["context"] == "RPE1"
assert set(table["context"]) == {"RPE1"} and len(sure) <= len(table)
""",
    "interactions": """
assert set(pairs.columns) >= {"pair", "mechanism", "probability", "shift"}
assert set(table["condition"]) == set(pairs["pair"])
""",
    "combinations": """
assert list(table.columns[2:6]) == ["predicted", "mc_se", "additive", "deviation"]
assert np.allclose(table["deviation"], table["predicted"] - table["additive"])
assert not set(held.train.conditions) & set(held.test.conditions)
assert set(pooled["predictor"]) == {"sams-vae", "additive", "technical replicate"}
""",
    "gallery": """
drawn = {path.stem for path in Path('.').glob('*.png')}
assert sorted(set(plotting.__all__) - drawn) == []
""",
    "interop": """
assert {"X_samsvae", "X_samsvae_basal"} <= set(adata.obsm)
assert list(space.obs_names)[:2] == ["control", "G01"]
assert Path("runs/cells/cells.h5ad").is_file()
""",
    "settings": "assert model.n_latent == 100 and model.is_trained",
    "how-many-cells": "assert len(plan) == 2 and (plan['n_cells'] > 1).all()",
    "worked": "assert {'title', 'is_serious'} <= set(cautions) and len(table)",
    "coming-from": "assert states['state'].shape == (len(screen.test), 20)",
    "mechanisms": """
assert {"mask_jaccard", "mask_jaccard_chance"} <= set(agreement)
assert (pairs["shift"].notna()).all()
assert set(programs["dimension"]) == set(mechanisms.index)
""",
    "faq": """
assert tuple(effects.var_names) == tuple(screen.genes)
assert list(effects.obs_names) == ["G02+G01", "G01"]
assert list(effects.obs["condition"]) == ["G01+G02", "G01"]
assert "G99" in str(said)
assert would.n_obs == 2 * len(new)
# An effect is the difference of means of log2(1 + 1e4 x / sum x) of simulated cells.
cells = model.simulate(["G01", "control"], n_cells=4000, library_size=1e4)
x = cells.X.toarray()
values = np.log2(1 + 1e4 * x / x.sum(1, keepdims=True))
of = cells.obs["condition"].to_numpy()
found = values[of == "G01"].mean(0) - values[of == "control"].mean(0)
assert np.abs(found - table.loc["G01"].to_numpy()).max() < 0.3
""",
    "unmeasured": """
assert list(effects.obs["n_train_cells"]) == [0, 0]
assert effects.obs["support"].between(0, 1).all()
assert len(choice) == 2
""",
    "plots": "assert len(list(Path('runs/figures').glob('*.png'))) == 6",
    "report": "assert path.is_file() and 'G01+G02' in path.read_text()",
    "discoveries": "assert (table['q_value'] < 0.05).any()",
    "situations": """
assert {"title", "text", "is_serious", "conditions"} == set(cautions)
assert cleaned.attrs["contamination"] == 0.05 and table.attrs["contamination"] == 0
""",
    "sgrnas": "assert screen.conditions == ('control', 'A', 'B', 'C')",
    "data": "assert (screen.counts.toarray() == x).all()",
    "evaluation": """
scores = pooled[pooled["split"] == "test"].set_index(["predictor", "metric"])["value"].sort_index()
assert {"sams-vae", "condition-mean", "technical replicate"} <= set(table["predictor"])
assert scores["condition-mean", "rmse"] < scores["no-change", "rmse"]
assert scores["sams-vae", "iwelbo"] < 0
""",
    "extending": """
mask = model.module.mechanism.mask
assert type(mask) is EmpiricalMask
moved = mask.prior_logits.detach() - torch.tensor(0.1).logit()
assert (moved.abs() > 1e-3).all()  # the prior is learned
table = model.inclusion()
prior = mask.prior_logits.detach().sigmoid().double().numpy()
dimensions = [int(name[1:]) for name in table["dimension"]]
assert np.allclose(table["prior"], prior[dimensions], rtol=1e-5)
laplace = samsvae.CPAVAE(features, n_latent=5, n_hidden=16, likelihood="laplace")
laplace.train(max_steps=200, progress=False)
assert laplace.history["valid_elbo"].iloc[-1] > laplace.history["valid_elbo"].iloc[0]
assert laplace.effects(["G01"], progress=False).uns["scale"] == "mean"
""",
}
"""What holds after the code of a page has run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_folder(tmp_path_factory.mktemp("docs"))


@pytest.mark.slow
@pytest.mark.parametrize("page", DOCS, ids=[page.stem for page in DOCS])
def test_docs(page: Path, folder: Path) -> None:
    ready = "import numpy as np\nfrom pathlib import Path"
    code = "\n".join([*blocks("python", page), ready, CHECKS[page.stem]])
    run([*PYTHON, "-c", code], folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", COMMANDS, ids=[page.stem for page in COMMANDS])
def test_docs_commands(page: Path, folder: Path) -> None:
    for code in blocks("sh", page):
        run(["bash", "-e", "-c", code], folder)
