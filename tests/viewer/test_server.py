"""The server: the store with ranges for other programs, nothing else to nobody else, and plates that change."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
import zarr
from command_line import plateflow
from planted_plate import Planted
from viewed import address, copy_results, get, picture, raw_request, serving

from plateflow.report.links import view_url
from plateflow.state.journal import Entry, append_outcome
from plateflow.viewer.plates import Plates
from plateflow.viewer.server import Server

ARRAY = "/raw/demo/plate.zarr/B/02/0/0"
CHUNK = f"{ARRAY}/c/0/0/0/0/0"


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer, whatever its status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address(server, path), headers=named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_the_store_is_served_as_it_is_with_ranges(lit: Planted, served: Server) -> None:
    data = (lit.paths.image("B02") / "0" / "c/0/0/0/0/0").read_bytes()
    size = len(data)
    status, headers, body = ask(served, CHUNK)
    assert (status, body, headers["Content-Type"]) == (200, data, "application/octet-stream")
    assert headers["Accept-Ranges"] == "bytes"
    for said, part in (
        ("bytes=0-0", data[:1]),
        ("bytes=10-99", data[10:100]),
        (f"bytes={size - 5}-", data[-5:]),
        (f"bytes={size - 5}-{size + 99}", data[-5:]),
        ("bytes=-1000", data[-1000:]),
        (f"bytes=-{size + 9}", data),
    ):
        status, headers, body = ask(served, CHUNK, Range=said)
        assert (status, body) == (206, part)
        first = int(headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
        assert headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{size}"
        assert data[first : first + len(part)] == part
    for said in (f"bytes={size}-", "bytes=-0", f"bytes={size + 5}-{size + 9}"):
        status, headers, body = ask(served, CHUNK, Range=said)
        assert (status, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")
    for said in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=a-b"):  # those may be passed over
        assert ask(served, CHUNK, Range=said)[::2] == (200, data)
    status, headers, body = ask(served, CHUNK, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(size), b"")
    assert ask(served, f"{ARRAY}/zarr.json")[1]["Content-Type"] == "application/json"
    assert ask(served, f"{ARRAY}/c/0/0/9/0/0")[0] == 404


def test_zarr_and_ome_zarr_read_it_by_http(lit: Planted, served: Server) -> None:
    """As napari does, with its plug-in."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    stored = zarr.open_array(lit.paths.image("B02") / "0", mode="r")[:]
    np.testing.assert_array_equal(zarr.open_array(address(served, ARRAY), mode="r")[:], stored)
    image, *labels = Reader(parse_url(address(served, "/raw/demo/plate.zarr/B/02/0")))()
    np.testing.assert_array_equal(np.asarray(image.data[0]), stored)
    cells = zarr.open_array(lit.paths.image("B02") / "labels" / "cells" / "0", mode="r")[:]
    assert any(np.array_equal(np.asarray(each.data[0]), cells) for each in labels if each.data)


NEUROGLANCER = "https://neuroglancer-demo.appspot.com"


