import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from images_project import layout_of

import plateflow.files
from plateflow.images import store
from plateflow.images.canvas import canvases
from plateflow.images.well import WellImage
from plateflow.paths import PlatePaths

INFO = {
    "plate": "p",
    "format": [8, 12],
    "channels": [{"name": "DNA", "wavelength_nm": 456.0, "dtype": "uint16"}],
    "bit_max": 65535,
}
BOXES = ((0, 0), (0, 10), (25, 40))


def make(tmp_path: Path, wells: dict[str, Any] | None = None, **options: Any) -> PlatePaths:
    """Make a plate, or make it again with what the last call has noted, as ingest does in its journal."""
    paths, note = PlatePaths.of("p", results=tmp_path), tmp_path / "ids.json"
    values = {"label_sets": {"nuclei": ["DNA"]}, "levels": 3, "z_mode": "max"} | options
    values["ids"] = json.loads(note.read_text()) if note.exists() else {}
    wells = wells or {"B03": layout_of(*BOXES), "C11": layout_of((0, 0))}
    note.write_text(json.dumps(store.create_plate(paths, INFO, wells, **values)))
    return paths


def fill(paths: PlatePaths, well: str, pixels: np.ndarray, *, label: int = 0) -> None:
    """Write the whole of an image, (c, y, x), and one label all over it."""
    image = WellImage.open(paths, well)
    with image.writing(0, 0) as write:
        write((slice(0, pixels.shape[1]), slice(0, pixels.shape[2])), pixels)
    if label:
        (canvas, *_) = canvases(image.layout, set(), "max")
        image.write_labels("nuclei", 0, 0, [(canvas, np.full((canvas.height, canvas.width), label, np.uint32))])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_plate_validates(tmp_path: Path) -> None:
    from ome_zarr_io import OMEZarrValidator
    from ome_zarr_models.v05.hcs import HCS

    paths = make(tmp_path, label_sets={"nuclei": ["DNA"], "cells": ["DNA"]})
    plate = HCS.from_zarr(zarr.open_group(paths.store, mode="r"))
    assert len(plate.attributes.ome.plate.rows) == 8
    assert len(plate.attributes.ome.plate.columns) == 12
    validator = OMEZarrValidator("0.5")
    for path, kind in (("", "plate"), ("B/03", "well"), ("B/03/0", "image"), ("B/03/0/labels/nuclei", "label")):
        attributes = json.loads((paths.store / path / "zarr.json").read_text())["attributes"]
        assert validator.validate_metadata(attributes, kind) is True
    assert json.loads((paths.image("B03") / "labels" / "zarr.json").read_text())["attributes"]["ome"] == {
        "version": "0.5",
        "labels": ["nuclei", "cells"],
    }
    assert sorted(path.name for path in paths.store.iterdir()) == ["B", "C", "zarr.json"]


def test_the_typed_models_hold_the_same_metadata(tmp_path: Path) -> None:
    """What is written as dictionaries is what the models of ome-zarr-models would write, but for the order of keys."""
    from ome_zarr_models.v05.hcs import HCSAttrs
    from ome_zarr_models.v05.image import ImageAttrs
    from ome_zarr_models.v05.image_label import ImageLabelAttrs
    from ome_zarr_models.v05.labels import LabelsAttrs
    from ome_zarr_models.v05.well import WellAttrs

    paths = make(tmp_path)
    groups = {"": HCSAttrs, "B/03": WellAttrs, "B/03/0": ImageAttrs, "B/03/0/labels": LabelsAttrs}
    for path, model in (groups | {"B/03/0/labels/nuclei": ImageLabelAttrs}).items():
        ome = json.loads((paths.store / path / "zarr.json").read_text())["attributes"]["ome"]
        assert model.model_validate(ome).model_dump(by_alias=True, exclude_none=True, mode="json") == ome


