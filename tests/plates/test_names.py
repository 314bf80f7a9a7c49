"""What readers share: names of images, errors of parsers, and which fields touch."""

from pathlib import Path

import numpy as np
import pytest

from plateflow.errors import RawDataError
from plateflow.plates.files import list_files, parsing
from plateflow.plates.names import NamePattern, parse_place
from plateflow.touching import gaps_between, groups_of_touching

NAMES = NamePattern(r"(?P<well>[A-Z]+\d+)(?:_s(?P<field>\d+))?(?:_z(?P<z>\d+))?\.tif")


def test_the_record_of_a_name() -> None:
    assert NAMES.record("x/B03_s4_z2.tif") == {"row": 1, "column": 2, "field": 4, "t": 0, "z": 2, "channel": 1}
    assert NAMES.record("B03.tif") == {"row": 1, "column": 2, "field": 1, "t": 0, "z": 0, "channel": 1}
    assert NAMES.record("scan.tif") is None
    assert NAMES.record("B99.tif") is None


def test_images_by_their_names(tmp_path: Path) -> None:
    for name in ("B03_s1.tif", "B03_s2.tif", "B99.tif", "scan.tif", "notes.txt"):
        (tmp_path / name).touch()
    listing = list_files(tmp_path)
    planes, others = NAMES.planes(listing.image_names())
    assert [plane["path"] for plane in planes] == ["B03_s1.tif", "B03_s2.tif"]
    assert others == ["B99.tif", "scan.tif"]
    assert NAMES.unlisted(listing, planes[:1]) == {"B03_s2.tif", "B99.tif"}


@pytest.mark.parametrize(
    ("name", "differs"),
    [("B03_s1.tif", False), ("B03_s2.tif", True), ("B03_s1_z7.tif", False), ("C03_s1.tif", True), ("B99_s1.tif", True)],
)
def test_a_name_that_differs_from_its_record(name: str, differs: bool) -> None:
    plane = {"row": 1, "column": 2, "field": 1, "z": 0}
    assert NAMES.differs(name, plane, "field") == differs
    assert not NAMES.differs("scan.tif", plane, "field")


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"well": "AF48", "row": "1", "column": "1"}, (31, 47)),
        ({"well": None, "row": "AF", "column": "48"}, (31, 47)),
        ({"row": "3", "column": "04"}, (2, 3)),
        ({"row": "0", "column": "-2"}, (-1, -3)),  # refused later, with the whole plate in view
    ],
)
def test_places(values: dict[str, str | None], place: tuple[int, int]) -> None:
    assert parse_place(values) == place


@pytest.mark.parametrize("values", [{}, {"well": "Q99"}, {"row": "B"}, {"column": "3"}, {"row": "B", "column": "x"}])
def test_places_that_cannot_be_parsed(values: dict[str, str | None]) -> None:
    with pytest.raises(ValueError):
        parse_place(values)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyError("Row"), "'Row' is missing"),
        (ValueError("it is no number"), "it is no number"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: "),
    ],
)
def test_errors_of_parsers_become_one_kind(error: Exception, why: str) -> None:
    with pytest.raises(RawDataError) as caught, parsing("image 17 of the index", where="p: x.xml", remedy="copy it"):
        raise error
    assert caught.value.what == "cannot parse image 17 of the index"
    assert (caught.value.where, caught.value.remedy) == ("p: x.xml", "copy it")
    assert caught.value.why.startswith(why)
    assert caught.value.__cause__ is error


def test_errors_of_the_machine_and_our_own_pass() -> None:
    own = RawDataError("a file name leads out")
    for error in (own, OSError(5, "Input/output error"), MemoryError()):
        with pytest.raises(type(error)) as caught, parsing("x", where="y", remedy="z"):
            raise error
        assert caught.value is error


def test_fields_that_touch() -> None:
    corners = np.array([[0, 0], [0, 12], [13, 12], [0, 40]])
    gaps = gaps_between(corners, corners + 10)
    assert gaps[0, 1].tolist() == [-10, 2]
    assert gaps[0, 2].tolist() == [3, 2]
    assert groups_of_touching(gaps).tolist() == [0, 0, 2, 3]
    assert groups_of_touching(gaps_between(corners[[0, 2, 1, 3]], corners[[0, 2, 1, 3]] + 11)).tolist() == [0, 0, 0, 3]
