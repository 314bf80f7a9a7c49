"""How a viewer first shows the images: in the frozen window, and in the colours of the dyes; who writes that."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from images_project import Project

from plateflow.images.ngff import colour
from plateflow.state.requests import request

MakeProject = Callable[..., Project]


def listed(project: Project, stage: str) -> dict[str, bool]:
    """Of the files that a stage's line lists, which are as it says."""
    from plateflow.stages.job import damage

    files = project.outcome(stage).files
    return {name: not damage(project.paths, name, stamp, content=True) for name, stamp in files.items()}


def omero(project: Project, well: str = "B02") -> list[dict[str, Any]]:
    attributes = json.loads((project.paths.image(well) / "zarr.json").read_text())["attributes"]
    channels: list[dict[str, Any]] = attributes["ome"]["omero"]["channels"]
    return channels


def check(project: Project) -> None:
    limits = json.loads(project.paths.window.read_text())["channels"]
    for well in project.plate.wells:
        for channel in omero(project, well):
            known = limits[channel["label"]]
            window = {"min": 0, "max": 65535, "start": known["low"], "end": known["high"]}
            assert channel["window"] == window
    for stage in ("ingest", "normalise"):
        assert all(listed(project, stage).values()), stage
    assert "plate.zarr/B/02/0/zarr.json" in listed(project, "normalise")
    assert "plate.zarr/B/02/0/zarr.json" not in listed(project, "ingest")


def test_images_are_shown_in_the_frozen_window_whoever_writes_last(make_project: MakeProject) -> None:
    """They were shown from 0 to 4095, so that a camera of 12 bits with an offset was white."""
    project = make_project()
    for path in (project.raw / "Images").glob("*.tiff"):
        tifffile.imwrite(path, tifffile.imread(path) // 16 + np.uint16(32768))
    project.run("ingest", "tile")
    assert omero(project)[0]["window"] == {"min": 0, "max": 65535, "start": 0, "end": 65535}
    project.run("normalise")
    check(project)
    assert omero(project)[0]["window"]["start"] > 32768
    shown = (project.paths.image("B02") / "zarr.json").read_bytes()
    project.options = {"segmentation": {"nuclei": {"channels": ["DNA"]}, "more": {"channels": ["DNA"]}}}
    project.run("ingest")  # another label set
    assert (project.paths.image("B02") / "zarr.json").read_bytes() == shown
    check(project)
    project.options |= {"levels": 2}
    project.run("ingest", "tile", "normalise")  # the window stays, and what is listed is what is there
    assert (project.paths.image("B02") / "zarr.json").read_bytes() != shown
    check(project)
    project.options |= {"normalise": {"freeze": 2, "percentiles": [5, 95]}}
    project.run("normalise")
    check(project)
    request(project.paths, kind="retry", stage="normalise")
    project.run("normalise")
    check(project)
    (project.paths.image("B03") / "zarr.json").unlink()
    project.run("normalise")
    check(project)


def test_a_killed_normalise_leaves_nothing_that_stays_damaged(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plateflow.images import store

    project = make_project()
    project.run("ingest", "tile")
    calls = []

    def killed(*args: Any) -> bytes:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    whole = store.image_group
    monkeypatch.setattr(store, "image_group", killed)
    with pytest.raises(KeyboardInterrupt):
        project.run("normalise")
    monkeypatch.undo()
    assert all(listed(project, "ingest").values())
    project.run("normalise")
    check(project)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ({"name": "Hoechst 33342"}, "0000FF"),
        ({"name": "w1DAPI"}, "0000FF"),
        ({"name": "EGFP-tubulin"}, "00FF00"),
        ({"name": "FITC_05"}, "00FF00"),
        ({"name": "Alexa 488"}, "00FF00"),
        ({"name": "Cy3"}, "FFA500"),
        ({"name": "Cy3.5"}, "FFA500"),
        ({"name": "TRITC"}, "FFA500"),
        ({"name": "Cy5"}, "FF0000"),
        ({"name": "AlexaFluor647"}, "FF0000"),
        ({"name": "Cy5.5"}, "FF00FF"),
        ({"name": "HOECHST 33342", "wavelength_nm": 706.0}, "FF00FF"),  # what the file says counts
        ({"name": "Brightfield", "wavelength_nm": 706.0}, "FFFFFF"),
        ({"name": "Channel 4"}, "FFFFFF"),
        ({"name": "Marker"}, "FFFFFF"),
    ],
)
def test_colours(channel: dict[str, Any], expected: str) -> None:
    assert colour(channel) == expected
