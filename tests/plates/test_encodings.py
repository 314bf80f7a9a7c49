"""Vendors' metadata in other encodings than UTF-8: read where it is certain, else one error that names the encoding."""

import re
from pathlib import Path

import pytest
from damaged_plate import Raw, write_good
from vendors import LAYOUTS

from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise

TEXTS = [name for name in LAYOUTS if name != "pattern" and not name.startswith("omezarr")]
XML = ("harmony", "columbus", "yokogawa")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("layout", TEXTS)
def test_a_byte_order_mark_is_enough(tmp_path: Path, layout: str, encoding: str) -> None:
    raw = Raw(root=write_good(tmp_path, layout), layout=layout)
    expected = open_plate(raw.root)
    for path in raw.metadata():
        text = (
            path.read_bytes().decode("utf-8-sig", "replace").replace('encoding="utf-8"', f'encoding="{encoding[:6]}"')
        )
        path.write_bytes(text.encode(encoding))
    read = open_plate(raw.root)
    assert read.planes.equals(expected.planes)
    assert read.metadata == expected.metadata


@pytest.mark.parametrize("layout", XML)
def test_an_index_in_windows_encoding_is_named_as_such_unless_it_says_so_itself(tmp_path: Path, layout: str) -> None:
    raw = Raw(root=write_good(tmp_path, layout), layout=layout)
    layout = recognise(raw.root)
    raw.edit("DNA", "µ".encode("cp1252").decode("latin-1"))
    for path in raw.metadata():
        path.write_bytes(path.read_bytes().decode("utf-8-sig").encode("latin-1"))
    with pytest.raises(RawDataError, match=r"probably Windows' encoding \(cp1252\): line \d+") as error:
        open_plate(raw.root, layout=layout)
    assert "UTF-8" in error.value.remedy
    for path in raw.metadata():
        content = re.sub(rb"<\?xml.*?\?>", b"", path.read_bytes())
        path.write_bytes(b'<?xml version="1.0" encoding="windows-1252"?>' + content)
    names = [channel["name"] for channel in open_plate(raw.root, layout=layout).metadata["channels"]]
    assert names[0].startswith("µ")


def test_a_zarr_group_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    raw = Raw(root=write_good(tmp_path, "omezarr"), layout="omezarr")
    path = raw.root / ".zattrs"
    path.write_bytes(path.read_bytes().replace(b'"name"', '"größe"'.encode("cp1252"), 1))
    with pytest.raises(RawDataError, match=r"its \.zattrs can't be parsed: 'utf-8' codec can't decode byte 0xf6"):
        open_plate(raw.root, layout="omezarr")
