"""Downloads from a local server: whole, resumed after a cut, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import h5py
import numpy as np
import pytest

from samsvae.errors import InputError
from samsvae.reproduce import download
from samsvae.reproduce.download import CATALOG, Published, data_folder, fetch, locate
from samsvae.storage.locks import only_writer


def hdf5(fill: int = 0) -> bytes:
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        file["x"] = np.arange(5_000_000, dtype=np.uint8) + np.uint8(fill)
        file.flush()
        return bytes(file.id.get_file_image())


CONTENT = hdf5()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><title>Please log in</title>" * 200_000


class Server(ThreadingHTTPServer):
    """Serves CONTENT; can be cut after some bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.cut_at: int | None = None
        self.says: dict[str, str] = {}
        """Headers that it sends instead of the right ones; "" leaves one out."""
        self.asked: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        found = re.fullmatch(r"bytes=(\d+)-", asked or "")
        whole = self.server.content
        version = f'"{hashlib.md5(whole).hexdigest()}"'
        if self.headers.get("If-Range", version) != version:
            found = None
        start = int(found[1]) if found else 0
        if found and start >= len(whole):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if found else 200)
        headers = {"ETag": version, "Content-Length": str(len(whole) - start)}
        if found:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        for name, value in (headers | self.server.says).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = len(whole) if self.server.cut_at is None else self.server.cut_at
        self.wfile.write(whole[start:end])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def catalog(*urls: str, sha256: str | None = SHA256) -> dict[str, Published]:
    return {"it": Published("it.h5ad", urls, "here", 1_000_000, sha256)}


def get(folder: Path, *urls: str, sha256: str | None = SHA256) -> Path:
    return fetch("it", folder=folder, catalog=catalog(*urls, sha256=sha256), progress=False)


def test_a_file_is_downloaded_once(tmp_path: Path, server: Server) -> None:
    path = get(tmp_path / "new", server.url("file"))
    assert path == tmp_path / "new" / "it.h5ad"
    assert path.read_bytes() == CONTENT
    assert get(tmp_path / "new", server.url("file")) == path
    assert server.asked == [None]
    assert [one.name for one in path.parent.iterdir()] == ["it.h5ad"]


def cut(folder: Path, server: Server, at: int = 1_500_000) -> Path:
    """Lose the connection after some bytes; return the incomplete file."""
    server.cut_at = at
    with pytest.raises(InputError, match="the same command resumes it"):
        get(folder, server.url("file"))
    assert not (folder / "it.h5ad").exists()
    server.cut_at = None
    return folder / ".it.h5ad.part"


def test_an_interrupted_download_resumes(tmp_path: Path, server: Server) -> None:
    cut(tmp_path, server)
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT
    (asked,) = server.asked[1:]
    assert asked is not None
    assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 1_500_000
    assert [one.name for one in tmp_path.iterdir()] == ["it.h5ad"]


def test_a_complete_part_is_used(tmp_path: Path, server: Server) -> None:
    cut(tmp_path, server).write_bytes(CONTENT)
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT
    assert server.asked[1:] == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_another_version_is_not_gone_on_with(tmp_path: Path, server: Server) -> None:
    cut(tmp_path, server)
    server.content = hdf5(1)
    with pytest.warns(UserWarning, match="no SHA-256 was published; it is a whole HDF5 file of 5,"):
        path = get(tmp_path, server.url("file"), sha256=None)
    assert path.read_bytes() == server.content


def test_a_part_of_unknown_origin_is_not_gone_on_with(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".it.h5ad.part").write_bytes(hdf5(1)[:1_000_000])
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.parametrize("answer", ["", "bytes 0-5/6", "bytes 7-9/10", "some"])
def test_other_bytes_than_were_asked_for(answer: str, tmp_path: Path, server: Server) -> None:
    cut(tmp_path, server)
    server.says = {"Content-Range": answer}
    with pytest.raises(InputError, match="its Content-Range is "):
        get(tmp_path, server.url("file"), sha256=None)
    assert not (tmp_path / "it.h5ad").exists()


@pytest.mark.parametrize(
    ("content", "says", "message"),
    [
        (PAGE, {}, "is no HDF5 file: it begins with '<!DOCTYP'"),
        (b"", {}, "is no HDF5 file: it begins with ''"),
        (CONTENT[:2_000_000], {}, r"is damaged: .*truncated file"),
        (CONTENT[:2_000_000], {"Content-Length": ""}, r"is damaged: .*truncated file"),
        (CONTENT[:1000], {}, "has 1,000 bytes: expected at least 1,000,000"),
        (CONTENT, {"Content-Length": "many"}, "its Content-Length is 'many'"),
        (CONTENT, {"Content-Length": "-5"}, "its Content-Length is '-5'"),
    ],
)
def test_what_is_no_such_file_is_not_kept(
    content: bytes, says: dict[str, str], message: str, tmp_path: Path, server: Server
) -> None:
    server.content, server.says = content, says
    with pytest.raises(InputError, match=message):
        get(tmp_path, server.url("file"), sha256=None)
    assert not [one.name for one in tmp_path.iterdir() if not one.name.endswith("part.json")]


