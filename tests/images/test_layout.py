from typing import Any

import numpy as np
import pandas as pd
import pytest
from images_project import layout_of

from plateflow.errors import PlateflowError
from plateflow.images.canvas import Canvas, canvases
from plateflow.images.layout import GRID_GAP_PX, WellLayout, well_layout

INFO = {"plate": "p", "pixel_size_um": [0.5, 0.5], "channels": [{"name": n, "dtype": "uint16"} for n in ("DNA", "AGP")]}


def planes(corners_um: list[tuple[float, float]], **values: Any) -> pd.DataFrame:
    rows = [
        {"well": "B03", "field": str(n + 1), "channel": channel["name"], "t": 0, "z": 0, "y_um": y, "x_um": x}
        | {"z_um": 0.0, "height": 100, "width": 120, "dtype": "uint16", "path": "a.tif"}
        | values
        for n, (y, x) in enumerate(corners_um)
        for channel in INFO["channels"]
    ]
    return pd.DataFrame(rows)


def test_fields_lie_at_their_positions_from_the_top_left() -> None:
    layout = well_layout(planes([(-25.0, -30.2), (-25.0, 29.8), (24.9, -30.2)]), INFO)
    assert [(box.name, box.y, box.x) for box in layout.fields] == [("1", 0, 0), ("2", 0, 120), ("3", 100, 0)]
    assert layout.shape == (1, 2, 1, 200, 240)
    assert layout.placement == "stage"
    assert layout.pixel_um == (1.0, 0.5, 0.5)
    assert WellLayout.from_json(layout.to_json()) == layout


def test_unknown_positions_make_a_grid_with_a_gap() -> None:
    one_unknown, unknown = [(0.0, 0.0), (np.nan, np.nan), (0.0, 90.0)], [(np.nan, np.nan)] * 3
    for table, info, placement in (
        (planes(unknown), INFO, "grid"),
        (planes([(0, 0), (0, 9), (9, 0)]), INFO | {"pixel_size_um": None}, "grid"),
        (planes(one_unknown), INFO, "untrusted"),
    ):
        layout = well_layout(table, info)
        gap = GRID_GAP_PX
        assert [(box.y, box.x) for box in layout.fields] == [(0, 0), (0, 120 + gap), (100 + gap, 0)]
        assert layout.placement == placement
        assert len(canvases(layout, set(), "max")) == 3


def test_a_field_without_planes_moves_no_other() -> None:
    """One unreadable image put its whole well into a grid."""
    table = planes([(0.0, 0.0), (np.nan, np.nan), (0.0, 60.0)])
    layout = well_layout(table.assign(path=table["path"].where(table["field"] != "2", "")), INFO)
    assert layout.placement == "stage"
    places = [("1", 0, 0), ("2", 100 + GRID_GAP_PX, 0), ("3", 0, 120)]
    assert [(box.name, box.y, box.x) for box in layout.fields] == places
    (canvas,) = canvases(layout, {"2"}, "max")
    assert (canvas.height, canvas.width) == (100, 240)


def test_fields_on_each_other_are_not_lost() -> None:
    layout = well_layout(planes([(0.0, 0.0), (0.0, 0.0), (5.0, 9.0)]), INFO)
    assert layout.placement == "untrusted"
    assert len(canvases(layout, set(), "max")) == 3


def test_a_pixel_size_that_is_a_thousandfold_wrong_is_refused() -> None:
    table = planes([(0.0, 0.0), (50.0, 0.0), (0.0, 60.0), (50.0, 60.0)])
    with pytest.raises(PlateflowError, match="contradict each other"):
        well_layout(table, INFO | {"pixel_size_um": [0.0005, 0.0005]})
    assert well_layout(table, INFO | {"pixel_size_um": [500.0, 500.0]}).placement == "untrusted"


def test_steps_of_z_and_stacks_that_differ() -> None:
    table = pd.concat([planes([(0.0, 0.0)], z=z, z_um=10.0 - 1.5 * z) for z in range(3)])
    table = table[(table["channel"] == "DNA") | (table["z"] == 1)]
    layout = well_layout(table, INFO)
    assert layout.shape[2] == 3
    assert layout.z_planes == ((0, 1, 2), (1,))
    assert layout.pixel_um[0] == 1.5


def test_fields_that_touch_or_overlap_are_one_canvas() -> None:
    # 1 touches 2 at an edge, 3 overlaps 2, 4 touches 3 at a corner; 5 is three pixels off
    layout = layout_of((0, 0), (0, 10), (6, 14), (16, 24), (29, 24))
    one, two = canvases(layout, set(), "max")
    assert (one.y, one.x, one.height, one.width) == (0, 0, 26, 34)
    assert [box.name for box in one.fields] == ["1", "2", "3", "4"]
    assert (two.y, two.x, [box.name for box in two.fields]) == (29, 24, ["5"])


def test_a_stage_that_jitters_parts_no_canvas() -> None:
    """Gaps of one or two px belong to a field beside them; the true fields keep all their pixels."""
    layout = layout_of((0, 1), (1, 12), (11, 0), (13, 12))
    (canvas,) = canvases(layout, set(), "max")
    owner = canvas.owner()
    assert [(owner == number).sum() for number in range(4)] >= [100] * 4
    for number, box in enumerate(canvas.fields):
        assert (owner[box.slices] == number).all()
    assert (owner[:10, 11] == 0).all() and (owner[10, 1:11] == 0).all()
    assert (owner[11:13, 12:] == 1).all()
    assert (owner[11:21, 10:12] == 2).all()
    assert owner[0, 0] == owner[0, -1] == owner[-1, 0] == -1
    apart = layout_of((0, 0), (0, 13))
    assert len(canvases(apart, set(), "max")) == 2


def test_a_field_left_out_parts_a_canvas() -> None:
    layout = layout_of((0, 0), (0, 10), (0, 20))
    assert [[b.name for b in c.fields] for c in canvases(layout, {"2"}, "max")] == [["1"], ["3"]]
    assert canvases(layout, {"1", "2", "3"}, "max") == []


def test_canvases_are_numbered_over_t_z_and_place() -> None:
    layout = layout_of((40, 0), (0, 20), (0, 0), t=2, z=3)
    kept = canvases(layout, set(), "keep")
    assert [c.index for c in kept] == list(range(18))
    assert [(c.t, c.z, c.y, c.x) for c in kept[:4]] == [(0, 0, 0, 0), (0, 0, 0, 20), (0, 0, 40, 0), (0, 1, 0, 0)]
    assert kept[9].t == 1
    assert len(canvases(layout, set(), "mean")) == 6
    assert layout.label_shape("keep") == (2, 3, 50, 30)
    assert layout.label_shape("plane 1") == (2, 1, 50, 30)


def test_the_first_field_owns_an_overlap() -> None:
    (canvas,) = canvases(layout_of((5, 5), (5, 11), (11, 5)), set(), "max")
    owner = canvas.owner()
    assert owner.shape == (16, 16)
    assert (owner[:10, :10] == 0).all()
    assert (owner[:10, 10:] == 1).all()
    assert (owner[10:, :10] == 2).all()
    assert (owner[10:, 10:] == -1).all()
    assert isinstance(canvas, Canvas)
    assert canvas.slices == (slice(5, 21), slice(5, 21))
