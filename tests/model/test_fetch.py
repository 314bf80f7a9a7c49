"""Downloads against a server that breaks off, has no Range, changes its file, or sends other bytes."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from plateflow.errors import ModelError
from plateflow.model import fetch as module
from plateflow.model.fetch import fetch
from plateflow.model.registry import PUBLISHED

CONTENT = np.random.default_rng(0).bytes(3_000_000)
OTHER = CONTENT[:1_500_000] + bytes(1_500_000)


class Server:
    """A file server of one file, whose faults are set from outside."""

    def __init__(self) -> None:
        self.content, self.etag, self.ranges = CONTENT, '"one"', True
        self.breaks: list[int] = []
        """After how many bytes the coming answers break off."""
        self.errors: list[int] = []
        """Statuses of the coming answers."""
        self.starts: list[int] = []
        """At which byte the answers began."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.answer(handler)

            def log_message(handler, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # of clients that hang up
        self.url = f"http://127.0.0.1:{self.http.server_port}/cpsam"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.errors:
            handler.send_error(self.errors.pop(0))
            return
        wanted = handler.headers.get("Range")
        same = handler.headers.get("If-Range", self.etag) == self.etag
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges and same else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        self.starts.append(start)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else len(self.content)
        handler.wfile.write(self.content[start:end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,))
    thread.start()
    card = replace(PUBLISHED["cpsam"], url=made.url, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(PUBLISHED, "cpsam", card)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_download_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = [1_000_000, 700_000]
    told: list[int] = []
    path = fetch("cpsam", tmp_path / "new" / "folder", progress=told.append)
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 1_000_000, 1_700_000]
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert set(contents(path.parent)) == {"cpsam"}
    assert fetch("cpsam", path.parent) == path
    assert len(server.starts) == 3, "what is there isn't fetched again"


def test_the_next_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.breaks = [900_000] + [0] * module.TRIES
    with pytest.raises(ModelError, match="900,000 of 3,000,000 bytes are kept"):
        fetch("cpsam", tmp_path)
    assert set(contents(tmp_path)) == {"cpsam.part", "cpsam.part.etag"}
    server.starts.clear()
    assert fetch("cpsam", tmp_path).read_bytes() == CONTENT
    assert server.starts == [900_000]


def test_a_disk_that_can_not_be_read_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(ModelError, match="Input/output error"):
        patched.setattr("plateflow.model.registry._sha256", unreadable)
        fetch("cpsam", tmp_path)
    assert len(contents(tmp_path)["cpsam.part"]) == len(CONTENT)
    server.starts.clear()
    assert fetch("cpsam", tmp_path).read_bytes() == CONTENT
    assert server.starts == []


def test_a_server_without_range_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.breaks = False, [2_000_000]
    assert fetch("cpsam", tmp_path).read_bytes() == CONTENT
    assert server.starts == [0, 0]


@pytest.mark.parametrize("etag", ['"one"', "", 'W/"one"'])
def test_a_file_that_changed_on_the_server_is_fetched_anew(server: Server, tmp_path: Path, etag: str) -> None:
    """By its tag; without one, the joined halves have the wrong hash."""
    server.content, server.etag = OTHER[::-1], etag
    server.breaks = [1_000_000] + [0] * module.TRIES
    with pytest.raises(ModelError):
        fetch("cpsam", tmp_path)
    server.content, server.etag = CONTENT, etag.replace("one", "two")
    server.starts.clear()
    assert fetch("cpsam", tmp_path).read_bytes() == CONTENT
    assert server.starts == ([0] if etag == '"one"' else [1_000_000, 0])


@pytest.mark.parametrize("content", [OTHER, CONTENT[:-7], CONTENT + b"more", b"<html>no such file</html>"])
def test_other_bytes_never_get_the_name(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(ModelError, match="sends something other than was published as 'cpsam'"):
        fetch("cpsam", tmp_path)
    assert contents(tmp_path) == {}


def test_other_bytes_in_pieces_are_given_up_too(server: Server, tmp_path: Path) -> None:
    server.content, server.breaks = OTHER, [1_000_000] * 2 + [2_000_000] + [1_000_000] * 9
    with pytest.raises(ModelError, match="sends something other"):
        fetch("cpsam", tmp_path)
    assert contents(tmp_path) == {}
    assert server.starts.count(0) == 2


def test_a_whole_part_that_is_wrong_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cpsam.part").write_bytes(OTHER)
    assert fetch("cpsam", tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_servers_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cpsam.part").write_bytes(CONTENT[:2_000_000])
    server.content = CONTENT[:1_000_000]
    with pytest.raises(ModelError, match="something other"):
        fetch("cpsam", tmp_path)
    assert contents(tmp_path) == {}


def test_a_wrong_file_in_the_folder_is_told_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cpsam").write_bytes(b"mine")
    with pytest.raises(ModelError, match="isn't the published 'cpsam'"):
        fetch("cpsam", tmp_path)
    assert contents(tmp_path) == {"cpsam": b"mine"}
    assert not server.starts


def test_a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 500]
    assert fetch("cpsam", tmp_path / "a").read_bytes() == CONTENT
    server.errors = [404]
    with pytest.raises(ModelError, match=r"404 Not Found[\s\S]*three ways"):
        fetch("cpsam", tmp_path / "b")


def test_without_a_network_the_error_tells_three_other_ways(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(PUBLISHED["cpsam"], url="http://no-such-host.invalid/cpsam")
    monkeypatch.setitem(PUBLISHED, "cpsam", card)
    with pytest.raises(ModelError) as error:
        fetch("cpsam", tmp_path)
    for words in ("can't be fetched", card.url, "weights fetch cpsam", "weights add FILE", "PLATEFLOW_WEIGHTS"):
        assert words in str(error.value)
