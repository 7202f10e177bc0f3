"""Published files, downloaded once: resumed after a cut, checked by their SHA-256.

The paper's screens, in Python: downloaded once, and prepared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.reproduce.prepare import prepare
from samsvae.settings.arguments import checked
from samsvae.settings.experiment import PreparationSettings
from samsvae.settings.fields import takes
from samsvae.storage.files import write_text

_CHUNK = 1 << 20
_TIMEOUT = 30


@dataclass(frozen=True)
class Published:
    """A published file."""

    file: str
    urls: tuple[str, ...]
    """The first is tried first, the others are mirrors."""
    source: str
    sha256: str | None = None
    """As published; None: it is recorded when the file is first downloaded."""


CATALOG: Mapping[str, Published] = {
    "replogle": Published(
        "K562_gwps_raw_singlecell_01.h5ad",
        (
            "https://ndownloader.figshare.com/files/35775507",
            "https://plus.figshare.com/ndownloader/files/35775507",
        ),
        "Replogle et al. 2022, Cell 185: 2559; https://doi.org/10.25452/figshare.plus.20029387 "
        "(66 GB)",
    ),
    "norman": Published(
        "NormanWeissman2019_filtered.h5ad",
        (
            "https://zenodo.org/records/13350497/files/NormanWeissman2019_filtered.h5ad",
            "https://zenodo.org/records/7041849/files/NormanWeissman2019_filtered.h5ad",
        ),
        "Norman et al. 2019, Science 365: 786, as in scPerturb (Peidli et al. 2024); 0.7 GB",
    ),
}
"""By name."""


def data_folder() -> Path:
    """Return where files are kept: SAMSVAE_DATA, or the user's cache."""
    from platformdirs import user_cache_path

    given = os.environ.get("SAMSVAE_DATA")
    return Path(given).expanduser() if given else user_cache_path("samsvae")


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    catalog: Mapping[str, Published] = CATALOG,
    progress: bool = True,
) -> Path:
    """Return the path of a published file; it is downloaded where it is not there yet.

    Parameters
    ----------
    name
        Of the file: "replogle" or "norman".
    folder
        Where it is kept; by default `data_folder`.
    catalog
        What there is.
    progress
        Show a progress bar.

    Raises
    ------
    InputError
        If no mirror has it, the connection is cut (what came is kept, and gone on with), the disk
        is full, or it is not what was published.
    """
    import pooch

    if name not in catalog:
        raise unknown("data set", name, list(catalog))
    wanted, place = catalog[name], data_folder() if folder is None else folder
    recorded = place / f"{wanted.file}.sha256"
    known = wanted.sha256 or (recorded.read_text().split()[0] if recorded.exists() else None)
    failures = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for url in wanted.urls:
            try:
                download = _Resuming(place / f".{wanted.file}.part", progress)
                found = pooch.retrieve(
                    url, known, fname=wanted.file, path=place, downloader=download
                )
            except _MirrorError as error:
                failures.append(f"{url}: {error}")
                continue
            except ValueError as error:  # pooch's word for another hash
                raise InputError(
                    f"{wanted.file!r} from {url} is not what was published or first downloaded: "
                    f"expected SHA-256 {known}; it was not kept (remove {str(recorded)!r} to take "
                    "another version)"
                ) from error
            if known is None:
                write_text(recorded, f"{pooch.file_hash(found)}  {wanted.file}\n")
            return Path(found)
    except OSError as error:
        raise InputError(
            f"cannot write {str(place / wanted.file)!r}: {error.strerror or error}; free some "
            "space, or set SAMSVAE_DATA to another folder"
        ) from error
    raise InputError(f"{wanted.file!r} could not be downloaded: " + "; ".join(failures))


class _MirrorError(Exception):
    """A mirror that does not give the file."""


class _Resuming:
    """Downloads for pooch, and goes on with what an earlier one left.

    Parameters
    ----------
    part
        Where it is collected.
    progress
        Show a progress bar.
    """

    def __init__(self, part: Path, progress: bool) -> None:
        self.part, self.progress = part, progress

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: Any) -> None:
        import requests

        there = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={there}-"} if there else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
                if answer.status_code == 416:  # there is no more of it
                    there_all = answer.headers.get("Content-Range", "").rpartition("/")[2]
                    if there_all != str(there):
                        self.part.unlink()
                        raise _MirrorError("what was left of a download is no part of it")
                elif answer.status_code >= 400:
                    raise _MirrorError(f"{answer.status_code} {answer.reason}")
                else:
                    self._collect(answer, there if answer.status_code == 206 else 0)
        except requests.RequestException as error:
            raise _MirrorError(
                f"{type(error).__name__}; what came is kept, the same command goes on"
            ) from error
        shutil.move(self.part, output_file)

    def _collect(self, answer: Any, there: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        length = answer.headers.get("Content-Length")
        total = None if length is None else there + int(length)
        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with (
            Progress(*columns, disable=not self.progress) as bar,
            open(self.part, "ab" if there else "wb") as file,
        ):
            task = bar.add_task("download", total=total, completed=there)
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(task, advance=len(chunk))
        if total is not None and self.part.stat().st_size < total:
            raise _MirrorError(
                "the connection was cut; what came is kept, the same command goes on"
            )


@checked
@takes(PreparationSettings)
def replogle(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the filtered screen of Replogle et al. 2022: strong perturbations and their genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded (66 GB), once.
    **settings
        Thresholds: min_cells, min_de_share, rate, min_perturbation_share; see
        `samsvae.settings.experiment.PreparationSettings`.

    Raises
    ------
    InputError
        If the file cannot be had or read, or nothing is left of it.
    """
    return _prepared("replogle", path, settings)


@checked
@takes(PreparationSettings)
def norman(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the screen of Norman et al. 2019 with its highly variable genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded (0.7 GB), once.
    **settings
        n_genes (5,000), n_bins; see `samsvae.settings.experiment.PreparationSettings`.

    Raises
    ------
    InputError
        If the file cannot be had or read.
    """
    return _prepared("norman", path, settings)


def _prepared(name: str, path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> Screen:
    given = PreparationSettings(**settings)
    place = fetch(name) if path is None else Path(path)
    return prepare(name, read(name, place), given).screen


def read(name: str, path: Path, **settings: Any) -> Screen:
    """Return all cells and genes of a raw file, without batches, as the paper takes them."""
    return Screen.open(path, **{"convention": name, "batch_key": None, **settings})
