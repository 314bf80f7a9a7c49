"""Pages of TIFFs that nobody reads, in every layout of TIFFs, and the ways to read them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from vendors import LAYOUTS, PatternLayout

from plateflow.config import Config, PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise
from plateflow.plates.check import check_plate
from plateflow.plates.pages import pages_in, stack_in
from plateflow.plates.pattern import EXAMPLE
from plateflow.simulate.plate import micro_wells, simulate_plate

CONFIG = Config.model_validate({"segmentation": {"nuclei": {"channels": ["1"]}}})
REMEDY = r"columns path, page[\s\S]*Frame_<channel>[\s\S]*\(\?P<channels>\)"
A = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if not name.startswith("omezarr")])
def test_pages_that_nobody_reads_are_an_error(tmp_path: Path, name: str) -> None:
    made = simulate_plate(
        tmp_path, wells=micro_wells(), fields=2, field_shape=(48, 48), channels=("DNA", "AGP"), layout=LAYOUTS[name]
    )
    pattern = EXAMPLE if LAYOUTS[name] is PatternLayout else None
    layout = "pattern" if pattern else recognise(made.raw)
    spec = PlateSpec(plate="p", path=str(made.raw), layout=layout, pattern=pattern)
    files = sorted({path for path in made.raw.rglob("*.tif*") if "thumb" not in path.name.lower()})
    pages = len(tifffile.TiffFile(files[0]).pages)
    assert not [problem for problem in check_plate(spec, CONFIG) if "planes, and" in problem.what]
    for path in files:
        tifffile.imwrite(path, np.zeros((48, 48), np.uint16), append=True, metadata=None)
    words = f"pages of the images would not be used[\\s\\S]*holds {pages + 1} planes, and {pages} of them[\\s\\S]*"
    with pytest.raises(RawDataError, match=words + REMEDY):
        open_plate(spec)
    (problem,) = check_plate(spec, CONFIG)
    assert problem.severity == "error"


def test_check_looks_into_every_file(tmp_path: Path) -> None:
    names = [f"{well}_s1_w1.tif" for well in ("A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A09", "A10")]
    for number, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, A[0] + np.uint16(number))
    tifffile.imwrite(tmp_path / names[1], A, photometric="minisblack")  # init looks into every second one
    spec = PlateSpec(plate="p", path=str(tmp_path), layout="pattern", pattern=EXAMPLE)
    (problem,) = [problem for problem in check_plate(spec, CONFIG) if problem.severity == "error"]
    assert (problem.well, problem.file) == ("A02", str(tmp_path / names[1]))
    assert problem.what == "the file holds 3 planes, and 1 of them would be read"
    assert "regular expression" in problem.remedy


def nis(folder: Path) -> Path:
    """Two positions as NIS-Elements names them; all channels are pages of one file."""
    for number, well in enumerate(("H06", "H07")):
        name = f"Well{well}_Point{well}_0001_ChannelDAPI,WF_GFP,TRITC_Seq{number:04d}.tiff"
        tifffile.imwrite(folder / name, A + np.uint16(1000 * number), photometric="minisblack")
    return folder


@pytest.mark.parametrize(
    ("group", "names"),
    [("(?P<channels>.*)_Seq", ["DAPI", "WF_GFP", "TRITC"]), ("(?P<channels>)", ["1", "2", "3"])],
)
def test_channels_by_page(tmp_path: Path, group: str, names: list[str]) -> None:
    plate = open_plate(nis(tmp_path), pattern=rf"Well(?P<well>[A-P]\d\d)_.*_(?P<field>\d+)_Channel{group}")
    assert [channel["name"] for channel in plate.metadata["channels"]] == names
    for number, well in enumerate(("H06", "H07")):
        for page, channel in enumerate(names):
            np.testing.assert_array_equal(plate.read(well, "1", channel), A[page] + 1000 * number)


@pytest.mark.parametrize(("axes", "channels"), [("ZCYX", None), ("CYX", 6), ("ZYX", 6)])
def test_pages_that_are_no_channels_by_their_metadata(tmp_path: Path, axes: str, channels: int | None) -> None:
    """Three planes of two channels became six channels; of one axis, writers call it what they like."""
    shape = (3, 2, 8, 9) if channels is None else (6, 8, 9)
    tifffile.imwrite(tmp_path / "A01.ome.tif", np.zeros(shape, np.uint16), metadata={"axes": axes})
    pattern = r"(?P<well>A01)(?P<channels>)\.ome"
    if channels is None:
        with pytest.raises(RawDataError, match="2 channels, and 3 planes or times of each"):
            open_plate(tmp_path, pattern=pattern)
        return
    metadata = open_plate(tmp_path, pattern=pattern).metadata
    assert stack_in(tmp_path / "A01.ome.tif") == ((1, 6) if axes == "ZYX" else (6, 1))
    assert len(metadata["channels"]) == channels
    assert any("planes or times by its metadata" in note for note in metadata["disagreements"]) == (axes == "ZYX")


def test_a_name_of_fewer_channels_than_pages_is_refused(tmp_path: Path) -> None:
    pattern = r"Well(?P<well>[A-P]\d\d)_.*_Channel(?P<channels>.*),TRITC_Seq"
    with pytest.raises(RawDataError, match="holds 3 planes, and 2 of them would be read"):
        open_plate(nis(tmp_path), pattern=pattern)
    with pytest.raises(RawDataError, match="of channel and channels one"):
        open_plate(tmp_path, pattern=r"Well(?P<well>[A-P]\d\d)_(?P<channel>.)(?P<channels>.)")


@pytest.mark.parametrize("table", ["pattern", "load_data"])
def test_a_table_chooses_pages(tmp_path: Path, table: str) -> None:
    """Those that it leaves out are left out on purpose, and only told."""
    tifffile.imwrite(tmp_path / "a.tif", A, photometric="minisblack")
    if table == "pattern":
        text = "path,well,channel,page\na.tif,B03,1,0\na.tif,B03,3,2\n"
    else:
        text = "Metadata_Well,Metadata_Site,FileName_1,Frame_1,FileName_3,Frame_3\nB03,1,a.tif,0,a.tif,2\n"
    (tmp_path / "images.csv").write_text(text)
    pattern = "images.csv" if table == "pattern" else None
    spec = PlateSpec(plate="p", path=str(tmp_path), layout=table, pattern=pattern)
    np.testing.assert_array_equal(open_plate(spec).read("B03", "1", "3"), A[2])
    (problem,) = [problem for problem in check_plate(spec, CONFIG) if "planes, and" in problem.what]
    assert (problem.severity, "holds 3 planes, and 2 of them" in problem.what) == ("warning", True)
    assert problem.remedy.startswith("nothing, if the table leaves them out on purpose")
    for wrong in ("-1", "1.5", "last"):
        (tmp_path / "images.csv").write_text(text.replace(",2\n", f",{wrong}\n"))
        with pytest.raises(RawDataError, match="cannot parse line"):
            open_plate(spec)
    if table == "load_data":
        (tmp_path / "images.csv").write_text(text.replace("Frame_3", "Series_3"))
        with pytest.raises(RawDataError, match="only the first series"):
            open_plate(spec)


@pytest.mark.parametrize("page", ["", "0", "1"])
@pytest.mark.parametrize("table", ["pattern", "load_data"])
def test_a_column_of_one_page_chooses_none(tmp_path: Path, table: str, page: str) -> None:
    """As writers fill it in by themselves; it switched the error off."""
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", A, photometric="minisblack")
    if table == "pattern":
        lines = ["path,well,channel,page", f"a.tif,B03,1,{page}", f"b.tif,B04,1,{page}"]
    else:
        lines = ["Metadata_Well,FileName_1,Frame_1", f"B03,a.tif,{page}", f"B04,b.tif,{page}"]
    (tmp_path / "images.csv").write_text("\n".join(lines))
    with pytest.raises(RawDataError, match="holds 3 planes, and 1 of them would be read"):
        open_plate(tmp_path, layout=table, pattern="images.csv" if table == "pattern" else None)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_pictures_are_refused_as_such(tmp_path: Path, planar: str) -> None:
    for name in ("A01_s1_w1.tif", "A02_s1_w1.tif"):
        colours = A.astype(np.uint8) if planar == "separate" else np.moveaxis(A, 0, -1).astype(np.uint8)
        tifffile.imwrite(tmp_path / name, colours, photometric="rgb", planarconfig=planar)
    with pytest.raises(RawDataError, match=r"colour pictures[\s\S]*has 3 values[\s\S]*Split Channels"):
        open_plate(tmp_path, pattern=EXAMPLE)
    for name in ("A03_s1_w1.tif", "A04_s1_w1.tif", "A05_s1_w1.tif"):
        tifffile.imwrite(tmp_path / name, A[0] + np.uint16(ord(name[2])))
    spec = PlateSpec(plate="p", path=str(tmp_path), layout="pattern", pattern=EXAMPLE)
    problems = [problem for problem in check_plate(spec, CONFIG) if problem.severity == "error"]
    what = "channel 1: colour: the file is a colour picture: a pixel has 3 values"
    assert [(problem.well, problem.what) for problem in problems] == [("A01", what), ("A02", what)]
    assert problems[0].remedy.startswith("save each channel as a grey image")


@pytest.mark.parametrize("kind", ["float32", "int32", "bool"])
def test_a_plate_of_a_type_that_is_not_read_is_refused(tmp_path: Path, kind: str) -> None:
    """It was taken, and each of its planes left out later."""
    for name in ("A01_s1_w1.tif", "A02_s1_w1.tif"):
        tifffile.imwrite(tmp_path / name, A[0].astype(kind), photometric="minisblack")
    with pytest.raises(RawDataError, match=rf"those looked at are {kind};[\s\S]*convert all to uint16"):
        open_plate(tmp_path, pattern=EXAMPLE)
    tifffile.imwrite(tmp_path / "A03_s1_w1.tif", A[0])
    planes = open_plate(tmp_path, pattern=EXAMPLE).planes
    assert len(planes) == 3 and set(planes["dtype"]) == {"uint16"}


def test_planes_of_a_tiff(tmp_path: Path) -> None:
    """Previews aren't planes; planes of ImageJ and tifffile may have no page of their own."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for pixels in A[:2]:
            file.write(pixels, metadata=None)
            file.write(pixels[::2, ::2], metadata=None, subfiletype=1)
    assert pages_in(path) == 2
    tifffile.imwrite(path, A, photometric="minisblack", truncate=True)
    assert pages_in(path) == 3
    tifffile.imwrite(path, A, imagej=True)
    assert pages_in(path) == 3
    tifffile.imwrite(path, A, photometric="rgb", planarconfig="separate")
    assert pages_in(path) == 1
    path.write_bytes(b"II*")
    assert pages_in(path) == 0
