from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_omezarr import group, image, plate

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate


def rounds(folder: Path, places: Sequence[tuple[float, float] | None], *, channels: Sequence[str]) -> Path:
    """A well with a field of 20 x 30 px per acquisition; the image of acquisition n holds n + 1."""
    images = [{"path": str(n), "acquisition": n} for n in range(len(places))]
    plate(folder, ["B/03"], images, acquisitions=[{"id": n} for n in range(len(places))])
    for n, (at, label) in enumerate(zip(places, channels, strict=True)):
        omero = {"channels": [{"label": label}]}
        image(folder / "B/03" / str(n), np.full((1, 20, 30), n + 1, np.uint16), "cyx", [1, 1, 1], at=at, omero=omero)
    return folder


def test_acquisitions_at_one_place_are_channels_of_one_field(tmp_path: Path) -> None:
    folder = rounds(tmp_path / "p.zarr", [(0, 0), (0, 0), (0, 60), (1, 60)], channels=["GFP", "DAPI", "GFP", "DAPI"])
    images = [{"path": str(n), "acquisition": 2 * (n % 2)} for n in range(4)]
    group(folder / "B/03", {"ome": {"well": {"images": images}}})
    opened = open_plate(folder)
    assert [channel["name"] for channel in opened.metadata["channels"]] == ["GFP A0", "DAPI A2"]
    assert opened.metadata["fields"] == 2
    assert opened.read("B03", "1", "DAPI A2")[0, 0] == 4
    assert opened.metadata["disagreements"][0].endswith("at the same places: each has channels of its own")


