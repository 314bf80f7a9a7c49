"""Types of pixels: any byte order, signed numbers, and channels of 8 bits beside others of 16."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from images_project import Project

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.images.histograms import read_histograms
from plateflow.images.well import WellImage
from plateflow.plates import PlaneError, open_plate, read_plane
from plateflow.plates.check import check_plate
from plateflow.plates.pattern import EXAMPLE
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.state.journal import Entry, append_outcome

NOISE = np.random.default_rng(0).integers(100, 4000, (3, 40, 48)).astype(np.uint16)
SIZE = {"height": 40, "width": 48}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_array_of_the_other_byte_order(tmp_path: Path, zarr_format: int) -> None:
    options = {} if zarr_format == 2 else {"serializer": zarr.codecs.BytesCodec(endian="big")}
    dtype = ">u2" if zarr_format == 2 else "uint16"
    array = zarr.create_array(
        tmp_path / "0", shape=NOISE.shape, chunks=(1, 40, 48), dtype=dtype, zarr_format=zarr_format, **options
    )
    array[...] = NOISE
    pixels = read_plane(tmp_path / "0", 1, **SIZE, dtype="uint16")
    assert pixels.dtype.isnative and pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, NOISE[1])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (NOISE[0].astype(np.int16), NOISE[0]),
        (NOISE[0].astype(">i2"), NOISE[0]),
        ((NOISE[0] >> 5).astype(np.int8), (NOISE[0] >> 5).astype(np.uint8)),
        (NOISE[0].astype(np.int16) - np.int16(500), "signed pixels from -"),
        (np.full((40, 48), -1, np.int16), "signed pixels from -1 to -1"),
        ((NOISE[0].astype(int) - 2**15).astype(np.int16), "signed pixels from -32,668 to -28,7"),
    ],
)
def test_signed_pixels_keep_their_values_or_are_refused(
    tmp_path: Path, stored: np.ndarray, read: np.ndarray | str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=">" if stored.dtype.byteorder == ">" else "<")
    dtype = "uint8" if stored.dtype == np.int8 else "uint16"
    if isinstance(read, str):
        with pytest.raises(PlaneError, match=read) as error:
            read_plane(tmp_path / "a.tif", **SIZE, dtype=dtype)
        assert error.value.reason == "negative"
        return
    pixels = read_plane(tmp_path / "a.tif", **SIZE, dtype=dtype)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, read)


def test_what_was_subtracted_from_signed_pixels_is_decided_for_a_channel(tmp_path: Path) -> None:
    """As ScanR writes them. Each plane was asked by itself: a bright one kept values that are 32,768 too low."""
    (tmp_path / "raw").mkdir()
    values = [*NOISE.astype(int), NOISE[0] + 20000, NOISE[0] + 40000, NOISE[0] + 30000]
    for column, of_well in enumerate(values, start=1):
        tifffile.imwrite(tmp_path / "raw" / f"A{column:02d}_s1_w1.tif", (of_well - 2**15).astype(np.int16))
        plain = NOISE[0].astype(int) - 2**15 * (column == 5)
        tifffile.imwrite(tmp_path / "raw" / f"A{column:02d}_s1_w2.tif", plain.astype(np.int16))
    spec = PlateSpec(plate="p", path=str(tmp_path / "raw"), layout="pattern", pattern=EXAMPLE, pixel_size_um=0.5)
    plate = open_plate(spec)
    assert [channel["dtype"] for channel in plate.metadata["channels"]] == ["uint16", "uint16"]
    assert plate.metadata["disagreements"] == [
        "1 channel has signed pixels far below 0, as ScanR writes them: 32,768 is added to each: 1"
    ]
    for column in (1, 2, 3, 4):
        np.testing.assert_array_equal(plate.read(f"A{column:02d}", "1", "1"), values[column - 1])
        np.testing.assert_array_equal(plate.read(f"A{column:02d}", "1", "2"), NOISE[0])
    for well, channel in (("A05", "1"), ("A06", "1"), ("A05", "2")):
        with pytest.raises(PlaneError, match=r"signed pixels .* negative") as error:
            plate.read(well, "1", channel)
        assert error.value.reason == "negative"


@pytest.mark.parametrize("layout", ["omezarr", "omezarr_in_place"])
def test_a_plate_of_big_endian_arrays(tmp_path: Path, layout: str) -> None:
    """As bioformats2raw wrote them for years: refused as a type that isn't read."""
    from vendors.omezarr import OmeZarrLayout

    made = simulate_plate(tmp_path / "raw", wells=micro_wells(), fields=1, field_shape=(64, 80), layout=OmeZarrLayout)
    expected = open_plate(PlateSpec(plate="p", path=str(made.raw), layout=layout))
    arrays = [path.parent for path in made.raw.rglob(".zarray")]
    assert arrays
    values = {(w, f, c): expected.read(w, f, c) for w in ("B02", "B03") for f in ("1",) for c in ("DNA", "AGP")}
    for folder in arrays:
        old = zarr.open_array(folder, mode="r")
        pixels, chunks = old[...], old.chunks
        new = zarr.create_array(
            folder, shape=old.shape, chunks=chunks, dtype=">u2", zarr_format=2, overwrite=True,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip
        new[...] = pixels
    project = Project(raw=made.raw, results=tmp_path / "results", entry_options={"layout": layout})
    project.run("ingest", "tile", "normalise")
    assert project.outcome("tile", "B02").state == "ok"
    (canvas, *_) = project.plate.canvases("B02")
    image = WellImage.open(project.paths, "B02")
    (box, *_), (ys, xs) = canvas.fields, canvas.regions()[0]
    np.testing.assert_array_equal(image._raw(canvas, "DNA", 0)[ys, xs], values["B02", box.name, "DNA"])


@pytest.fixture
def mixed(tmp_path: Path) -> Project:
    """Two wells with the channels 1, of 16 bits, and 2, of 8 bits, partly saturated."""
    (tmp_path / "raw").mkdir()
    for number, well in enumerate(("A01", "A02")):
        tifffile.imwrite(tmp_path / "raw" / f"{well}_s1_w1.tif", NOISE[number])
        phase = (NOISE[number] >> 4).astype(np.uint8)
        phase[:5] = 255
        tifffile.imwrite(tmp_path / "raw" / f"{well}_s1_w2.tif", phase)
    return Project(
        raw=tmp_path / "raw",
        results=tmp_path / "results",
        entry_options={"layout": "pattern", "pattern": EXAMPLE, "pixel_size_um": 0.5},
        options={"segmentation": {"nuclei": {"channels": ["1"]}}, "normalise": {"illumination": False}},
    )


def test_a_channel_of_8_bits_beside_16(mixed: Project) -> None:
    """All its fields were left out. Each channel keeps its values, its top, and the scale of its type."""
    problems = check_plate(mixed.plate.spec, mixed.plate.config)
    assert [problem.what.split(":")[:2] for problem in problems] == 2 * [["channel 2", " saturated"]]
    mixed.run("ingest", "tile", "normalise")
    image = WellImage.open(mixed.paths, "A01")
    assert image.layout.dtype == "uint16"
    raw = [tifffile.imread(mixed.raw / f"A01_s1_w{channel}.tif") for channel in (1, 2)]
    np.testing.assert_array_equal(image.array("0")[0, :, 0], raw)
    found = read_histograms(mixed.paths, "A01")
    assert found["1", "2"].top == 255 and found["1", "2"].saturated == pytest.approx((raw[1] == 255).mean())
    assert found["1", "1"].saturated == 0
    (canvas,) = mixed.plate.canvases("A01", "nuclei")
    labels = np.zeros(raw[0].shape, np.uint32)
    labels[10:30, 10:30] = 1
    image.write_labels("nuclei", 0, 0, [(canvas, labels)])
    objects = pd.DataFrame({"label": [1], "flow_error": [0.1], "cell_probability": [1.0]})
    for well in ("A01", "A02"):
        mixed.paths.objects("nuclei", well).parent.mkdir(parents=True, exist_ok=True)
        objects.to_parquet(mixed.paths.objects("nuclei", well))
        append_outcome(mixed.paths.journal("stitch", "0"), Entry(well=well, label_set="nuclei", fingerprint="1"))
    mixed.run("features")
    table = pd.read_parquet(mixed.paths.cells("A01"))
    means = [table[f"Nuclei_Intensity_MeanIntensity_{channel}"].item() for channel in (1, 2)]
    expected = [raw[0][labels == 1].mean() / 65535, raw[1][labels == 1].mean() / 255]
    assert means == pytest.approx(expected, rel=1e-6)


def test_one_file_of_another_type_than_its_channel_is_set_aside(mixed: Project) -> None:
    tifffile.imwrite(mixed.raw / "A03_s1_w1.tif", NOISE[2])
    tifffile.imwrite(mixed.raw / "A03_s1_w2.tif", NOISE[2])
    mixed.run("ingest", "tile")
    entry = mixed.outcome("tile", "A03")
    assert (entry.state, entry.reason) == ("flagged", "fields")  # no label set needs the channel
    assert entry.info["lacking"] == {"1": ["2"]}
    assert entry.detail.endswith("has uint16 pixels, the channel's usual type is uint8")
    assert mixed.outcome("tile", "A01").state == "ok"


def test_a_channel_of_a_type_that_is_not_read_is_named(mixed: Project) -> None:
    for well in ("A01", "A02"):
        tifffile.imwrite(mixed.raw / f"{well}_s1_w2.tif", NOISE[0].astype(np.float32))
    with pytest.raises(RawDataError, match="images of 2 have a pixel type that isn't read") as error:
        open_plate(mixed.plate.spec)
    assert "float32" in error.value.why and "export them with 8 or 16 bits" in error.value.remedy
    for well in ("A01", "A02"):
        tifffile.imwrite(mixed.raw / f"{well}_s1_w2.tif", np.zeros((40, 48, 3), np.uint8), photometric="rgb")
    with pytest.raises(RawDataError, match="images of 2 are colour pictures"):
        open_plate(mixed.plate.spec)
