"""Kinds of damage to the images of a raw plate; a kind changes a copy of the plate in place."""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from damaged_plate import CHANNELS, FIELDS, Damage, Raw


def _one(change: Callable[[Path], object], at: int = 1) -> Callable[[Raw], None]:
    return lambda raw: (change(raw.images()[at]), None)[1]


def _every(change: Callable[[Path], object], choose: Callable[[list[Path]], list[Path]] = lambda files: files):
    def make(raw: Raw) -> None:
        for path in choose(raw.images()):
            change(path)

    return make


def _cut(keep: Callable[[int], int]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])


def _scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = random.Random(1).randbytes(third)
    path.write_bytes(bytes(content))


def _outside(path: Path) -> Path:
    """A file outside of the plate's folder with the content of this one."""
    out = path.parents[len(path.parts) - path.parts.index("copy") - 1].parent / f"outside-{path.name}"
    shutil.copy(path, out)
    return out


def _link_out(path: Path) -> None:
    out = _outside(path)
    path.unlink()
    path.symlink_to(out)


def _link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_files() -> Iterator[Damage]:
    """Kinds that concern one file with pixels, or many."""
    yield Damage(name="image deleted", make=_one(Path.unlink), says="missing|not in the plate")
    yield Damage(name="image empty", make=_one(lambda p: p.write_bytes(b"")), says="no content|unreadable|missing")
    yield Damage(name="image cut in the middle", make=_one(_cut(lambda n: n // 2)), says="truncated|unreadable")
    yield Damage(name="image without its last byte", make=_one(_cut(lambda n: n - 1)), says="truncated|unreadable")
    yield Damage(name="image with eight bytes", make=_one(_cut(lambda n: 8)), says="truncated|unreadable")
    yield Damage(name="image scrambled", make=_one(_scramble), says="unreadable|truncated")
    yield Damage(name="image is a page of HTML", make=_one(lambda p: p.write_bytes(b"<html>404</html>")))
    yield Damage(name="image is a folder", make=_one(_folder))
    yield Damage(name="image is a link out", make=_one(_link_out), says="out of|outside|missing|not in the plate")
    yield Damage(name="image is a dead link", make=_one(_link("nowhere")))
    yield Damage(name="image is a link to itself", make=_one(lambda p: _link(p.name)(p)))
    yield Damage(name="first image empty", make=_one(lambda p: p.write_bytes(b""), at=0))
    yield Damage(name="all images deleted", make=_every(Path.unlink))
    yield Damage(name="all images empty", make=_every(lambda p: p.write_bytes(b"")))
    yield Damage(name="all images cut", make=_every(_cut(lambda n: n // 2)))
    half = FIELDS * sum(CHANNELS.values())
    yield Damage(
        name="a well's images deleted", make=_every(Path.unlink, lambda files: sorted(files, key=_well_of)[:half])
    )
    yield Damage(name="folder gone", make=lambda raw: shutil.rmtree(raw.root), says="does not exist|is unknown")
    yield Damage(name="folder empty", make=lambda raw: (shutil.rmtree(raw.root), raw.root.mkdir())[1], says="is empty")
    yield Damage(
        name="folder is a file",
        make=lambda raw: (shutil.rmtree(raw.root), raw.root.write_text("x"))[0],
        says="does not exist|no folder",
    )
    yield Damage(name="junk of other systems", make=_junk, harmless=True)
    yield Damage(name="image copied by hand", make=_copied, harmless=True)
    yield Damage(name="a file with an odd name", make=_odd_names, harmless=True)
    yield Damage(name="pixels of another image", make=_doubled, says="doubled")


def _well_of(path: Path) -> str:
    return "B" if re.search(r"B[/_]?02|r02c02", path.as_posix()) else "C"


def _junk(raw: Raw) -> None:
    for image in raw.images()[:2]:
        (image.parent / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (image.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        image.with_name(f"._{image.name}").write_bytes(b"\0\5\x16\7" + bytes(100))


def _copied(raw: Raw) -> None:
    image = raw.images()[1]
    shutil.copy(image, image.with_name(f"{image.stem} - Copy{image.suffix}"))
    shutil.copy(image, image.with_name(f"Copy of {image.name}"))


def _odd_names(raw: Raw) -> None:
    for name in ('a "quoted" näme.tif', "it's 100 %;$(x)`.tiff", "new\nline.tif", "\udcff\udcfe.tif"):
        shutil.copy(raw.images()[0], raw.images()[0].with_name(name))


def _doubled(raw: Raw) -> None:
    images = raw.images()
    shutil.copy(images[0], images[1])


def _rewritten(change: Callable[[np.ndarray], np.ndarray], **options: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tifffile.TiffFile(path) as file:
            pixels, about = file.asarray(), file.pages[0].description
        described = {"description": about} if about else {}
        tifffile.imwrite(path, change(pixels), **{"metadata": None, **described, **options})

    return make


def _tag(code: int, value: int) -> Callable[[Path], None]:
    """Overwrite a tag of a TIFF's first page; its type becomes LONG."""

    def make(path: Path) -> None:
        with tifffile.TiffFile(path) as file:
            at = file.pages[0].tags[code].offset
        content = bytearray(path.read_bytes())
        content[at + 2 : at + 12] = (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        path.write_bytes(bytes(content))

    return make


def _endless(path: Path) -> None:
    """The first page's successor is itself."""
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    at = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[at : at + 4] = content[4:8]
    path.write_bytes(bytes(content))


def of_tiffs(layout: str) -> Iterator[Damage]:
    """Kinds that concern the content of TIFFs."""
    nan = np.float32(np.nan)
    one = {
        "32 bits": (lambda a: a.astype(np.uint32), "wrong_type"),
        "signed": (lambda a: a.astype(np.int16) - np.int16(1000), "negative"),
        "floats": (lambda a: a.astype(np.float32), "wrong_type"),
        "floats with NaN": (lambda a: np.where(a > 2000, nan, a.astype(np.float32)), "nan"),
        "8 bits": (lambda a: (a >> 4).astype(np.uint8), "wrong_type"),
        "a row more": (lambda a: np.concatenate([a, a[..., :1, :]], -2), "wrong_size"),
        "turned": (lambda a: a.swapaxes(-1, -2), "wrong_size"),
        "colour": (lambda a: np.stack([(a >> 4).astype(np.uint8)] * 3, -1), "colour"),
        "constant": (lambda a: np.full_like(a, 300), "constant"),
        "saturated": (lambda a: np.where(a > 3000, 65535, a).astype(np.uint16), "saturated"),
        "a dot": (lambda a: a[..., :1, :1], "wrong_size"),
    }
    for name, (change, says) in one.items():
        yield Damage(name=f"image {name}", make=_one(_rewritten(change)), says=says)
    every = {
        "offset": (lambda a: a + np.uint16(32768), "offset"),
        "spread": (lambda a: (a >> 4) * np.uint16(257), "multiples of 257"),
        "all floats": (lambda a: a.astype(np.float32), "type that isn't read"),
        "all turned": (lambda a: a.swapaxes(-1, -2), ""),
        "all constant": (lambda a: np.full_like(a, 0), "constant"),
    }
    if layout == "pattern":
        del every["all turned"]  # where names alone are known, the files say what is right
    for name, (change, says) in every.items():
        yield Damage(name=name, make=_every(_rewritten(change)), says=says)
    yield Damage(
        name="image two pages",
        make=_one(_rewritten(lambda a: np.stack([a, a]), photometric="minisblack")),
        harmless=True,
    )
    yield Damage(name="image claims 4e9 rows", make=_one(_tag(257, 2**32 - 1)), says="wrong_size")
    yield Damage(
        name="image claims 4e9 rows and columns",
        make=_one(lambda p: (_tag(256, 2**32 - 1)(p), _tag(257, 2**32 - 1)(p))),
    )
    yield Damage(name="all images claim 4e9 rows", make=_every(_tag(257, 2**32 - 1)))
    yield Damage(name="image of an unknown compression", make=_one(_tag(259, 4711)), says="unreadable")
    yield Damage(name="image's pages end in a circle", make=_one(_endless), harmless=True)
    yield Damage(name="image big-endian", make=_one(_rewritten(lambda a: a, byteorder=">")), harmless=True)