def test_acquisitions_of_several_images_at_one_place_are_asked_about(tmp_path: Path) -> None:
    """Translations of 0 that nobody filled in: two planes claimed the same place."""
    folder = rounds(tmp_path / "p.zarr", [(0, 0)] * 4, channels=["GFP"] * 4)
    images = [{"path": str(n), "acquisition": n // 2} for n in range(4)]
    group(folder / "B/03", {"ome": {"well": {"images": images}}})
    with pytest.raises(RawDataError, match="isn't clear which images") as error:
        open_plate(folder)
    assert "several images of an acquisition are the same" in error.value.why
    opened = open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr", image="[01]+[23]"))
    assert opened.read("B03", "1", "GFP A1")[0, 0] == 4


def test_acquisitions_at_other_places_are_fields(tmp_path: Path) -> None:
    opened = open_plate(rounds(tmp_path / "p.zarr", [(0, 0), (0, 27), (18, 0)], channels=["GFP"] * 3))
    assert [channel["name"] for channel in opened.metadata["channels"]] == ["GFP"]
    assert opened.planes[["field", "y_um", "x_um"]].to_numpy().tolist() == [["0", 0, 0], ["1", 0, 27e3], ["2", 18e3, 0]]
    assert [opened.read("B03", field, "GFP")[0, 0] for field in "012"] == [1, 2, 3]


@pytest.mark.parametrize("second", [None, (3, 4)])
def test_acquisitions_whose_places_do_not_tell_are_asked_about(tmp_path: Path, second: Any) -> None:
    """No place is known, or they are shifted by a few px: neither one place nor two."""
    folder = rounds(tmp_path / "p.zarr", [second and (0, 0), second], channels=["GFP", "GFP"])
    with pytest.raises(RawDataError, match="isn't clear which images") as error:
        open_plate(folder)
    assert "init --image" in error.value.remedy

    def chosen(image: str) -> Any:
        return open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr", image=image))

    assert [(len(chosen(image).planes), chosen(image).metadata["fields"]) for image in ("1", "0+1", "*")] == [
        *((1, 1), (2, 1), (2, 2))
    ]
    assert chosen("1").planes["path"].tolist() == ["B/03/1/full"]
    assert chosen("0+1").read("B03", "0", "GFP A1")[0, 0] == 2
    with pytest.raises(RawDataError, match="no image of the plate is named 'raw'"):
        chosen("0+raw")


@pytest.mark.parametrize("at", [None, (0.0, 0.0)])
def test_a_raw_and_a_corrected_image_of_one_place_are_not_two_fields(tmp_path: Path, at: Any) -> None:
    folder = plate(tmp_path / "p.zarr", ["B/03"], [{"path": "0"}, {"path": "0_illum_corr"}])
    for name in ("0", "0_illum_corr"):
        image(folder / "B/03" / name, np.ones((20, 30), np.uint16), "yx", [1, 1], at=at)
    with pytest.raises(RawDataError, match=r"B/03/0, B/03/0_illum_corr"):
        open_plate(folder)
    spec = PlateSpec(plate="p", path=str(folder), layout="omezarr_in_place", image="*_corr")
    assert open_plate(spec).planes["field"].tolist() == ["0_illum_corr"]


def several(folder: Path, wells: dict[str, dict[str, Any]], chosen: str) -> Any:
    """Opens a plate with `image` as chosen; wells -> images -> places (y, x) in px."""
    plate(folder, list(wells), [])
    for well, images in wells.items():
        group(folder / well, {"ome": {"well": {"images": [{"path": name} for name in images]}}})
        for name, at in images.items():
            image(folder / well / name, np.ones((20, 30), np.uint16), "yx", [1, 1], at=at)
    opened = open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr", image=chosen))
    ok = opened.planes[opened.planes["state"] == "ok"]
    return opened, {field: dict(zip(of["channel"], of["path"], strict=True)) for field, of in ok.groupby("field")}


AT = {"0": (0, 0), "1": (0, 30), "2": (20, 0)}


@pytest.mark.parametrize(
    ("names", "pattern", "at", "pairs"),
    [
        (["0_a", "1_a", "2_a", "0_b", "2_b"], "*_a+*_b", None, {"0": "0", "1": "", "2": "2"}),
        (["0_a", "1_a", "1_b", "0_b"], "[0-9]_a+?_b", None, {"0": "0", "1": "1"}),
        (["0", "1", "2", "3", "5"], "[0-2]+[345]", {**AT, "3": (0, 0), "5": (20, 0)}, {"0": "3", "1": "", "2": "5"}),
        (["0", "1", "2", "3", "4"], "[0-2]+[!0-2]", {**AT, "3": (0, 30), "4": (0, 1)}, {"0": "4", "1": "3", "2": ""}),
        (["0", "1", "3", "4"], "[0-2]+[3-5]", None, {"0": "3", "1": "4"}),
    ],
)
def test_images_lie_on_those_of_their_name_or_place(
    tmp_path: Path, names: list[str], pattern: str, at: Any, pairs: dict[str, str]
) -> None:
    """They were paired in order: a lost image gave a field another field's channel."""
    _, fields = several(tmp_path / "p.zarr", {"B/03": {name: at and at[name] for name in names}}, pattern)
    ends = ("_a", "_b") if "_a" in pattern else ("", "")
    expected = {
        field: {"0 A0": f"B/03/{field}{ends[0]}/full"} | ({"0 A1": f"B/03/{other}{ends[1]}/full"} if other else {})
        for field, other in pairs.items()
    }
    assert fields == expected


@pytest.mark.parametrize(
    "second", [["0", "1", "2", "3", "4"], ["0", "1", "3", "5"], ["5"], ["1", "0", "2", "3", "4", "5"]]
)
def test_images_whose_order_alone_tells_are_refused_where_others_may_have_moved_up(
    tmp_path: Path, second: list[str]
) -> None:
    wells = {"B/03": dict.fromkeys("012345"), "B/04": dict.fromkeys(second)}
    with pytest.raises(RawDataError, match=r"which images lie on each other by '\[0-2\]\+\[3-5\]'"):
        several(tmp_path / "p.zarr", wells, "[0-2]+[3-5]")


def test_a_well_may_lack_an_image_where_the_names_of_all_tell_the_order(tmp_path: Path) -> None:
    wells = {"B/03": dict.fromkeys("1235"), "B/04": dict.fromkeys("012345")}
    _, fields = several(tmp_path / "p.zarr", wells, "[0-2]+[3-5]")
    opened = open_plate(PlateSpec(plate="p", path=str(tmp_path / "p.zarr"), layout="omezarr", image="[0-2]+[3-5]"))
    first = opened.planes[(opened.planes["well"] == "B03") & (opened.planes["state"] == "ok")]
    assert dict(zip(first["path"].str[5], first["field"], strict=True)) == {"1": "1", "2": "2", "3": "0", "5": "2"}
    assert set(fields) == {"0", "1", "2"}


def test_places_that_contradict_the_names_are_told(tmp_path: Path) -> None:
    images = {"0_a": (0, 0), "1_a": (0, 30), "0_b": (0, 1), "1_b": (0, 0)}
    opened, fields = several(tmp_path / "p.zarr", {"B/03": images}, "*_a+*_b")
    assert list(fields["1"].values()) == ["B/03/1_a/full", "B/03/1_b/full"]
    note = "1 image lies elsewhere than the others of its field by `image`, which is followed: B/03/1_b"
    assert note in opened.metadata["disagreements"]


def test_wells_without_an_image_of_the_name_are_told(tmp_path: Path) -> None:
    opened, _ = several(tmp_path / "p.zarr", {"B/03": {"0": None, "0_x": None}, "B/04": {"0": None}}, "0_x")
    assert opened.metadata["wells"] == ["B03"]
    assert opened.metadata["disagreements"] == ["1 well has no image of those that `image` names and is left out: B04"]


def test_numbered_images_without_places_are_fields(tmp_path: Path) -> None:
    folder = plate(tmp_path / "p.zarr", ["B/03"], [{"path": str(n)} for n in range(11)])
    for n in range(11):
        image(folder / "B/03" / str(n), np.ones((20, 30), np.uint16), "yx", [1, 1])
    opened = open_plate(folder)
    assert opened.metadata["fields"] == 11
    assert opened.planes["y_um"].isna().all()
