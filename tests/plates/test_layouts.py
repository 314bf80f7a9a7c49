"""The same plate in every layout: pixel for pixel, position for position, the same manifest up to paths."""

from pathlib import Path

import layouts_plate
import numpy as np
import pytest

from plateflow.paths import well_name
from plateflow.plates import PlaneError, open_plate, recognise
from plateflow.plates.plate import Plate
from plateflow.simulate.layouts import LAYOUTS

PATTERN = r"(?P<well>[A-Z]+\d+)_s(?P<field>\d+)_w(?P<channel>\d+)(?:_t(?P<t>\d+)_z(?P<z>\d+))?\.tif"
WITH_METADATA = [name for name in LAYOUTS if name != "pattern"]


def opened(raw: Path, layout: str) -> Plate:
    return open_plate(raw, pattern=PATTERN, pixel_size_um=0.5) if layout == "pattern" else open_plate(raw)


@pytest.mark.parametrize(
    ("wells", "shape"), [(("B02", "C05"), (8, 12)), (("P24", "A01"), (16, 24)), (("AF48", "Z03"), (32, 48))]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixel_for_pixel_and_position_for_position(
    tmp_path: Path, layout: str, wells: tuple[str, str], shape: tuple[int, int]
) -> None:
    raw = layouts_plate.write(tmp_path, layout, wells=wells, shape=shape)
    if layout != "pattern":
        assert recognise(raw) == {"columbus": "harmony", "omezarr 0.5": "omezarr"}.get(layout, layout)
    plate = opened(raw, layout)
    assert plate.info["format"] == list(shape)
    assert set(plate.info["wells"]) == set(wells)
    assert (plate.info["fields"], plate.info["z"], plate.info["t"]) == (3, 3, 2)
    assert plate.info["pixel_size_um"] == [0.5, 0.5]
    names = [channel["name"] for channel in plate.info["channels"]]
    assert names == (["1", "2"] if layout == "pattern" else ["DNA", "AGP"])
    index = plate.planes.set_index(["well", "field", "channel", "t", "z"])
    seen = 0
    for plane in layouts_plate.planes(wells):
        record = plane.record
        well, field, channel = well_name(record.row, record.column), str(record.field + 1), names[record.channel]
        # a Zarr array has one type, so that a whole field has 32 bits
        wide = "32bit" in plane.faults or (layout[:7] == "omezarr" and (well, field) == (wells[0], "2"))
        if layout == "pattern" and record.field == 2 and plane.faults:
            continue  # a field without any file is unknown to names alone
        row = index.loc[well, field, channel, record.t, record.z]
        assert (row["height"], row["width"], row["dtype"]) == (24, 40, "uint16")
        lacks = {"missing", "error"} & set(plane.faults)
        assert row["state"] == ("missing" if lacks else "ok")
        if layout != "pattern":
            assert row["y_um"] == pytest.approx(record.y_um - 24 * 0.5 / 2, abs=1e-6)
            assert row["x_um"] == pytest.approx(record.x_um - 40 * 0.5 / 2, abs=1e-6)
            assert lacks or row["z_um"] == pytest.approx(record.z_um, abs=1e-6)
        place = {"t": record.t, "z": record.z}
        if lacks or wide:
            with pytest.raises(PlaneError) as error:
                plate.read(well, field, channel, **place)
            assert error.value.reason == ("missing" if lacks else "wrong_type")
        else:
            np.testing.assert_array_equal(plate.read(well, field, channel, **place), plane.pixels)
        seen += 1
    assert seen == len(index) == (48 - 8 if layout == "pattern" else 48)
