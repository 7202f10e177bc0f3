"""Run the tutorials on real data, and keep their outputs: `make tutorials`.

`docs/tutorials/NAME.md` is executed in an empty folder and written, with its outputs, as
`docs/tutorials/kept/NAME.ipynb`, from which the documentation is built where there is no data.
Names as arguments choose among them.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import create_nb_reader
from myst_parser.config.main import MdParserConfig
from nbclient import NotebookClient

from samsvae.reproduce.download import data_folder

FOLDER = Path(__file__).parent / "tutorials"


def main(names: list[str]) -> None:
    """Run those of the tutorials that keep outputs."""
    os.environ["SAMSVAE_DATA"] = str(data_folder().resolve())  # the kernel is in another folder
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for path in sorted(FOLDER.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "execution_mode: cache" in text and path.stem in (names or path.stem):
            print(path.stem, flush=True)
            written = executed(path, text)
            (FOLDER / "kept" / f"{path.stem}.ipynb").write_text(written, encoding="utf-8")


def executed(path: Path, text: str) -> str:
    """Return the code of a tutorial with its outputs, an .ipynb without paths of this machine."""
    reader = create_nb_reader(str(path), MdParserConfig(), NbParserConfig(), text)
    assert reader is not None
    notebook = reader.read(text)
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": folder}}
        ).execute()
    language = {"name": "python", "pygments_lexer": "ipython3"}  # without the versions of this run
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": language}
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    written: str = nbformat.writes(notebook)
    for secret in (folder, os.environ["SAMSVAE_DATA"], str(Path.home())):
        if re.search(re.escape(secret) + r"\b", written):
            raise SystemExit(f"{path.name}: an output holds the path {secret!r}")
    return written + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
