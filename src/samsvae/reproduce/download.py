"""The paper's screens: published files, downloaded once, checked and prepared.

pooch names the files, compares their SHA-256 and puts them in their place; its downloaders begin
anew where a connection was lost, at 66 GB each time, so the one that goes on is here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from samsvae._deprecated import renamed_arguments
from samsvae.data.screen import Screen
from samsvae.errors import InputError, note, quoted, unknown
from samsvae.reproduce.prepare import prepare
from samsvae.settings.arguments import checked
from samsvae.settings.experiment import PreparationSettings
from samsvae.settings.fields import takes
from samsvae.storage.files import expanded, read_json, write_json, write_text
from samsvae.storage.locks import check_no_link, only_writer

_CHUNK = 1 << 20
_TIMEOUT = 30
_HDF5 = b"\x89HDF\r\n\x1a\n"
"""What every file of that kind begins with."""


@dataclass(frozen=True)
class Published:
    """A published file, an .h5ad."""

    file: str
    urls: tuple[str, ...]
    """Mirrors, in the order in which they are tried."""
    source: str
    min_bytes: int
    """Less cannot be all of it."""
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
        min_bytes=50 * 10**9,
    ),
    "norman": Published(
        "NormanWeissman2019_filtered.h5ad",
        (
            "https://zenodo.org/records/13350497/files/NormanWeissman2019_filtered.h5ad",
            "https://zenodo.org/records/7041849/files/NormanWeissman2019_filtered.h5ad",
        ),
        "Norman et al. 2019, Science 365: 786, as in scPerturb (Peidli et al. 2024); 0.7 GB",
        min_bytes=500 * 10**6,
    ),
}
"""Published files by name."""

PREPARED: Mapping[str, str] = {
    "papalexi2021.h5ad": "Papalexi et al. 2021, Nature Genetics 53: 322, as shipped by the R "
    "package sceptredata (MIT): cells in which one sgRNA has more than 80 % of the sgRNA counts",
    "papalexi2021_sgrna.h5mu": "Papalexi et al. 2021, Nature Genetics 53: 322, as shipped by the "
    "R package sceptredata (MIT): modalities 'gene' and 'guide'",
    "norman2019.h5ad": "Norman et al. 2019, Science 365: 786, a panel of 500 genes as shipped by "
    "PerturBench (BSD-3), turned back into counts",
}
"""Files of the tutorials on real data, and where they are from. None is published in this form."""


def data_folder() -> Path:
    """Return the folder of downloaded files: SAMSVAE_DATA, or the user's cache."""
    from platformdirs import user_cache_path

    folder = os.environ.get("SAMSVAE_DATA")
    return expanded(folder) if folder else user_cache_path("samsvae")


@checked
def locate(file: str) -> Path:
    """Return the path of a file in the data folder: SAMSVAE_DATA, or the user's cache.

    The tutorials on real data look for their files here.

    Raises
    ------
    InputError
        If the file is not there. The message says where the data are from, if a tutorial uses them.
    """
    path = data_folder() / file
    if path.is_file():
        return path
    source = f" ({PREPARED[file]})" if file in PREPARED else ""
    raise InputError(
        f"{file!r}{source} is not in {str(path.parent)!r}: put it there, or set SAMSVAE_DATA to "
        "the folder that has it"
    )


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    catalog: Mapping[str, Published] = CATALOG,
    progress: bool = True,
) -> Path:
    """Return the path of a published file, which is downloaded if it does not exist yet.

    It is kept in `folder`, by default `data_folder()`. It is whole and of HDF5, and has the SHA-256
    that was published, or that it had when it was first downloaded; a note says so if none was
    published. It is an error if no mirror has it, the connection is lost (the next call resumes the
    download), the disk is full, the file is not the published one, or another process downloads it.
    """
    import pooch

    if name not in catalog:
        raise unknown("data set", name, list(catalog))
    published, folder = catalog[name], data_folder() if folder is None else folder
    path, failures = folder / published.file, []
    try:
        with only_writer(path, "set SAMSVAE_DATA to another folder"):
            record = _recorded(path)
            expected = published.sha256 or record
            for url in published.urls:
                try:
                    download = _ResumedDownload(path, published, progress)
                    pooch.retrieve(url, expected, fname=path.name, path=folder, downloader=download)
                except _MirrorError as error:
                    failures.append(f"{url}: {error}")
                    continue
                except InputError:
                    raise
                except ValueError as error:  # raised by pooch for another hash
                    raise InputError(
                        f"{path.name!r} from {url} is not the file that was published or first "
                        f"downloaded: expected SHA-256 {expected}; it was not kept (remove "
                        f"{str(_record_of(path))!r} to take another version)"
                    ) from error
                try:
                    _check_whole(path, published)
                except _MirrorError as error:  # it was there before
                    raise InputError(f"{str(path)!r} {error}: remove it") from error
                if expected is None:
                    sha256 = pooch.file_hash(path)
                    write_text(_record_of(path), f"{sha256}  {path.name}\n")
                    note(
                        f"{path.name}: no SHA-256 was published; it is a whole HDF5 file of "
                        f"{path.stat().st_size:,} bytes, and its SHA-256 from now on {sha256}"
                    )
                return path
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror or error}; free some space, or set "
            "SAMSVAE_DATA to another folder"
        ) from error
    raise InputError(f"{path.name!r} could not be downloaded: " + "; ".join(failures))


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """Return the SHA-256 that was recorded when a file was first downloaded, if it was."""
    record = _record_of(path)
    check_no_link(record)
    if not record.exists():
        return None
    with suppress(UnicodeDecodeError):
        sha256, *_ = [*record.read_text(encoding="utf-8").split(), ""]
        if re.fullmatch("[0-9a-f]{64}", sha256):
            return sha256
    raise InputError(f"{str(record)!r} is damaged: expected a SHA-256; remove it")


