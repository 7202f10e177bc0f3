"""Paths that begin with "~", or hold a variable, wherever a path is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import samsvae
from helpers.screens import make_adata
from samsvae.analysis.gene_sets import read_gmt
from samsvae.reproduce.tables import read_groups, read_published
from samsvae.settings.fields import read_toml
from samsvae.storage import tensors
from samsvae.storage.directory import Directory
from samsvae.storage.files import check_new_file, read_json, write_json
from samsvae.storage.tables import read_csv, write_csv, write_h5ad, write_table

TABLE = pd.DataFrame({"gene": ["g0"]})
PLACES = ["~/{}", "$HOME/{}", "${{HOME}}/{}"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder; a file that goes to the working directory instead is a fault."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    return home


WRITTEN: dict[str, Callable[[str, samsvae.SAMSVAE, samsvae.Screen], object]] = {
    "save": lambda path, model, screen: model.save(path),
    "cellxgene": lambda path, model, screen: samsvae.export.cellxgene(model, screen.test, path),
    "cell_eval": lambda path, model, screen: samsvae.export.cell_eval(
        samsvae.baselines.Additive(screen).train(), screen, path
    ),
    "csv": lambda path, model, screen: write_csv(path, TABLE),
    "parquet": lambda path, model, screen: write_table(path, [TABLE]),
    "h5ad": lambda path, model, screen: write_h5ad(path, make_adata()),
    "json": lambda path, model, screen: write_json(path, {}),
    "tensors": lambda path, model, screen: tensors.write(path, {}, {}),
}


@pytest.mark.filterwarnings("ignore:.*predicted means are below 0")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written(
    name: str, place: str, home: Path, trained: samsvae.SAMSVAE, screen: samsvae.Screen
) -> None:
    file = {"cellxgene": "x.h5ad", "h5ad": "x.h5ad", "parquet": "x.parquet"}.get(name, "x")
    WRITTEN[name](place.format(file), trained, screen)
    assert [path.name for path in home.iterdir()] == [file]
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("place", PLACES)
def test_a_model_comes_back(place: str, home: Path, trained: samsvae.SAMSVAE) -> None:
    trained.save(home / "m")
    again = samsvae.load(place.format("m"))
    assert again.embeddings().equals(trained.embeddings())
    assert Directory(Path(place.format("m"))).folder == home / "m"


READ: dict[str, tuple[Callable[..., object], str]] = {
    "toml": (read_toml, "a = 1\n"),
    "gmt": (read_gmt, "set\tdescription\tg0\n"),
    "groups": (read_groups, '{"a": ["A"]}'),
    "published": (read_published, "label,iwelbo\nx,1.0\n"),
    "csv": (read_csv, "gene\ng0\n"),
    "json": (read_json, "{}"),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str, home: Path) -> None:
    read, text = READ[name]
    (home / "file").write_text(text)
    read("~/file")


def test_a_file_in_the_home_folder_is_not_replaced(home: Path) -> None:
    (home / "x.csv").write_text("")
    with pytest.raises(samsvae.InputError, match="exists: give another --out"):
        check_new_file(Path("~/x.csv"), [".csv"], overwrite=False)


def test_the_checkpoint_of_training(home: Path, screen: samsvae.Screen) -> None:
    def train(**more: object) -> samsvae.SAMSVAE:
        model = samsvae.SAMSVAE(screen, n_latent=3, n_hidden=4)
        return model.train(
            max_steps=4, n_particles=1, progress=False, checkpoint="~/c.safetensors", **more
        )

    train()
    assert (home / "c.safetensors").is_file()
    assert len(train(resume=True).history)
