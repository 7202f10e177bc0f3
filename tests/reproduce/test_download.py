"""Downloads from a local server: whole, resumed after a cut, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from samsvae.errors import InputError
from samsvae.reproduce import download
from samsvae.reproduce.download import CATALOG, Published, data_folder, fetch

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; can be cut after some bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.cut_at: int | None = None
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
        start, whole = int(found[1]) if found else 0, self.server.content
        if found and start >= len(whole):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        end = len(whole) if self.server.cut_at is None else self.server.cut_at
        self.wfile.write(whole[start:end])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def catalog(*urls: str, sha256: str | None = SHA256) -> dict[str, Published]:
    return {"it": Published("it.h5ad", urls, "here", sha256)}


def get(folder: Path, *urls: str, sha256: str | None = SHA256) -> Path:
    return fetch("it", folder=folder, catalog=catalog(*urls, sha256=sha256), progress=False)


def test_a_file_is_downloaded_once(tmp_path: Path, server: Server) -> None:
    path = get(tmp_path / "new", server.url("file"))
    assert path == tmp_path / "new" / "it.h5ad"
    assert path.read_bytes() == CONTENT
    assert get(tmp_path / "new", server.url("file")) == path
    assert server.asked == [None]
    assert [one.name for one in path.parent.iterdir()] == ["it.h5ad"]


def test_an_interrupted_download_resumes(tmp_path: Path, server: Server) -> None:
    server.cut_at = 1_500_000
    with pytest.raises(InputError, match="the same command resumes it"):
        get(tmp_path, server.url("file"))
    assert not (tmp_path / "it.h5ad").exists()
    server.cut_at = None
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT
    (asked,) = server.asked[1:]
    assert asked is not None
    assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 1_500_000


def test_a_complete_part_is_used(tmp_path: Path, server: Server) -> None:
    (tmp_path / ".it.h5ad.part").write_bytes(CONTENT)
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_another_content_is_refused(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1]
    with pytest.raises(
        InputError, match=r"not the file that was published.*expected SHA-256 " + SHA256
    ):
        get(tmp_path, server.url("file"))
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT  # nothing wrong is left that the next one would go on with
    assert get(tmp_path, server.url("file")).read_bytes() == CONTENT


def test_an_unpublished_hash_is_recorded(tmp_path: Path, server: Server) -> None:
    path = get(tmp_path, server.url("file"), sha256=None)
    recorded = tmp_path / "it.h5ad.sha256"
    assert recorded.read_text() == f"{SHA256}  it.h5ad\n"
    path.unlink()
    server.content = CONTENT[:-1]
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
        assert all(url.startswith("https://") for url in published.urls)
        assert published.sha256 is None or len(published.sha256) == 64
