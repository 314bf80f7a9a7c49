"""The one way in which functions are compiled: without the interpreter's lock, and kept on the disk where that goes."""

import warnings
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba

from plateflow.installed import PACKAGE, SHARE, user_cache

if SHARE.is_dir():
    # A wheel, into which its users write nothing. Each build has a folder of its own: numba compares the file of a
    # function alone, not those of the functions that it calls.
    _settings: Any = numba.config
    _build = sha256(b"".join(file.read_bytes() for file in PACKAGE.parent.glob("plateflow-*.dist-info/RECORD")))
    _settings.CACHE_DIR = str(Path(_settings.CACHE_DIR or user_cache(), _build.hexdigest()[:16]))
    _settings.CACHE_LOCATOR_CLASSES = "UserProvidedCacheLocator"


def compiled(function: Callable[..., Any] | None = None, *, inline: str = "never") -> Any:
    """Compile a function when it is first called, and keep the machine code for later processes.

    Numba keeps it in `NUMBA_CACHE_DIR`, else beside the source (not in a wheel), else in the user's cache. Where it can
    write in none of them, as in a container that is read-only, each process compiles for itself, and says so once.

    Args:
        function: to be compiled; without one this is a decorator with options.
        inline: `always` copies the function into those that call it.
    """
    if function is None:
        return lambda function: compiled(function, inline=inline)
    return kept(numba.njit, function, nogil=True, inline=inline)


def kept(jit: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    """A function compiled by one of numba's decorators with these options, its machine code kept where that goes.

    What was kept counts until a module of its folder changes: numba looks at the function's own file alone, and would
    go on with what it has made of others' functions and constants. Compiled functions use none of other folders.
    """
    try:
        made = jit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _say_uncached()
        return jit(**options)(function)
    if hasattr(made, "_cache"):  # not so in numba's simulator, nor with NUMBA_DISABLE_JIT
        made._cache._cache_file._source_stamp = _sources(Path(function.__code__.co_filename).parent)
    return made


@cache
def _sources(folder: Path) -> str:
    """A digest of the modules in a folder."""
    digests = (sha256(file.read_bytes()).digest() + file.name.encode() for file in sorted(folder.glob("*.py")))
    return sha256(b"".join(digests)).hexdigest()


@cache
def _say_uncached() -> None:
    warnings.warn(
        "there is no folder in which compiled code can be kept, so that each process compiles again, for up to a "
        "minute; name one that can be written in the environment variable NUMBA_CACHE_DIR",
        RuntimeWarning,
        stacklevel=1,
    )
