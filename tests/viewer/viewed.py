"""A plate that is viewed: small, with its true objects, and light that needs correction; and a way to ask for it."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import imagecodecs
import numpy as np
import zarr
from planted_plate import Planted, small_plate

from plateflow.images.well import WellImage
from plateflow.viewer.plates import Plates
from plateflow.viewer.server import Server

TINTS = {"DNA": "#3366ff", "AGP": "#00c853", "Marker": "#ff5050"}
COLOURS = {"nuclei": "#ffb000", "cells": "#ffffff"}


def lit_plate(root: Path) -> Planted:
    """The small plate, as if DNA's light fell off towards one corner; simulated plates are lit evenly."""
    planted = small_plate(root)
    with np.load(planted.paths.illumination) as file:
        names, coefficients = file["channels"], file["coefficients"].copy()
    place = names.tolist().index("DNA")
    coefficients[place] = 0
    coefficients[place, 0, 0], coefficients[place, 1, 0], coefficients[place, 0, 1] = 1, 0.3, 0.2
    np.savez(planted.paths.illumination, channels=names, coefficients=coefficients)
    window = json.loads(planted.paths.window.read_text())
    window["light"]["DNA"] = {"dark": 100.0}
    planted.paths.window.write_text(json.dumps(window))
    return planted


@contextmanager
def serving(plates: Plates) -> Iterator[Server]:
    """A server in a thread."""
    server = Server(plates)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def address(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def get(server: Server, path: str, **headers: str) -> bytes:
    """The body of an answer; other statuses than 200 and 206 are HTTPError."""
    request = Request(address(server, path), headers={name.replace("_", "-"): value for name, value in headers.items()})
    with urlopen(request, timeout=20) as answer:
        return answer.read()


def picture(data: bytes) -> np.ndarray:
    return imagecodecs.webp_decode(data)


def raw_request(server: Server, lines: bytes) -> bytes:
    """What the server answers to bytes as they are: clients would tidy up the path. It is to close the connection."""
    with closing(socket.create_connection(("127.0.0.1", server.server_port), timeout=20)) as connection:
        connection.sendall(lines)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(2**16):
            answer += piece
    return answer


def slow_picture(
    planted: Planted,
    well: str,
    level: int,
    channels: dict[str, str],
    labels: dict[str, str],
    *,
    light: bool,
    t: int = 0,
) -> np.ndarray:
    """The whole of a level, drawn in the plainest way: for images of one plane with all fields in use."""
    image = WellImage.open(planted.paths, well)
    folder = planted.paths.image(well)
    stored = zarr.open_array(folder / str(level), mode="r")[0, :, 0].astype(np.float32)
    red_green_blue = np.zeros((*stored.shape[1:], 3), np.float32)
    for name, code in channels.items():
        values = stored[image.layout.channels.index(name)].copy()
        if light and not image.window.lights[name].why:
            dark = np.float32(image.window.lights[name].dark)
            for box in image.layout.fields:
                ys, xs = (slice(side.start >> level, side.stop >> level) for side in box.slices)
                profile = image.window.lights[name].profile(box.height >> level, box.width >> level)
                values[ys, xs] = dark + (values[ys, xs] - dark) / profile
        low, high = image.window.limits(name)
        shown = np.clip((values - low) / (high - low), 0, 1) ** 0.7
        for n in range(3):
            red_green_blue[..., n] += shown * np.float32(int(code[1 + 2 * n : 3 + 2 * n], 16) / 255)
    red_green_blue = np.clip(red_green_blue, 0, 1)
    for name, code in reversed(labels.items()):
        numbers = zarr.open_array(folder / "labels" / name / str(level), mode="r")[0, 0]
        for y, x in np.ndindex(numbers.shape):
            below = y + 1 < numbers.shape[0] and numbers[y + 1, x] != numbers[y, x]
            right = x + 1 < numbers.shape[1] and numbers[y, x + 1] != numbers[y, x]
            if below or right:
                red_green_blue[y, x] = [int(code[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return (red_green_blue * 255).astype(np.uint8)


def query(image: WellImage, channels: dict[str, str], labels: dict[str, str], names: list[str], **more: object) -> str:
    """The query of a tile."""
    shown = ",".join(f"{image.layout.channels.index(name)}-{code[1:]}" for name, code in channels.items())
    drawn = ",".join(f"{names.index(name)}-{code[1:]}" for name, code in labels.items())
    return "&".join(f"{name}={value}" for name, value in ({"channels": shown, "labels": drawn} | more).items())


def copy_results(planted: Planted, root: Path) -> Planted:
    """The same results elsewhere, light included."""
    shutil.copytree(planted.root / "results", root / "results")
    config = planted.config.model_copy(update={"results": str(root / "results")})
    return Planted(root=root, config=config, entry=planted.entry, truth=planted.truth)
