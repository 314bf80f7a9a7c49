"""The server of `plateflow view`: pages, tiles, and the store as it is, for programs and pages on this machine.

    /PLATE, /PLATE/WELL                            the page
    /info/PLATE/plate, /info/PLATE/WELL            what it shows, as JSON
    /tile/PLATE/WELL/LEVEL/X/Y.webp?...            a tile (`tiles.Look.of` has the query)
    /tile/PLATE/WELL/preview.webp                  the well as a small picture
    /label/PLATE/WELL?y=&x=&labels=...             the labels at a pixel
    /raw/PLATE/plate.zarr/...                      files of the store, with ranges

It reads, and never writes. Pages of other sites get nothing but what `ORIGINS` may read of the store: a name that leads
to this machine is no name of it (`Host`), and requests that other sites' pages make are refused.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import traceback
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from plateflow.errors import PlateflowError
from plateflow.paths import parse_well, well_name
from plateflow.viewer import links, tiles
from plateflow.viewer.plates import Missing, Plates, ShownPlate
from plateflow.viewer.raw import RangeError, byte_range, file_in, segments
from plateflow.viewer.tiles import Look, RequestError

FOLDER = Path(__file__).parent
FILES = {
    "viewer.js": ("page/viewer.js", "text/javascript"),
    "viewer.css": ("page/viewer.css", "text/css"),
    "openseadragon.js": ("static/openseadragon.min.js", "text/javascript"),
}
"""Of the page, by their names in addresses."""
OPENSEADRAGON = FOLDER / FILES["openseadragon.js"][0]
ORIGINS = ("https://neuroglancer-demo.appspot.com",)
"""Sites whose pages may read the store, besides those that this machine serves."""
PREVIEW_PX = 192
"""Edge of the pictures of wells on a plate's page: the least level that has it."""
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"
_PIECE = 2**20


class Server(ThreadingHTTPServer):
    """Serves the plates below a folder of results.

    Args:
        host, port: where it listens; port 0 takes a free one, which `server_port` names.
        start: the path to which `/` leads.

    Raises:
        PlateflowError: it can't listen there.
    """

    daemon_threads = True

    def __init__(self, plates: Plates, *, host: str = "127.0.0.1", port: int = 0, start: str = "/") -> None:
        self.plates, self.host, self.start = plates, host, start
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            why = f"{error.strerror or error}: another `plateflow view` may run there"
            remedy = "end the other one, or choose another port with --port (0: any that is free)"
            raise PlateflowError("the viewer can't listen", where=f"{host}:{port}", why=why, remedy=remedy) from error

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, as http.server does."""
        super(ThreadingHTTPServer, self).server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ip_address(self.server_address[0]).is_loopback  # type: ignore[arg-type]

    def is_own(self, host: str) -> bool:
        """Whether a header `Host` names this server: a number, `localhost` or the host that was asked for.

        A name of another site that leads to this machine (DNS rebinding) isn't.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            return ip_address(name).is_loopback or not self.is_loopback
        except ValueError:
            return name in {"localhost", self.host.lower()} or (not self.is_loopback and name in _names())


