"""Kinds of damage to the metadata of a raw plate; a kind changes a copy of the plate in place."""

import random
import re
from collections.abc import Callable, Iterator

from damaged_plate import Damage, Raw

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


def of_texts() -> Iterator[Damage]:
    """Kinds that concern the largest metadata file, whatever it holds, or all metadata files."""

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
        path.unlink()
        path.mkdir()

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


def at_random() -> Iterator[Damage]:
    """Random changes of lines and bytes of the metadata."""

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


def of_values(layout: str) -> Iterator[Damage]:
    """Kinds that concern single values, where it is known how a layout writes them."""
    for what, pattern in VALUES.get(layout, {}).items():
        yield from _of_value(layout, what, pattern)


def _of_value(layout: str, what: str, pattern: str) -> Iterator[Damage]:
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