def _check_whole(path: Path, published: Published) -> None:
    """Raise unless a file may be the published one: of HDF5, not too small, and not cut."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(_HDF5))
    if first != _HDF5:
        raise _MirrorError(f"is no HDF5 file: it begins with {repr(first)[1:]}")
    if size < published.min_bytes:
        raise _MirrorError(f"has {size:,} bytes: expected at least {published.min_bytes:,}")
    try:
        h5py.File(path, "r").close()  # HDF5 compares the size with the one that the file states
    except OSError as error:
        raise _MirrorError(f"is damaged: {' '.join(str(error).split())}") from error


class _MirrorError(Exception):
    """A mirror that does not deliver the file."""


class _ResumedDownload:
    """A downloader for pooch that resumes an earlier download, which pooch's own does not.

    The incomplete file belongs to the URL and the version (by its ETag or date) that it began with;
    it is resumed only if the server says that the bytes that follow are of the same version.
    """

    def __init__(self, path: Path, published: Published, progress: bool) -> None:
        self.published, self.progress = published, progress
        self.part = path.with_name(f".{path.name}.part")
        self.origin = path.with_name(f".{path.name}.part.json")
        """URL, version and size of the file that the incomplete one is a part of."""

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: Any) -> None:
        import requests

        for path in (self.part, self.origin):
            check_no_link(path)
        size, headers = self._begun(url)
        headers |= {"Accept-Encoding": "identity"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                status = f"{response.status_code} {response.reason}"
                if response.status_code == 416:  # nothing follows these bytes
                    total = response.headers.get("Content-Range", "").rpartition("/")[2]
                    if total != str(size):
                        self._forget()
                        raise _MirrorError("the incomplete download is not a part of this file")
                elif response.status_code >= 500 and size:
                    raise self._lost(url, status)
                elif response.status_code >= 400:
                    raise _MirrorError(status)
                else:
                    self._take(url, response, size)
        except requests.RequestException as error:
            if self._begun(url)[0]:
                raise self._lost(url, type(error).__name__) from error
            raise _MirrorError(type(error).__name__) from error
        try:
            _check_whole(self.part, self.published)
        except _MirrorError:
            self._forget()
            raise
        shutil.move(self.part, output_file)
        self._forget()

    def _begun(self, url: str) -> tuple[int, dict[str, str]]:
        """Return the size of the incomplete file, and the headers by which it is resumed."""
        if not (self.part.exists() and self.origin.exists()):
            return 0, {}
        origin = read_json(self.origin)
        size, version = self.part.stat().st_size, origin.get("version")
        if origin.get("url") != url or not isinstance(version, str) or not size:
            return 0, {}
        return size, {"Range": f"bytes={size}-", "If-Range": version}

    def _forget(self) -> None:
        for path in (self.part, self.origin):
            path.unlink(missing_ok=True)

    def _lost(self, url: str, why: str) -> InputError:
        return InputError(
            f"{self.published.file!r} is incomplete, from {url} ({why}): the same command resumes "
            f"it, and begins anew with any mirror without {str(self.part)!r}"
        )

    def _take(self, url: str, response: Any, size: int) -> None:
        """Write a response to the incomplete file, after its first `size` bytes."""
        total, answered = _length(response), response.headers.get("Content-Range")
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answered or "")
            if found is None or int(found[1]) != size or int(found[2]) + 1 != int(found[3]):
                raise _MirrorError(f"its Content-Range is {quoted(answered)}, from byte {size} on")
            total = int(found[3])
        else:
            size = 0
            self._forget()
            etag = response.headers.get("ETag", "W/")
            version = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
            write_json(self.origin, {"url": url, "version": version})
        n_bytes = self._write(response, size, total)
        if total is not None and n_bytes < total:
            raise self._lost(url, "the connection was lost")
        if total is not None and n_bytes > total:
            self._forget()
            raise _MirrorError(f"sent {n_bytes:,} bytes instead of {total:,}")

    def _write(self, response: Any, size: int, total: int | None) -> int:
        """Append a response to the incomplete file, and return the size that it has then."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.progress) as bar, _appended(self.part) as number:
            task = bar.add_task("download", total=total, completed=size)
            for chunk in response.iter_content(_CHUNK):
                if not size and not chunk.startswith(_HDF5[: len(chunk)]):
                    self._forget()
                    raise _MirrorError(f"is no HDF5 file: it begins with {repr(chunk[:8])[1:]}")
                size += len(chunk)
                while chunk:
                    chunk = chunk[os.write(number, chunk) :]
                bar.update(task, completed=size)
        return size


@contextmanager
def _appended(path: Path) -> Iterator[int]:
    """Open a file to append to it, and never a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    number = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield number
    finally:
        os.close(number)


def _length(response: Any) -> int | None:
    """Return how many bytes a server says that it sends; None if it does not say."""
    text = response.headers.get("Content-Length")
    if text is not None and not re.fullmatch("[0-9]{1,18}", text):
        raise _MirrorError(f"its Content-Length is {quoted(text)}")
    return None if text is None else int(text)


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
