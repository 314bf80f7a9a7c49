"""Download of published weights: interrupted ones resume, and the file appears only once its hash is right.

Not with pooch, which verifies hashes too but restarts an interrupted gigabyte from the beginning.
"""

import ssl
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from plateflow.errors import ModelError
from plateflow.model.registry import PUBLISHED, check_published, ways_to_get

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
TRIES = 4
"""Consecutive attempts without a byte before the download fails."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further one."""
_PIECE = 2**20
_RANGE_BEYOND_END = 416  # status: the server's file ends before the requested byte


def fetch(name: str, folder: Path, *, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Download a published file into a folder, unless it is there.

    Args:
        name: of the model in the registry.
        folder: made if missing. The bytes received so far are kept there as `<file>.part`, beside the server's tag for
            this version of the file, so that pieces of different versions aren't joined.
        progress: called now and then with the number of bytes present.

    Returns:
        The path of the file, which has the published size and hash.

    Raises:
        ModelError: server or folder hold other bytes than were published, or the network fails; the message says how
            else to get the file.
    """
    card = PUBLISHED[name]
    target = folder / card.file
    if target.exists():
        check_published(name, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{card.file}.part"
    for last_attempt in (False, True):
        joined = _download(name, part, progress)
        try:
            check_published(name, part)
            break
        except ModelError as error:
            if isinstance(error.__cause__, OSError):  # the disk's fault: what was downloaded stays
                raise
            _discard(part)
            if last_attempt or not joined:  # joined bytes may come from two versions of the file: try once more
                raise _not_published(name) from None
    part.replace(target)
    _discard(part)
    return target


def _download(name: str, part: Path, progress: Callable[[int], None]) -> bool:
    """Download until the part has the published size; return whether it was joined from several pieces."""
    card, idle, joined = PUBLISHED[name], 0, part.exists()
    while (before := _size(part)) < card.size:
        why = "the connection broke off"
        try:
            joined |= _append(name, part, progress)
        except HTTPError as error:
            why = f"the server answers {error.code} {error.reason}"
            if error.code < 500:
                raise _cannot_fetch(name, why) from None
        except (ConnectionError, TimeoutError, HTTPException, ssl.SSLError) as error:
            why = str(error) or type(error).__name__
        idle = 0 if _size(part) > before else idle + 1
        if idle == TRIES:
            kept = f"{_size(part):,} of {card.size:,} bytes are kept, and the next attempt resumes there"
            raise _cannot_fetch(name, f"{why}; {kept}")
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))
    return joined


def _append(name: str, part: Path, progress: Callable[[int], None]) -> bool:
    """Append what the server sends to the part and return True; False if the server started from the beginning."""
    card, tag, done = PUBLISHED[name], part.with_name(f"{part.name}.etag"), _size(part)
    request = Request(card.url)
    if done:
        request.add_header("Range", f"bytes={done}-")
        if tag.exists():
            request.add_header("If-Range", tag.read_text())  # if the file changed, the server sends all of it
    try:
        answer = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != _RANGE_BEYOND_END:
            raise
        _discard(part)
        raise _not_published(name) from None
    except OSError as error:  # no route, no such host, no certificate
        raise ConnectionError(getattr(error, "reason", None) or error) from error
    with answer:
        resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done = done if resumes else 0
        length = answer.headers.get("Content-Length")
        if length and done + int(length) != card.size:
            _discard(part)
            raise _not_published(name)
        etag = answer.headers.get("ETag", "")
        if etag.startswith('"'):  # a weak tag (W/) doesn't promise equal bytes
            tag.write_text(etag)
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if resumes else "wb") as file:
            while done <= card.size and (piece := answer.read(_PIECE)):
                file.write(piece)
                done += len(piece)
                progress(done)
    return resumes


def _not_published(name: str) -> ModelError:
    why = f"the server sends something other than was published as {name!r}: another size or sha256; nothing is kept"
    return _cannot_fetch(name, why)


def _cannot_fetch(name: str, why: str) -> ModelError:
    return ModelError("the weights can't be fetched", where=PUBLISHED[name].url, why=why, remedy=ways_to_get(name))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