def test_ome_zarr_reads_image_and_labels(tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    paths = make(tmp_path, {well: layout_of(*BOXES) for well in ("B03", "C11")})
    pixels = np.arange(35 * 50, dtype=np.uint16).reshape(1, 35, 50)
    fill(paths, "B03", pixels, label=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = list(Reader(parse_url(str(paths.image("B03"))))())
        plate = list(Reader(parse_url(str(paths.store)))())
    assert [level.shape for level in nodes[0].data] == [(1, 1, 1, 35, 50), (1, 1, 1, 18, 25), (1, 1, 1, 9, 13)]
    np.testing.assert_array_equal(np.asarray(nodes[0].data[0])[0, 0, 0], pixels[0])
    assert [level.shape for level in nodes[-1].data] == [(1, 1, 35, 50), (1, 1, 18, 25), (1, 1, 9, 13)]
    assert (np.asarray(nodes[-1].data[0])[0, 0] == 7).sum() == 10 * 20
    assert plate


def test_ngio_reads_plate_and_fields(tmp_path: Path) -> None:
    ngio = pytest.importorskip("ngio")
    paths = make(tmp_path)
    pixels = np.arange(35 * 50, dtype=np.uint16).reshape(1, 35, 50)
    fill(paths, "B03", pixels, label=7)
    images = ngio.open_ome_zarr_plate(str(paths.store)).get_images()
    assert sorted(images) == ["B/03/0", "C/11/0"]
    image = images["B/03/0"]
    assert image.list_labels() == ["nuclei"]
    assert image.channel_labels == ["DNA"]
    regions = image.get_table("fields").rois()
    assert [region.name for region in regions] == ["1", "2", "3"]
    np.testing.assert_array_equal(np.squeeze(image.get_image(path="0").get_roi(regions[2])), pixels[0, 25:, 40:])
    assert (image.get_label("nuclei", path="1").get_as_numpy() == 7).sum() == 5 * 10


def test_a_second_ingest_touches_nothing(tmp_path: Path) -> None:
    paths = make(tmp_path)
    fill(paths, "C11", np.ones((1, 10, 10), np.uint16))
    before = files(paths.store)
    make(tmp_path)
    assert files(paths.store) == before


def test_images_of_an_earlier_release_stay_compressed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New wells and images that are replaced are compressed as they are now."""

    def shuffled(well: str) -> str:
        (codec, *_) = zarr.open_array(paths.image(well) / "0", mode="r").compressors
        return str(codec.shuffle.value)

    pixels = np.arange(100, dtype=np.uint16).reshape(1, 10, 10)
    with monkeypatch.context() as earlier:
        now = store._image_files
        earlier.setattr(store, "_image_files", lambda *key, former=False: now(*key, former=True))
        paths = make(tmp_path)
        fill(paths, "C11", pixels)
    before = files(paths.store)
    make(tmp_path)
    assert files(paths.store) == before
    wells = {"B03": layout_of((0, 0)), "C11": layout_of((0, 0)), "D01": layout_of((0, 0))}
    make(tmp_path, wells)
    fill(paths, "D01", pixels)
    assert [shuffled(well) for well in wells] == ["bitshuffle", "shuffle", "bitshuffle"]
    for level in "012":  # or blosc leaves the bits of an odd block where they are
        assert zarr.open_array(paths.image("D01") / level, mode="r").chunks[-1] % 8 == 0
    for well in ("C11", "D01"):
        assert np.array_equal(zarr.open_array(paths.image(well) / "0", mode="r")[0, :, 0], pixels)


def test_a_label_set_and_a_well_are_added(tmp_path: Path) -> None:
    paths = make(tmp_path)
    fill(paths, "C11", np.ones((1, 10, 10), np.uint16))
    before = files(paths.store)
    wells = {"B03": layout_of(*BOXES), "C11": layout_of((0, 0)), "D01": layout_of((0, 0))}
    make(tmp_path, wells, label_sets={"nuclei": ["DNA"], "cells": ["DNA"]})
    after = files(paths.store)
    rewritten = {name for name in before if after[name] != before[name]}
    assert rewritten == {"zarr.json", "B/03/0/labels/zarr.json", "C/11/0/labels/zarr.json"}
    new = {name.rpartition("/")[0] for name in set(after) - set(before)}
    assert {"D", "D/01", "D/01/0", "D/01/0/labels/cells/2", "B/03/0/labels/cells/0"} <= new
    assert all(name.startswith("D") or "/labels/cells" in name for name in new)


def test_an_image_whose_layout_changed_is_replaced_whole(tmp_path: Path) -> None:
    paths = make(tmp_path)
    for well, size in (("B03", (35, 50)), ("C11", (10, 10))):
        fill(paths, well, np.ones((1, *size), np.uint16), label=3)
    first, other = content(paths.image("C11")), files(paths.image("B03"))
    for boxes in (((0, 0), (0, 10)), ((0, 0),)):
        make(tmp_path, {"B03": layout_of(*BOXES), "C11": layout_of(*boxes)})
        image = zarr.open_group(paths.image("C11"), mode="r")
        assert not image["0"][:].any()  # back at the first layout it is empty, too
        assert not image["labels/nuclei/0"][:].any()
    assert image["0"].shape == (1, 1, 1, 10, 10)
    assert content(paths.image("C11")) == {name: data for name, data in first.items() if "/c/" not in name}
    assert files(paths.image("B03")) == other
    assert [path.name for path in paths.image("C11").parent.iterdir() if path.name.startswith(".")] == []


def test_what_an_ingest_that_was_killed_has_left_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make(tmp_path)
    fill(paths, "B03", np.ones((1, 35, 50), np.uint16))
    whole, remove_tree = content(paths.store), plateflow.files.remove_tree

    def killed(folder: Path) -> None:
        if folder.name.endswith(".old"):
            raise KeyboardInterrupt
        remove_tree(folder)

    monkeypatch.setattr(plateflow.files, "remove_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, {"B03": layout_of((0, 0))})
    monkeypatch.undo()
    make(tmp_path)
    assert content(paths.store) == {name: data for name, data in whole.items() if "/c/" not in name}


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "flipped"])
def test_damaged_metadata_are_restored_and_pixels_stay(tmp_path: Path, damage: str) -> None:
    paths = make(tmp_path)
    fill(paths, "B03", np.ones((1, 35, 50), np.uint16), label=3)
    whole = content(paths.store)
    metadata = [name for name in whole if "/c/" not in name and not name.startswith("C")]
    assert len(metadata) == 13 + 2
    for name in metadata:
        path, data = paths.store / name, whole[name]
        middle = len(data) // 2
        if damage == "removed":
            path.unlink()
        elif damage == "emptied":
            path.write_bytes(b"")
        elif damage == "cut":
            path.write_bytes(data[:middle])
        else:
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :])
        assert content(paths.store) != whole
        make(tmp_path)
        assert content(paths.store) == whole, name


def test_what_no_journal_knows_stays_only_if_all_of_its_metadata_are_as_they_should_be(tmp_path: Path) -> None:
    """Whether its pixels are those that were written, the lines of tile and stitch tell."""
    paths = make(tmp_path)
    empty = content(paths.store)
    fill(paths, "B03", np.ones((1, 35, 50), np.uint16), label=3)
    filled = content(paths.store)
    (tmp_path / "ids.json").unlink()
    make(tmp_path)
    assert content(paths.store) == filled
    (tmp_path / "ids.json").unlink()
    for group in (paths.image("B03").parent, *(paths.image("B03") / "labels").glob("[a-z]*/")):
        (group / "zarr.json").write_bytes(b"{}")
    make(tmp_path)
    assert content(paths.store) == empty


def test_wells_and_label_sets_that_come_back_have_kept_their_pixels(tmp_path: Path) -> None:
    paths = make(tmp_path)
    for well, size in (("B03", (35, 50)), ("C11", (10, 10))):
        fill(paths, well, np.ones((1, *size), np.uint16), label=3)
    whole = content(paths.store)
    make(tmp_path, {"B03": layout_of(*BOXES)}, label_sets={"cells": ["DNA"]})
    make(tmp_path)
    assert {name: data for name, data in content(paths.store).items() if "/cells/" not in name} == whole


def test_labels_follow_the_z_mode(tmp_path: Path) -> None:
    wells = {"B03": layout_of((0, 0), z=3)}
    paths = make(tmp_path, wells)
    assert WellImage.open(paths, "B03").array("labels/nuclei/0").shape == (1, 1, 10, 10)
    fill(paths, "B03", np.ones((1, 10, 10), np.uint16), label=3)
    before = files(paths.image("B03") / "0")
    for z_mode, depth in (("keep", 3), ("max", 1)):
        make(tmp_path, wells, z_mode=z_mode)
        labels = WellImage.open(paths, "B03").array("labels/nuclei/0")
        assert labels.shape == (1, depth, 10, 10)
        assert not labels[:].any(), "back at the first shape, but what was in it is gone"
    assert files(paths.image("B03") / "0") == before


def test_a_plate_of_384_wells_is_made_fast_and_has_few_files(tmp_path: Path) -> None:
    from plateflow.paths import well_name

    wells = {well_name(row, column): layout_of((0, 0), (0, 10)) for row in range(2) for column in range(12)}
    paths = make(tmp_path, wells, label_sets={"nuclei": ["DNA"], "cells": ["DNA"]})
    per_image = len([p for p in paths.image("A01").rglob("*") if p.is_file()])
    assert per_image == 16  # and 9 shards once all is written
    assert 384 * (per_image + 9 + 1) + 16 + 1 < 20_000


def test_image_and_labels_lie_on_each_other_at_every_level(tmp_path: Path) -> None:
    """Discs keep their places in micrometres, by the metadata of each level: each in the image, on average as labels.

    They begin at every px of a block of 4 x 4, so that rounding to whole pixels takes none of them to one side.
    """
    layout = replace(layout_of((0, 0), size=183), pixel_um=(2.0, 0.5, 0.25))
    image = WellImage.open(make(tmp_path, {"B03": layout}), "B03")
    (canvas,) = canvases(image.layout, set(), "max")
    centres = [(25 + 41 * (n // 4), 25 + 41 * (n % 4)) for n in range(16)]
    labels, (y, x) = np.zeros((183, 183), np.uint32), np.indices((183, 183))
    for number, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 13**2] = number
    with image.writing(0, 0) as write:
        write(canvas.slices, ((labels > 0) * 1600).astype(np.uint16)[None])
    image.write_labels("nuclei", 0, 0, [(canvas, labels)])
    whole = zarr.open_group(image.paths.image(image.well), mode="r")
    for group in (whole, whole["labels/nuclei"]):
        (multiscale,) = group.attrs["ome"]["multiscales"]
        for level, dataset in enumerate(multiscale["datasets"]):
            scale, start = (np.array(step[step["type"]])[-2:] for step in dataset["coordinateTransformations"])
            assert start.tolist() == [(2**level - 1) / 2 * 0.5, (2**level - 1) / 2 * 0.25]
            pixels = np.squeeze(group[dataset["path"]][:])
            off = []
            for number, centre in enumerate(centres, start=1):
                y, x = np.indices(pixels.shape) * scale[:, None, None] + start[:, None, None]
                near = (abs(y / 0.5 - centre[0]) < 20) & (abs(x / 0.25 - centre[1]) < 20)
                weights = pixels[near] if group is whole else pixels[near] == number
                off.append([np.average(y[near], weights=weights) / 0.5, np.average(x[near], weights=weights) / 0.25])
            off = np.array(off) - centres
            assert abs(off.mean(axis=0)).max() < 0.01
            assert abs(off).max() < (0.05 if group is whole else 1)


@pytest.mark.parametrize(
    ("z_mode", "scale", "start"), [("max", 6.0, 2.0), ("mean", 6.0, 2.0), ("plane 2", 2.0, 4.0), ("keep", 2.0, 0.0)]
)
def test_labels_cover_the_planes_that_they_stand_for(tmp_path: Path, z_mode: str, scale: float, start: float) -> None:
    layout = replace(layout_of((0, 0), z=3), pixel_um=(2.0, 0.5, 0.5), z_known=True)
    paths = make(tmp_path, {"B03": layout}, z_mode=z_mode)
    (multiscale,) = zarr.open_group(paths.image("B03") / "labels/nuclei", mode="r").attrs["ome"]["multiscales"]
    for dataset in multiscale["datasets"]:
        steps = {step["type"]: step[step["type"]][1] for step in dataset["coordinateTransformations"]}
        assert steps == {"scale": scale, "translation": start}


def test_ngio_masks_what_a_projection_measured(tmp_path: Path) -> None:
    ngio = pytest.importorskip("ngio")
    layout = replace(layout_of((0, 0), size=32, z=3), pixel_um=(2.0, 0.5, 0.5), z_known=True)
    paths = make(tmp_path, {"B03": layout})
    image = WellImage.open(paths, "B03")
    (canvas,) = canvases(layout, set(), "max")
    labels = np.zeros((32, 32), np.uint32)
    labels[8:16, 12:20] = 7
    pixels = np.random.default_rng(0).integers(1, 4000, (3, 32, 32), dtype=np.uint16)
    for z, plane in enumerate(pixels):
        with image.writing(0, z) as write:
            write(canvas.slices, plane[None])
    image.write_labels("nuclei", 0, 0, [(canvas, labels)])
    container = ngio.open_ome_zarr_container(str(paths.image("B03")))
    for level in range(3):
        masked = container.get_masked_image(masking_label_name="nuclei", path=str(level))
        inside = np.squeeze(masked.get_roi_masked(label=7))
        size = 8 >> level
        assert inside.shape == (3, size, size)
        measured = np.asarray(image.array(str(level))[0, 0])[:, labels[:: 2**level, :: 2**level] == 7]
        np.testing.assert_array_equal(inside.reshape(3, -1), measured)