def test_a_page_that_was_kept_before_is_told(tmp_path: Path, server: Server) -> None:
    (tmp_path / "it.h5ad").write_bytes(PAGE)
    (tmp_path / "it.h5ad.sha256").write_text(f"{hashlib.sha256(PAGE).hexdigest()}  it.h5ad\n")
    with pytest.raises(InputError, match=r"it\.h5ad' is no HDF5 file: .*: remove it"):
        get(tmp_path, server.url("file"), sha256=None)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"not a hash  it.h5ad\n"])
def test_a_damaged_record_is_told(content: bytes, tmp_path: Path, server: Server) -> None:
    (tmp_path / "it.h5ad.sha256").write_bytes(content)
    with pytest.raises(InputError, match=r"it\.h5ad\.sha256' is damaged: .*remove it"):
        get(tmp_path, server.url("file"), sha256=None)


def test_two_do_not_download_one_file(tmp_path: Path, server: Server) -> None:
    with (
        only_writer(tmp_path / "it.h5ad"),
        pytest.raises(InputError, match=r"another process is writing .*it\.h5ad.*SAMSVAE_DATA"),
    ):
        get(tmp_path, server.url("file"))
    assert server.asked == []


@pytest.mark.parametrize("name", [".it.h5ad.part", ".it.h5ad.part.json", "it.h5ad.sha256"])
def test_no_link_is_written_through(name: str, tmp_path: Path, server: Server) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).symlink_to(victim)
    with pytest.raises(InputError, match=f"{name}' is a link, which is not followed"):
        get(tmp_path / "data", server.url("file"))
    assert victim.read_text() == "precious"


def test_another_content_is_refused(tmp_path: Path, server: Server) -> None:
    server.content = hdf5(1)
    with pytest.raises(
        InputError, match=r"not the file that was published.*expected SHA-256 " + SHA256
    ):
        get(tmp_path, server.url("file"))
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT  # nothing wrong is left that the next one would go on with
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT


def test_an_unpublished_hash_is_recorded(tmp_path: Path, server: Server) -> None:
    with pytest.warns(UserWarning, match=f"its SHA-256 from now on {SHA256}"):
        path = get(tmp_path, server.url("file"), sha256=None)
    recorded = tmp_path / "it.h5ad.sha256"
    assert recorded.read_text() == f"{SHA256}  it.h5ad\n"
    path.unlink()
    server.content = hdf5(1)
    with pytest.raises(InputError, match="not the file that was published or first downloaded"):
        get(tmp_path, server.url("file"), sha256=None)


def test_mirrors_are_tried_in_turn(tmp_path: Path, server: Server) -> None:
    nobody = "http://127.0.0.1:9/file"
    urls = [server.url("absent"), nobody, server.url("file")]
    assert get(tmp_path, *urls).read_bytes() == CONTENT
    with pytest.raises(InputError) as told:
        get(tmp_path / "other", *urls[:2])
    assert "absent: 404 Not Found" in str(told.value)
    assert f"{nobody}: ConnectionError" in str(told.value)


def test_a_full_disk_is_an_error(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download._ResumedDownload, "_write", full)
    with pytest.raises(InputError, match=r"cannot write .*it\.h5ad.*No space left.*SAMSVAE_DATA"):
        get(tmp_path, server.url("file"))


def test_the_folder_is_the_users_cache_or_the_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMSVAE_DATA", raising=False)
    assert data_folder().name == "samsvae"
    monkeypatch.setenv("SAMSVAE_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    with pytest.raises(InputError, match="no data set 'normann': the nearest is 'norman'"):
        fetch("normann")


def test_the_catalog_names_https_mirrors() -> None:
    for published in CATALOG.values():
        assert published.urls
        assert published.min_bytes > 10**8
        assert all(url.startswith("https://") for url in published.urls)
        assert published.sha256 is None or len(published.sha256) == 64


def test_files_of_tutorials_are_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMSVAE_DATA", str(tmp_path))
    (tmp_path / "mine.h5ad").touch()
    assert locate("mine.h5ad") == tmp_path / "mine.h5ad"
    where = re.escape(f"is not in {str(tmp_path)!r}: put it there, or set SAMSVAE_DATA")
    with pytest.raises(InputError, match=rf"'norman2019.h5ad' \(Norman et al.*\) {where}"):
        locate("norman2019.h5ad")
    with pytest.raises(InputError, match=f"^'x.h5ad' {where}"):
        locate("x.h5ad")
