"""Formats of plates: by the user, by the vendor, by the plate map, else the smallest usual one that holds the wells."""

from pathlib import Path

import pytest
from command_line import plateflow
from layouts_plate import write

from plateflow.config import Config, LabelSet, PlateSpec, load_plates
from plateflow.errors import RawDataError
from plateflow.paths import well_name
from plateflow.plates import index_plate
from plateflow.plates.check import check_plate
from plateflow.plates.formats import FORMATS, format_by_map

CONFIG = Config(segmentation={"nuclei": LabelSet(channels=["DNA"])})


def wells_of(n: int) -> list[str]:
    rows, columns = FORMATS[n]
    return [well_name(row, column) for row in range(rows) for column in range(columns)]


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("harmony", (6, 8), [6, 8]),  # a vendor that says the plate
        ("harmony", (16, 24), [16, 24]),
        ("yokogawa", (4, 6), [4, 6]),
        ("imagexpress", (6, 8), [6, 8]),
        ("omezarr", (16, 24), [16, 24]),
        ("omezarr", (4, 6), [8, 12]),  # a list of rows and columns may be only what was imaged
        ("harmony", (3, 5), [8, 12]),  # there is no such plate
        ("load_data", (8, 12), [8, 12]),
    ],
)
def test_what_the_vendor_says(tmp_path: Path, layout: str, shape: tuple[int, int], expected: list[int]) -> None:
    raw = write(tmp_path, layout, shape=shape, wells=("C05",), times=1)
    index = index_plate(PlateSpec(plate="p", path=str(raw), layout=layout))
    assert index.metadata["format"] == expected
    noted = [note for note in index.metadata["disagreements"] if "there are no such plates" in note]
    assert bool(noted) == (shape == (3, 5))


@pytest.mark.parametrize("layout", ["harmony", "yokogawa", "imagexpress", "omezarr", "load_data"])
def test_what_the_user_says_counts_before_all(tmp_path: Path, layout: str) -> None:
    raw = write(tmp_path, layout, wells=("C05",), times=1)
    spec = PlateSpec(plate="p", path=str(raw), layout=layout, format=384)
    assert index_plate(spec).metadata["format"] == [16, 24]
    with pytest.raises(RawDataError, match="a plate of 6 wells can't hold the wells of this one") as error:
        index_plate(spec.model_copy(update={"format": 6}))
    assert "C05" in error.value.where
    assert "96" in error.value.remedy


@pytest.mark.parametrize(
    ("mapped", "wells", "expected"),
    [
        (wells_of(384), ["B02"], 384),
        (wells_of(24), ["B02"], 24),
        (wells_of(6), ["B02", "C01"], None),  # of another plate
        (["A01", "P24"], ["B02"], 384),
        (["A01", "AF48"], ["B02"], 1536),
        (["A01", "B02"], ["B02"], None),
        (wells_of(96), ["B02"], None),
    ],
)
def test_what_a_plate_map_tells(mapped: list[str], wells: list[str], expected: int | None) -> None:
    assert format_by_map(mapped, wells) == expected


def test_init_takes_the_format_of_the_map_and_check_tells_it(tmp_path: Path) -> None:
    raw = write(tmp_path, "load_data", wells=("C05",), times=1)
    (tmp_path / "map.csv").write_text("well,role\n" + "".join(f"{well},negative\n" for well in wells_of(384)))
    spec = PlateSpec(plate="p", path=str(raw), layout="load_data", plate_map=str(tmp_path / "map.csv"))
    assert "write 384 into the column format of the plate sheet" in [each.remedy for each in check_plate(spec, CONFIG)]
    assert "384 wells (16 x 24)" in plateflow("init", raw, "--plate-map", tmp_path / "map.csv", cwd=tmp_path)
    spec = load_plates(tmp_path / "config" / "plates.tsv")["p"]
    assert spec.format == 384
    assert not [each for each in check_plate(spec, CONFIG) if "map" in each.what and "of the plate" not in each.what]


def test_init_takes_a_format(tmp_path: Path) -> None:
    raw = write(tmp_path, "load_data", wells=("C05",), times=1)
    assert "1536 wells (32 x 48)" in plateflow("init", raw, "--format", "1536", cwd=tmp_path)
    refused = plateflow("init", raw, "--format", "100", cwd=tmp_path, status=1)
    assert "6, 12, 24, 48, 96, 384 or 1536" in refused
    assert "see --format" in refused