@pytest.mark.parametrize(
    ("origin", "may"),
    [(NEUROGLANCER, True), ("http://localhost:3000", True), ("https://example.org", False), ("null", False)],
)
def test_pages_of_few_other_sites_read_the_store(served: Server, origin: str, may: bool) -> None:
    status, headers, body = ask(served, CHUNK, Origin=origin, Sec_Fetch_Site="cross-site", Range="bytes=0-9")
    assert (status, len(body), headers.get("Access-Control-Allow-Origin")) == (
        (206, 10, origin) if may else (403, *_NO)
    )
    status, headers, _ = ask(served, CHUNK, "OPTIONS", Origin=origin, Access_Control_Request_Private_Network="true")
    assert status == (204 if may else 403)
    assert (headers.get("Access-Control-Allow-Headers"), headers.get("Access-Control-Allow-Private-Network")) == (
        ("Range", "true") if may else (None, None)
    )
    for path in ("/info/demo/B02", "/tile/demo/B02/preview.webp", "/static/viewer.js"):
        assert ask(served, path, Origin=origin)[0] == 403
        assert ask(served, path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


_NO = (len(b"refused: pages of this site read no plates here\n"), None)


def test_a_link_in_a_report_opens_the_page(served: Server) -> None:
    link = view_url("demo", "B02", served.server_port)
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    status, sent, body = ask(served, link.partition(str(served.server_port))[2], **headers)
    assert (status, sent["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'self'" in sent["Content-Security-Policy"]
    assert b'id="view"' in body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::", "localhost.evil"])
def test_another_name_of_this_machine_is_refused(served: Server, host: str) -> None:
    for path in (CHUNK, "/demo", "/info/demo/B02"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert raw_request(served, request.encode()).startswith(b"HTTP/1.1 403 ")


WAYS_OUT = [
    *("/raw/demo/plate.zarr/../../../secret.txt", "/raw/../../secret.txt", "/../../../../etc/passwd", "//etc/passwd"),
    *("/raw/demo/plate.zarr/%2e%2e/%2e%2e/%2e%2e/secret.txt", "/raw/demo/plate.zarr/%2E%2E%2f%2E%2E%2fsecret.txt"),
    *("/raw/demo/plate.zarr/%252e%252e/%252e%252e/secret.txt", "/raw/demo/plate.zarr/..%5c..%5csecret.txt"),
    *("/raw/demo/plate.zarr//etc/passwd", "/raw/demo/plate.zarr/%2fetc%2fpasswd", "/raw/demo/plate.zarr/zarr.json%00"),
    *("/raw/demo/plate.zarr/..\\..\\secret.txt", "/raw/%2e%2e/plate.zarr/zarr.json", "/raw/demo/plate.zarr/%ff"),
    *("/raw/demo/plate.zarr/%c0%ae%c0%ae/secret.txt", "/raw/demo/manifest/plate.json", "/raw/demo/wells.csv"),
    *("/raw/demo/journal/tile-0.jsonl", "/raw/demo/plate.zarr", "/raw/demo/plate.zarr/", "/raw/demo/plate.zarr/B"),
    *("/raw/demo/plate.zarr/B/02/0/", "/static/../server.py", "/static/%2e%2e%2fserver.py", "/static/fetch.py"),
    *("/raw/demo/plate.zarr/out.txt", "/raw/demo/plate.zarr/away/secret.txt", "/raw/linked/plate.zarr/secret.txt"),
    *("http://127.0.0.1/raw/demo/plate.zarr/../../../secret.txt", "/info/../plate", "/tile/../B02/0/0/0.webp", "*"),
    *("/raw/demo/plate.zarr/" + "a" * 5000, "/raw/demo/plate.zarr/.hidden", "/raw/demo/plate.zarr/B/02/0?/../../x"),
]


def test_nothing_else_is_served(lit: Planted, tmp_path: Path) -> None:
    """Requests as they are, over a socket: clients tidy up paths before they send them."""
    plate = copy_results(lit, tmp_path / "a")
    (plate.root / "secret.txt").write_text("SECRET")
    store = plate.paths.store
    (store / "out.txt").symlink_to(plate.root / "secret.txt")
    (store / "away").symlink_to(plate.root)
    (store / ".hidden").write_text("SECRET")
    linked = tmp_path / "elsewhere" / "plate.zarr"
    linked.mkdir(parents=True)
    (linked / "secret.txt").write_text("SECRET")
    (plate.root / "results" / "linked").symlink_to(linked.parent)
    with serving(Plates(plate.root / "results")) as server:
        for path in WAYS_OUT:
            for method in ("GET", "HEAD"):
                lines = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                answer = raw_request(server, lines.encode("latin-1"))
                assert answer[:11] == b"HTTP/1.1 40", (path, answer[:200])
                for word in (b"SECRET", b"root:", b"fingerprint", b"Metadata_", b"import "):
                    assert word not in answer, path
        lines = b"GET /raw/demo/plate.zarr/zarr.json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert raw_request(server, lines).endswith((store / "zarr.json").read_bytes())  # it isn't that all is refused
        for method in ("POST", "PUT", "DELETE"):
            assert ask(server, "/raw/demo/plate.zarr/zarr.json", method)[0] in (405, 501)


def test_a_second_request_is_not_looked_for_behind_a_body(served: Server) -> None:
    body = b"GET /demo/B02 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    first = b"GET /demo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert raw_request(served, first + body).count(b"HTTP/1.1 200") == 1


def test_odd_requests_are_answered_in_little_time_and_memory(served: Server) -> None:
    tile = "/tile/demo/B02/0/0/0.webp?channels="
    once, often = get(served, f"{tile}0-ffffff"), get(served, tile + ",".join(["0-ffffff"] * 3000))
    assert once == often, "a channel is drawn once, however often it is named"
    assert ask(served, "/info/demo/plate?" + "&".join(f"a{n}=1" for n in range(500)))[0] == 200
    for line in ("OPTIONS http://[/raw/x", "GET http://[/raw/x"):
        assert raw_request(served, f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())[:10] == b"HTTP/1.1 4"


def test_an_error_in_the_middle_of_a_file_ends_the_answer_there(served: Server, monkeypatch) -> None:
    """Another answer behind it would be read as a part of the file."""

    class Fails(io.BytesIO):
        name = "0"
        pieces = 0

        def open(self, _: str) -> Fails:
            return self

        def read(self, size: int | None = -1, /) -> bytes:
            self.pieces += 1
            if self.pieces > 1:
                raise OSError("the disk fails")
            return super().read(size)

    monkeypatch.setattr("plateflow.viewer.server.file_in", lambda *_: Fails(b"7" * 2**21))
    head, _, body = raw_request(served, f"GET {CHUNK} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).partition(
        b"\r\n\r\n"
    )
    assert b"Content-Length: 2097152" in head
    assert body == b"7" * 2**20


def test_what_a_well_lacks_is_said(lit: Planted, served: Server, tmp_path: Path) -> None:
    status, _, body = ask(served, "/info/demo/C02")
    said = json.loads(body)
    assert (status, said["what"], said["where"]) == (409, "the well was left out: truncated", "demo/C02")
    assert "r03c02f01p01-ch1" in said["why"] and said["remedy"]
    assert ask(served, "/tile/demo/C02/0/0/0.webp")[0] == 409
    assert ask(served, "/info/demo/H12")[0] == 404
    assert ask(served, "/info/other/B02")[0] == 404
    assert ask(served, "/demo/notawell")[0] == 404
    plate = copy_results(lit, tmp_path)
    plate.paths.window.unlink()
    with serving(Plates(plate.root / "results")) as server:
        status, _, body = ask(server, "/info/demo/B02")
        assert (status, json.loads(body)["what"]) == (409, "the plate has no intensity window")


def test_a_plate_that_changes_while_it_is_viewed(lit: Planted, tmp_path: Path) -> None:
    plate = copy_results(lit, tmp_path)
    image = plate.paths.image("B02")
    tile = "/tile/demo/B02/0/0/0.webp?channels=0-ffffff"
    outlined = f"{tile}&labels=1-ffffff"
    with serving(Plates(plate.root / "results")) as server:
        before = picture(get(server, outlined))
        fewer = zarr.open_array(image / "labels" / "cells" / "0", mode="r+")
        fewer[:] = 0
        append_outcome(plate.paths.journal("stitch", "0"), Entry(well="B02", label_set="cells", fingerprint="new"))
        after = picture(get(server, outlined))
        assert (before != after).any()
        np.testing.assert_array_equal(after, picture(get(server, tile)))
        shutil.rmtree(image / "labels" / "cells")  # as when ingest replaces it
        assert ask(server, outlined)[0] == 404  # the browser's page is of before
        assert [each["name"] for each in json.loads(get(server, "/info/demo/B02"))["labels"]] == ["nuclei"]
        (image / "1" / "zarr.json").write_text("{")
        status, _, body = ask(server, tile.replace("/0/0/0", "/1/0/0"))
        assert (status, json.loads(body)["what"]) == (409, "the metadata of a well's image can't be read")
        shard = image / "0" / "c/0/0/0/0/0"
        shard.write_bytes(shard.read_bytes()[:1000])
        status, _, body = ask(server, "/tile/demo/B02/0/0/0.webp?channels=1-ffffff")
        assert (status, json.loads(body)["what"]) == (409, "the pixels can't be read")
        shutil.rmtree(image.parent)
        assert ask(server, "/info/demo/B03")[0] == 200
        assert ask(server, f"{CHUNK}")[0] == 404


def test_labels_that_were_corrected_are_listed_and_stand_for_the_others(lit: Planted, tmp_path: Path) -> None:
    plate = copy_results(lit, tmp_path)
    labels = plate.paths.image("B02") / "labels"
    shutil.copytree(labels / "cells", labels / "cells_corrected")
    zarr.open_array(labels / "cells_corrected" / "0", mode="r+")[:] = 0
    group = json.loads((labels / "zarr.json").read_text())
    group["attributes"]["ome"]["labels"].append("cells_corrected")
    (labels / "zarr.json").write_text(json.dumps(group))
    with serving(Plates(plate.root / "results")) as server:
        shown = {each["name"]: each["on"] for each in json.loads(get(server, "/info/demo/B02"))["labels"]}
        assert shown == {"nuclei": True, "cells": False, "cells_corrected": True}
        with_, without = (get(server, f"/tile/demo/B02/0/0/0.webp?labels={n}-ffffff") for n in (1, 2))
        assert picture(with_).any() and not picture(without).any()


COMMAND = "import sys; from plateflow.cli import app; sys.argv[0] = 'plateflow'; app()"


def test_the_command_serves_until_it_is_interrupted(lit: Planted) -> None:
    words = [sys.executable, "-c", COMMAND, "view", str(lit.paths.root / "B03"), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        url = first.partition(": demo/B03")[0]
        assert urllib.request.urlopen(url, timeout=20).status == 200
        root = url.removesuffix("/demo/B03")
        assert urllib.request.urlopen(f"{root}/", timeout=20).url == url
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()  # `communicate` would pass over what was read with the first line
        process.wait(20)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert f"napari --plugin napari-ome-zarr {lit.paths.image('B03')}" in said
    assert f"{NEUROGLANCER}/#!" in said and urllib.parse.quote(root) in said


def test_what_can_not_be_viewed_is_refused(lit: Planted, tmp_path: Path) -> None:
    for target, words in (
        ("results/none", "there is nothing to view at 'results/none'"),
        (str(lit.paths.root / "x1y"), "is not a well name"),
        (str(lit.paths.root / "H12"), "the plate has no well H12"),
    ):
        assert words in plateflow("view", target, "--port", "0", cwd=tmp_path, status=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = plateflow("view", lit.paths.root, "--port", str(port), cwd=tmp_path, status=1)
    assert f"127.0.0.1:{port}" in said and "--port" in said


def test_only_who_asks_for_it_is_reached_from_elsewhere(lit: Planted, served: Server) -> None:
    assert served.is_loopback
    server = Server(Plates(lit.root / "results"), host="0.0.0.0")
    server.server_close()
    assert not server.is_loopback
    assert server.is_own("192.0.2.7:8790") and server.is_own(f"{socket.gethostname()}:1")
    assert not server.is_own("evil.example")