@cache
def _names() -> set[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()}


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "plateflow"
    sys_version = ""
    timeout = 60
    begun = False
    """Whether the answer to a request has begun: an error that comes then can only end it."""

    def do_GET(self) -> None:
        self.begun = False
        try:
            self._answer()
        except RangeError as error:
            self._send(416, b"", "text/plain", {"Content-Range": f"bytes */{error.size}"})
        except (Missing, RequestError, FileNotFoundError) as error:
            self._fail(404, error)
        except PlateflowError as error:
            self._fail(409, error)
        except ConnectionError:  # the browser has gone on
            self.close_connection = True
        except OSError as error:
            self._fail(503, error)
        except Exception as error:
            traceback.print_exc()
            self._fail(500, error)

    do_HEAD = do_GET

    def do_OPTIONS(self) -> None:
        """What a browser asks before a page of another site reads a range."""
        more = {"Access-Control-Allow-Methods": "GET, HEAD, OPTIONS", "Access-Control-Allow-Headers": "Range"}
        if self._refused(names := segments(self.path.partition("?")[0])) or not names or names[0] != "raw":
            self._send(403, b"refused\n", "text/plain")
            return
        if self.headers.get("Access-Control-Request-Private-Network") == "true":
            more["Access-Control-Allow-Private-Network"] = "true"
        self._send(204, b"", "", more | self._cors())

    def _answer(self) -> None:
        self._end_odd()
        path, _, query = self.path.partition("?")
        names = segments(path) if path != "/" else []
        if why := self._refused(names):
            self._send(403, f"refused: {why}\n".encode(), "text/plain")
            return
        asked = dict(parse_qsl(query))
        match names:
            case []:
                self._send(302, b"", "text/plain", {"Location": self.server.start})
            case ["raw", plate, "plate.zarr", *rest] if rest:
                self._send_raw(plate, rest)
            case ["static", name] if name in FILES:
                file, kind = FILES[name]
                self._send(200, (FOLDER / file).read_bytes(), kind)
            case ["info", plate, "plate"]:
                self._send_json(self.server.plates.about(plate))
            case ["info", plate, name]:
                shown, well = self._well(plate, name)
                tools = links.others(shown.paths, well, shown.labels(well), self.server.server_port)
                self._send_json(shown.about_well(well) | {"others": tools})
            case ["tile", plate, name, "preview.webp"]:
                shown, well = self._well(plate, name)
                self._send(200, self._preview(shown, well), "image/webp")
            case ["tile", plate, name, level, x, y] if y.endswith(".webp"):
                shown, well = self._well(plate, name)
                place = _numbers(level, x, y.removesuffix(".webp"), asked.get("part", "0"))
                self._send(200, self._tile(shown, well, place, asked), "image/webp")
            case ["label", plate, name]:
                shown, well = self._well(plate, name)
                self._send_json(self._labels(shown, well, asked))
            case [plate] | [plate, _]:
                for name in names[1:]:
                    _well_name(name)
                self.server.plates.paths(plate)
                more = {"Content-Security-Policy": POLICY}
                self._send(200, (FOLDER / "page/page.html").read_bytes(), "text/html", more)
            case _:
                raise RequestError("there is nothing here")

    def _refused(self, names: list[str] | None) -> str:
        """Why a request isn't answered: by whom it comes, not what it asks for."""
        if not self.server.is_own(self.headers.get("Host", "")):
            return "the address is no name of this machine"
        raw = bool(names) and names is not None and names[0] == "raw"
        navigates = (
            self.headers.get("Sec-Fetch-Mode") == "navigate" and self.headers.get("Sec-Fetch-Dest") == "document"
        )
        origin = self.headers.get("Origin")
        foreign = self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not navigates
        if raw:  # its answer says which origins may read it
            return "pages of this site read no plates here" if origin and not self._cors() else ""
        if foreign or (origin and origin != f"http://{self.headers.get('Host')}"):
            return "a page of another site asks"
        return ""

    def _cors(self) -> dict[str, str]:
        """Headers that let a page of another site on this machine, or one of `ORIGINS`, read the store."""
        origin = self.headers.get("Origin") or ""
        try:
            name = urlsplit(origin).hostname or ""
            here = name == "localhost" or ip_address(name).is_loopback
        except ValueError:
            here = False
        if not (here or origin in ORIGINS):
            return {}
        exposed = "Content-Length, Content-Range, Accept-Ranges"
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Expose-Headers": exposed}

    def _end_odd(self) -> None:
        """A request with a body is answered, but the next one isn't looked for behind it."""
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            self.close_connection = True

    def _well(self, plate: str, name: str) -> tuple[ShownPlate, str]:
        return self.server.plates.plate(plate), _well_name(name)

    def _tile(self, shown: ShownPlate, well: str, place: list[int], asked: dict[str, str]) -> bytes:
        image, fields = shown.image(well)
        look = Look.of(asked, image.layout, shown.labels(well))
        level, x, y, part = place
        region = tiles.tile_region(image, level, x, y, part)
        key = shown.paths.plate, shown.stamp, well, look, *place
        return self._drawn(key, lambda: tiles.encoded(tiles.draw(image, fields, look, level, region)))

    def _preview(self, shown: ShownPlate, well: str) -> bytes:
        image, fields = shown.image(well)
        level = min(image.preview_level(PREVIEW_PX), tiles.n_levels(image) - 1)
        region, look = tiles.region_of(image, level), shown.look(well)
        key = shown.paths.plate, shown.stamp, well, "preview"
        return self._drawn(key, lambda: tiles.encoded(tiles.draw(image, fields, look, level, region)))

    def _drawn(self, key: Any, draw: Callable[[], bytes]) -> bytes:
        return self.server.plates.drawn(key, draw, self._is_awaited)

    def _is_awaited(self) -> bool:
        """Whether the client is still there: a browser that has moved on closes the connection."""
        said = select.poll()
        said.register(self.connection, select.POLLIN)
        return not said.poll(0) or self.connection.recv(1, socket.MSG_PEEK) != b""

    def _labels(self, shown: ShownPlate, well: str, asked: dict[str, str]) -> dict[str, int]:
        image, _ = shown.image(well)
        look = Look.of(asked, image.layout, shown.labels(well))
        y, x = _numbers(asked.get("y", ""), asked.get("x", ""))
        height, width = image.layout.shape[-2:]
        if y >= height or x >= width:
            raise RequestError(f"the image has {height} x {width} px")
        pixel = slice(y, y + 1), slice(x, x + 1)
        found = {name: tiles.labels_in(image, name, look, 0, pixel) for name, _ in look.labels}
        return {name: int(labels[0, 0]) for name, labels in found.items() if labels is not None}

    def _send_raw(self, plate: str, names: list[str]) -> None:
        paths = self.server.plates.paths(plate)
        file = file_in(paths.store, self.server.plates.folder, names)
        if file is None:  # a chunk of zeros has none
            self._send(404, b"there is no such file\n", "text/plain", self._cors())
            return
        kind = "application/json" if file.name == "zarr.json" else "application/octet-stream"
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            span = byte_range(self.headers.get("Range"), size)
            first, last = span or (0, size - 1)
            more = {"Accept-Ranges": "bytes"} | self._cors()
            more |= {"Content-Range": f"bytes {first}-{last}/{size}"} if span else {}
            left = last - first + 1
            self._head(206 if span else 200, kind, left, more)
            opened.seek(first)
            while left and self.command != "HEAD":
                piece = opened.read(min(left, _PIECE))
                if not piece:  # cut while it was read
                    self.close_connection = True
                    return
                self.wfile.write(piece)
                left -= len(piece)

    def _send_json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _fail(self, status: int, error: Exception) -> None:
        if self.begun:
            self.close_connection = True
            return
        what, where, why = str(error), "", ""
        remedy = "look again in a moment: what isn't there yet is being made" if status == 503 else ""
        if isinstance(error, PlateflowError):
            what, where, why, remedy = error.what, error.where, error.why, error.remedy
        self._send_json({"what": what, "where": where, "why": why, "remedy": remedy}, status)

    def _send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self._head(status, kind, len(body), more or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, size: int, more: dict[str, str]) -> None:
        self.begun = True
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        if status != 204:
            self.send_header("Content-Length", str(size))
        fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if not self.path.startswith("/raw/"):
            fixed["Cross-Origin-Resource-Policy"] = "same-origin"
        for name, value in (fixed | more).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def _numbers(*texts: str) -> list[int]:
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        raise RequestError(f"{', '.join(map(repr, texts))} aren't whole numbers")
    return [int(text) for text in texts]


def _well_name(name: str) -> str:
    try:
        return well_name(*parse_well(name))
    except ValueError as error:
        raise RequestError(str(error)) from None


def page_path(plate: str, well: str = "") -> str:
    """The path of a plate's page, or of a well's."""
    return f"/{quote(plate)}" + (f"/{quote(well)}" if well else "")
