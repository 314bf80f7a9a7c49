"""Download of published weights: goes on where it broke off, is checked, and appears only when it is right.

Written here because pooch, which checks hashes too, starts a gigabyte that broke off anew.
"""

import ssl
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from plateflow.model.registry import PUBLISHED, check_published, ways_to_bring

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
TRIES = 4
"""Attempts in a row that bring no byte before the download is given up."""
PAUSE = 1.0
"""Seconds before the second of them; doubled for each further one."""
_BLOCK = 2**20
_BEYOND = 416  # the server's file ends before the byte asked for


def fetch(name: str, folder: Path, *, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Download a published file into a folder, unless it is there.

    Args:
        name: of the model in the registry.
        folder: made if it is missing. What has come so far lies there as `<file>.part`, beside it the server's tag
            for this version of the file, so that another one on the server isn't joined to it.
        progress: told the bytes that are there, now and then.

    Returns:
        the path of the file, whose size and hash are the published ones.

    Raises:
        ValueError: there are other bytes than were published, on the server or in the folder.
        ConnectionError: the network doesn't bring it; the message says how else it can come.
    """
    card = PUBLISHED[name]
    target = folder / card.file
    if target.exists():
        check_published(name, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{card.file}.part"
    for last in (False, True):
        joined = _bring(name, part, progress)
        try:
            check_published(name, part)
            break
        except ValueError:
            _discard(part)
            if last or not joined:  # else these may have been pieces of two files: once more
                raise _not_published(name) from None
    part.replace(target)
    _discard(part)
    return target


def _bring(name: str, part: Path, progress: Callable[[int], None]) -> bool:
    """Download until the part has the published size, in as many pieces as it takes; whether there were several."""
    card, idle, joined = PUBLISHED[name], 0, part.exists()
    while (before := _size(part)) < card.size:
        why = "the connection broke off"
        try:
            joined |= _continue(name, part, progress)
        except HTTPError as error:
            why = f"{error.code} {error.reason}"
            if error.code < 500:
                raise ConnectionError(f"{card.url} answers {why}. {ways_to_bring(name)}") from None
        except (ConnectionError, TimeoutError, HTTPException, ssl.SSLError) as error:
            why = str(error) or type(error).__name__
        idle = 0 if _size(part) > before else idle + 1
        if idle == TRIES:
            raise ConnectionError(
                f"{card.url} can't be downloaded: {why}. {_size(part):,} of {card.size:,} bytes are kept and used when "
                f"it is tried again. {ways_to_bring(name)}"
            )
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))
    return joined


def _continue(name: str, part: Path, progress: Callable[[int], None]) -> bool:
    """Append to the part what the server sends (True), or begin anew where it doesn't go on where we ask it to."""
    card, tag, done = PUBLISHED[name], part.with_name(f"{part.name}.etag"), _size(part)
    request = Request(card.url)
    if done:
        request.add_header("Range", f"bytes={done}-")
        if tag.exists():
            request.add_header("If-Range", tag.read_text())  # all of it, if it is another file by now
    try:
        answer = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != _BEYOND:
            raise
        _discard(part)
        raise _not_published(name) from None
    except OSError as error:  # no route, no name, no certificate
        raise ConnectionError(getattr(error, "reason", None) or error) from error
    with answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done = done if goes_on else 0
        length = answer.headers.get("Content-Length")
        if length and done + int(length) != card.size:
            _discard(part)
            raise _not_published(name)
        found = answer.headers.get("ETag", "")
        if found.startswith('"'):  # a weak tag (W/) doesn't promise equal bytes
            tag.write_text(found)
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if goes_on else "wb") as file:
            while done <= card.size and (block := answer.read(_BLOCK)):
                file.write(block)
                done += len(block)
                progress(done)
    return goes_on


def _not_published(name: str) -> ValueError:
    return ValueError(
        f"{PUBLISHED[name].url} sends something else than was published as {name!r}: other size or sha256. Nothing is "
        f"kept of it. {ways_to_bring(name)}"
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
