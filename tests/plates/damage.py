"""Kinds of damage that raw plates suffer, made from a good plate in any layout.

A kind changes a copy of the plate in place. Kinds of images and of whole metadata files are made in every layout that
is registered; kinds of single values need to know how a layout writes them (`VALUES`).
"""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from vendors import LAYOUTS

from plateflow.paths import parse_well
from plateflow.simulate.layout import PlateDescription, Record

WELLS, FIELDS, SIZE, PIXEL_UM = ("B02", "C05"), 2, (24, 40), 0.5
CHANNELS = {"DNA": 2, "AGP": 1}
"""Channel and its z planes."""


def write_good(out: Path, layout: str) -> Path:
    """Two wells of two fields that touch, of noise; returns the plate's folder."""
    rng = np.random.default_rng(3)
    plate = PlateDescription(name="p", plate_shape=(8, 12), field_shape=SIZE, pixel_size_um=PIXEL_UM)
    writer = LAYOUTS[layout](out, plate)
    for well in WELLS:
        row, column = parse_well(well)
        for field in range(FIELDS):
            y, x = 4.0, (field - 0.5) * SIZE[1] * PIXEL_UM
            for channel, (name, depth) in enumerate(CHANNELS.items()):
                for z in range(depth):
                    place = {"row": row, "column": column, "field": field, "channel": channel, "channel_name": name}
                    record = Record(**place, y_um=y, x_um=x, z=z, z_um=2.0 * z)
                    writer.write(record, rng.integers(90, 4000, SIZE).astype(np.uint16))
    writer.finish()
    return writer.raw


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A copy of a plate that is to be damaged."""

    root: Path
    layout: str

    @property
    def zarr(self) -> bool:
        return self.layout.startswith("omezarr")

    def images(self) -> list[Path]:
        """Files that hold pixels."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        if self.zarr:
            return [path for path in files if re.fullmatch(r"\d+", path.name)]
        return [path for path in files if path.suffix.lower() in (".tif", ".tiff")]

    def metadata(self) -> list[Path]:
        """All other files."""
        images = set(self.images())
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path not in images)

    def edit(self, pattern: str, new: str | Callable[[re.Match[bytes]], bytes], *, count: int = 0) -> None:
        """Replace in the metadata, or in images' headers where these hold it: the group `v` of a pattern, or all of it.

        Args:
            count: how many matches in all; 0 for every one.
        """
        compiled, left = re.compile(pattern.encode(), re.DOTALL), count
        found = 0
        for path in [*self.metadata(), *([] if self.zarr else self.images())]:
            content = path.read_bytes()
            if path in self.images():
                with tifffile.TiffFile(path) as file:
                    pixels, content = file.asarray(), file.pages[0].description.encode()

            def put(match: re.Match[bytes]) -> bytes:
                value = new(match) if callable(new) else new.encode()
                if "v" not in compiled.groupindex:
                    return value
                start, end = (match.span("v")[n] - match.start() for n in (0, 1))
                return match[0][:start] + value + match[0][end:]

            changed, n = compiled.subn(put, content, count=left)
            if not n:
                continue
            found += n
            if path in self.images():
                tifffile.imwrite(path, pixels, compression="lzw", metadata=None, description=changed)
            else:
                path.write_bytes(changed)
            if count and (left := count - found) <= 0:
                break
        assert found, f"{self.layout} has no {pattern}"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One kind.

    Attributes:
        make: damages a copy.
        says: a regular expression that one of the messages must match; empty where any will do.
        harmless: whether the plate may be read as if nothing had happened.
    """

    name: str
    make: Callable[[Raw], None]
    says: str = ""
    harmless: bool = False


VALUES: dict[str, dict[str, str]] = {
    "harmony": {
        "pixel": r"<ImageResolution[XY][^>]*>(?P<v>[^<]*)",
        "position": r"<Position[XY][^>]*>(?P<v>[^<]*)",
        "row": r"</URL>\s*<Row>(?P<v>[^<]*)",
        "size": r"<ImageSize[XY]>(?P<v>[^<]*)",
        "file": r"<URL[^>]*>(?P<v>[^<]*)",
        "channel": r"<ChannelName>(?P<v>[^<]*)",
        "record": r"    <Image Version.*?</Image>\s*",
    },
    "imagexpress": {
        "pixel": r'spatial-calibration-[xy]" type="string" value="(?P<v>[^"]*)',
        "position": r'OffsetFromWellCenterUm[XY]" type="string" value="(?P<v>[^"]*)',
        "row": r'"YWells", (?P<v>\d+)',
        "channel": r'"WaveName\d", "(?P<v>[^"]*)',
    },
    "yokogawa": {
        "pixel": r'bts:(?:Horizontal|Vertical)PixelDimension="(?P<v>[^"]*)',
        "position": r'bts:[XY]="(?P<v>[^"]*)',
        "row": r'bts:Row="(?P<v>[^"]*)',
        "size": r'bts:(?:Horizontal|Vertical)Pixels="(?P<v>[^"]*)',
        "file": r"<bts:MeasurementRecord [^>]*>(?P<v>[^<]*)",
        "channel": r'bts:Fluorophore="(?P<v>[^"]*)',
        "record": r"<bts:MeasurementRecord .*?</bts:MeasurementRecord>",
    },
    "omezarr": {
        "pixel": r'(?<![\d."-])(?P<v>0\.5)(?=\s*[,\]])',
        "position": r'"translation": \[(?:\s*[-\d.]+,){4}\s*(?P<v>[-\d.]+)',
        "row": r'"path": "(?P<v>B)/02"',
        "size": r'"shape": ?\[(?:\s*\d+,)+\s*(?P<v>\d+)',
        "file": r'"datasets": \[\s*\{\s*"path": "(?P<v>0)"',
        "channel": r'"label": "(?P<v>[^"]*)',
        "record": r'\{\s*"path": "1"\s*\},?',
    },
}
VALUES["omezarr 0.5"] = VALUES["omezarr"]
VALUES["columbus"] = VALUES["harmony"]
VALUES["load_data"] = {
    "pixel": r"(?P<v>\b5e-07)",
    "position": r",(?P<v>-?9\.999999999999999e-06)",
    "row": r",p,(?P<v>B02),",
    "size": r",(?P<v>40),24,",
    "file": r"(?P<v>[BC]0\d-\d-0-0-DNA\.tif)",
    "channel": r"FileName_Orig(?P<v>[A-Z]+)",
    "record": r"[BC]0\d-\d-0-0-DNA[^\n]*\n",
}


def kinds(layout: str) -> Iterator[Damage]:
    """All kinds that can be made in a layout."""
    yield from _files()
    yield from _pixels()
    if not layout.startswith("omezarr"):
        yield from _tiffs(layout)
    if layout != "pattern":
        yield from _texts()
        yield from _fuzz()
    for what, pattern in VALUES.get(layout, {}).items():
        yield from _values(layout, what, pattern)


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


def _files() -> Iterator[Damage]:
    """A file with pixels, or many of them."""
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


def _pixels() -> Iterator[Damage]:
    yield Damage(name="pixels of another image", make=_doubled, says="doubled")


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


def _tiffs(layout: str) -> Iterator[Damage]:
    nan = np.float32(np.nan)
    one = {
        "32 bits": (lambda a: a.astype(np.uint32), "wrong_type"),
        "signed": (lambda a: a.astype(np.int16), "wrong_type"),
        "floats": (lambda a: a.astype(np.float32), "wrong_type"),
        "floats with NaN": (lambda a: np.where(a > 2000, nan, a.astype(np.float32)), "nan"),
        "8 bits": (lambda a: (a >> 4).astype(np.uint8), "wrong_type"),
        "a row more": (lambda a: np.concatenate([a, a[..., :1, :]], -2), "wrong_size"),
        "turned": (lambda a: a.swapaxes(-1, -2), "wrong_size"),
        "colour": (lambda a: np.stack([(a >> 4).astype(np.uint8)] * 3, -1), "wrong_size"),
        "constant": (lambda a: np.full_like(a, 300), "constant"),
        "saturated": (lambda a: np.where(a > 3000, 65535, a).astype(np.uint16), "saturated"),
        "a dot": (lambda a: a[..., :1, :1], "wrong_size"),
    }
    for name, (change, says) in one.items():
        yield Damage(name=f"image {name}", make=_one(_rewritten(change)), says=says)
    every = {
        "offset": (lambda a: a + np.uint16(32768), "offset"),
        "spread": (lambda a: (a >> 4) * np.uint16(257), "multiples of 257"),
        "all floats": (lambda a: a.astype(np.float32), "wrong_type"),
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


def _texts() -> Iterator[Damage]:
    """The largest metadata file, whatever it holds, and all of them."""

    def first(change: Callable[[bytes], bytes]) -> Callable[[Raw], None]:
        def make(raw: Raw) -> None:
            path = max(raw.metadata(), key=lambda path: path.stat().st_size)
            path.write_bytes(change(path.read_bytes()))

        return make

    def every(change: Callable[[bytes], bytes]) -> Callable[[Raw], None]:
        return lambda raw: ([p.write_bytes(change(p.read_bytes())) for p in raw.metadata()], None)[1]

    def delete(raw: Raw) -> None:
        for path in raw.metadata():
            path.unlink()

    def fold(raw: Raw) -> None:
        path = max(raw.metadata(), key=lambda path: path.stat().st_size)
        _folder(path)

    benign = ("doubled", "with a NUL in the middle")
    yield Damage(name="metadata deleted", make=delete, harmless=True)
    yield Damage(name="metadata is a folder", make=fold, harmless=True)
    for name, change in {
        "empty": lambda b: b"",
        "a NUL": lambda b: b"\0",
        "cut in the middle": lambda b: b[: len(b) // 2],
        "without its end": lambda b: b[:-12],
        "garbage": lambda b: random.Random(2).randbytes(len(b)),
        "doubled": lambda b: b + b,
        "with a NUL in the middle": lambda b: b[: len(b) // 2] + b"\0" + b[len(b) // 2 :],
        "HTML": lambda b: b"<html><body>502 Bad Gateway</body></html>",
        "null": lambda b: b"null",
        "a list": lambda b: b"[[]]",
        "an empty object": lambda b: b"{}",
        "lists in lists": lambda b: b"[" * 100_000,
        "nested deeply": lambda b: b"<a>" * 50_000 + b"[" * 50_000,
    }.items():
        # a layout may have a metadata file of which it can do without (flat fields, logs)
        yield Damage(name=f"metadata {name}", make=first(change), harmless=name in benign)
        yield Damage(name=f"all metadata {name}", make=every(change), harmless=name in benign)
    for name, change in {
        "in UTF-16": lambda b: b.decode("utf-8-sig", "replace").encode("utf-16"),
        "with a mark": lambda b: b"\xef\xbb\xbf" + b.removeprefix(b"\xef\xbb\xbf"),
        "with other line ends": lambda b: b.replace(b"\n", b"\r\n"),
        "in Latin-1": lambda b: b.replace(b"DNA", b"D\xc4\xd6"),
    }.items():
        yield Damage(name=f"metadata {name}", make=every(change), harmless=True)
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "lol">{entities}]>'.encode()
    foreign = b'<!DOCTYPE x [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>'

    def with_entity(head: bytes) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            start = content.index(b"?>") + 2
            return content[:start] + head + content[start:].replace(b"DNA", b"&l9;")

        return change

    def xml(change: Callable[[bytes], bytes]) -> Callable[[Raw], None]:
        def make(raw: Raw) -> None:
            for path in raw.metadata():
                content = path.read_bytes()
                if b"<?xml" in content[:10]:
                    path.write_bytes(change(content))

        return make

    yield Damage(name="XML bomb", make=xml(with_entity(bomb)), says="cannot parse|can't be understood", harmless=True)
    yield Damage(
        name="XML of another file", make=xml(with_entity(foreign)), says="cannot parse|can't be", harmless=True
    )


def _fuzz() -> Iterator[Damage]:
    """Lines and bytes of the metadata at random."""

    def make(seed: int) -> Callable[[Raw], None]:
        def change(raw: Raw) -> None:
            rng = random.Random(seed)
            for path in raw.metadata():
                lines = path.read_bytes().splitlines(keepends=True)
                for _ in range(3):
                    if not lines:
                        break
                    at = rng.randrange(len(lines))
                    match rng.randrange(4):
                        case 0:
                            del lines[at]
                        case 1:
                            lines.insert(at, lines[at])
                        case 2:
                            lines[at] = re.sub(rb"\d+", str(rng.choice([-1, 0, 10**12, "x"])).encode(), lines[at])
                        case _:
                            byte = rng.randrange(len(lines[at]))
                            lines[at] = lines[at][:byte] + bytes([rng.randrange(256)]) + lines[at][byte + 1 :]
                path.write_bytes(b"".join(lines))

        return change

    for seed in range(8):
        yield Damage(name=f"metadata at random {seed}", make=make(seed), harmless=True)


def _values(layout: str, what: str, pattern: str) -> Iterator[Damage]:
    def put(new: str | Callable[[re.Match[bytes]], bytes], count: int = 0) -> Callable[[Raw], None]:
        return lambda raw: raw.edit(pattern, new, count=count)

    def times(factor: float) -> Callable[[re.Match[bytes]], bytes]:
        return lambda match: repr(float(match["v"]) * factor).encode()

    numbers = {"nan": "nan", "infinite": "1e400", "a word": "unknown", "empty": "", "with a comma": "0,5"}
    if layout.startswith("omezarr"):
        numbers = {"nan": "NaN", "infinite": "1e400", "a word": '"unknown"', "none": "null"}
    match what:
        case "pixel":
            yield Damage(name="pixels a thousand times larger", make=put(times(1000)), says="pixel size")
            yield Damage(name="pixels a thousand times smaller", make=put(times(0.001)), says="pixel size")
            yield Damage(name="pixels of size zero", make=put("0"))
            yield Damage(name="pixels of negative size", make=put("-0.5"))
            yield Damage(name="pixels of two sizes", make=put(times(1.5), 2))
            for name, value in numbers.items():
                yield Damage(name=f"pixel size {name}", make=put(value))
        case "position":
            yield Damage(name="a position a thousand times farther", make=put(times(1000), 2))
            yield Damage(name="positions a thousand times farther", make=put(times(1000)))
            yield Damage(name="positions all the same", make=put("1"))
            yield Damage(name="a position at 1e30", make=put("1e30", 1))
            for name, value in numbers.items():
                # the field's other planes have it
                yield Damage(name=f"a position {name}", make=put(value, 1), harmless=name != "infinite")
        case "row":
            wells = {"off the plate": "99", "zero": "0", "negative": "-3", "a word": "unknown", "huge": "9" * 30}
            if layout.startswith("omezarr"):
                wells = {"off the plate": "ZZ", "a word": "unknown", "up and out": "../B"}
            for name, value in wells.items():
                yield Damage(name=f"a row {name}", make=put(value, 1))
        case "size":
            for name, value in {"huge": "1000000000", "zero": "0", "negative": "-5", "halved": "12"}.items():
                if layout.startswith("omezarr") and name == "halved":
                    continue  # an array may end within its last chunk
                # the files have their size
                yield Damage(name=f"sizes {name}", make=put(value), harmless=name in ("zero", "negative"))
                yield Damage(name=f"a size {name}", make=put(value, 1))
            yield Damage(name="a size a word", make=put('"x"' if layout.startswith("omezarr") else "x", 1))
        case "file":
            for name, value in {
                "up and out": "../../../etc/passwd",
                "absolute": "/etc/passwd",
                "of Windows": "C:\\\\data\\\\1.tif",
                "up and out of Windows": "..\\\\..\\\\1.tif",
                "a URL": "https://example.org/1.tif",
                "not there": "no-such-image.tif",
                "very long": "x" * 5000,
            }.items():
                out = name == "up and out" or (name == "absolute" and layout != "load_data")  # whose paths are absolute
                says = "out of the plate's folder" if out else ""
                yield Damage(name=f"a file name {name}", make=put(value, 1), says=says)
            yield Damage(name="a file name empty", make=put("", 1))
            first: list[bytes] = []

            def same(match: re.Match[bytes]) -> bytes:
                first.append(match["v"])
                return first[0]

            if not layout.startswith("omezarr"):
                yield Damage(
                    name="two records name one file",
                    make=lambda raw: (first.clear(), raw.edit(pattern, same, count=2))[1],
                    harmless=layout == "columbus",  # whose files hold several planes
                )
        case "channel":
            # channels are told apart by a number
            yield Damage(name="channels all of one name", make=put("x"))
            yield Damage(name="channels without a name", make=put(""), harmless=layout == "imagexpress")
            yield Damage(name="channels with odd names", make=put("a/../b é"))
        case "record":
            yield Damage(name="a record removed", make=put("", 1))
            yield Damage(
                name="a record doubled",
                make=put(
                    lambda match: match[0].rstrip(b",") + (b"," if layout.startswith("omezarr") else b"") + match[0], 1
                ),
            )
            yield Damage(name="all records removed", make=put(""))
