"""The paper's screens: published files, downloaded once, checked by their SHA-256, and prepared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samsvae._deprecated import renamed_arguments
from samsvae.data.screen import Screen
from samsvae.errors import InputError, unknown
from samsvae.reproduce.prepare import prepare
from samsvae.settings.arguments import checked
from samsvae.settings.experiment import PreparationSettings
from samsvae.settings.fields import takes
from samsvae.storage.files import expanded, write_text

_CHUNK = 1 << 20
_TIMEOUT = 30


@dataclass(frozen=True)
class Published:
    """A published file."""

    file: str
    urls: tuple[str, ...]
    """Mirrors, in the order in which they are tried."""
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
"""Published files by name."""


def data_folder() -> Path:
    """Return the folder of downloaded files: SAMSVAE_DATA, or the user's cache."""
    from platformdirs import user_cache_path

    folder = os.environ.get("SAMSVAE_DATA")
    return expanded(folder) if folder else user_cache_path("samsvae")


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    catalog: Mapping[str, Published] = CATALOG,
    progress: bool = True,
) -> Path:
    """Return the path of a published file, which is downloaded if it does not exist yet.

    It is kept in `folder`, by default `data_folder()`. It is an error if no mirror has it, the
    connection is lost (the next call resumes the download), the disk is full, or the file is not
    the published one.
    """
    import pooch

    if name not in catalog:
        raise unknown("data set", name, list(catalog))
    published, folder = catalog[name], data_folder() if folder is None else folder
    record = folder / f"{published.file}.sha256"
    expected = published.sha256 or (record.read_text().split()[0] if record.exists() else None)
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for url in published.urls:
            try:
                download = _ResumedDownload(folder / f".{published.file}.part", progress)
                path = pooch.retrieve(
                    url, expected, fname=published.file, path=folder, downloader=download
                )
            except _MirrorError as error:
                failures.append(f"{url}: {error}")
                continue
            except ValueError as error:  # raised by pooch for another hash
                raise InputError(
                    f"{published.file!r} from {url} is not the file that was published or first "
                    f"downloaded: expected SHA-256 {expected}; it was not kept (remove "
                    f"{str(record)!r} to take another version)"
                ) from error
            if expected is None:
                write_text(record, f"{pooch.file_hash(path)}  {published.file}\n")
            return Path(path)
    except OSError as error:
        raise InputError(
            f"cannot write {str(folder / published.file)!r}: {error.strerror or error}; free some "
            "space, or set SAMSVAE_DATA to another folder"
        ) from error
    raise InputError(f"{published.file!r} could not be downloaded: " + "; ".join(failures))


class _MirrorError(Exception):
    """A mirror that does not deliver the file."""


class _ResumedDownload:
    """A downloader for pooch that resumes an earlier download, which pooch's own does not.

    `part` is the incomplete file.
    """

    def __init__(self, part: Path, progress: bool) -> None:
        self.part, self.progress = part, progress

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: Any) -> None:
        import requests

        size = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={size}-"} if size else {}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                if response.status_code == 416:  # nothing follows these bytes
                    total = response.headers.get("Content-Range", "").rpartition("/")[2]
                    if total != str(size):
                        self.part.unlink()
                        raise _MirrorError("the incomplete download is not a part of this file")
                elif response.status_code >= 400:
                    raise _MirrorError(f"{response.status_code} {response.reason}")
                else:
                    self._write(response, size if response.status_code == 206 else 0)
        except requests.RequestException as error:
            raise _MirrorError(f"{type(error).__name__}; the same command resumes it") from error
        shutil.move(self.part, output_file)

    def _write(self, response: Any, size: int) -> None:
        """Write a response to the incomplete file, after its first `size` bytes."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        length = response.headers.get("Content-Length")
        total = None if length is None else size + int(length)
        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with (
            Progress(*columns, disable=not self.progress) as bar,
            open(self.part, "ab" if size else "wb") as file,
        ):
            task = bar.add_task("download", total=total, completed=size)
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(task, advance=len(chunk))
        if total is not None and self.part.stat().st_size < total:
            raise _MirrorError("the connection was lost; the same command resumes it")


@renamed_arguments(rate="fdr")
@checked
@takes(PreparationSettings)
def replogle(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the filtered screen of Replogle et al. 2022: strong perturbations and their genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded once (66 GB).
    **settings
        Thresholds: min_cells, min_de_share, fdr, min_perturbation_share; see
        `samsvae.settings.experiment.PreparationSettings`. It is an error if nothing passes them.
    """
    return _prepared("replogle", path, settings)


@renamed_arguments(rate="fdr")
@checked
@takes(PreparationSettings)
def norman(path: str | os.PathLike[str] | None = None, **settings: Any) -> Screen:
    """Return the screen of Norman et al. 2019 with its highly variable genes.

    Parameters
    ----------
    path
        The file of raw counts; by default it is downloaded once (0.7 GB).
    **settings
        n_genes (5,000), n_bins; see `samsvae.settings.experiment.PreparationSettings`.
    """
    return _prepared("norman", path, settings)


def _prepared(name: str, path: str | os.PathLike[str] | None, settings: dict[str, Any]) -> Screen:
    chosen = PreparationSettings(**settings)
    return prepare(name, read(name, fetch(name) if path is None else Path(path)), chosen).screen


def read(name: str, path: Path) -> Screen:
    """Return all cells and genes of a raw file, without batches, as in the paper."""
    return Screen.open(path, convention=name, batch_key=None)
