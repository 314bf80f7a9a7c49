import csv
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import layouts_plate
import numpy as np
import pytest
import tifffile

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise
from plateflow.plates.pixels import PlaneError
from plateflow.simulate.harmony import NAMESPACE, file_name, write_index
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.simulate.plate import Fault, micro_wells, simulate_plate


def make_plate(folder: Path, records: list[Record], *, shape: tuple[int, int] = (8, 12)) -> Path:
    """A Harmony plate whose planes hold well, field and channel as a number."""
    images = folder / "Images"
    images.mkdir(parents=True)
    for n, record in enumerate(records):
        tifffile.imwrite(images / file_name(record), np.full((20, 30), n + 1, np.uint16))
    plate = PlateDescription(name="p", plate_shape=shape, field_shape=(20, 30), pixel_size_um=0.5)
    write_index(images / "Index.idx.xml", [(record, True) for record in records], plate)
    return folder


def record(**values: object) -> Record:
    base = Record(row=1, column=2, field=0, channel=0, channel_name="DNA", y_um=0.0, x_um=0.0)
    return replace(base, **values)


def two_fields() -> list[Record]:
    return [
        record(field=field, channel=c, channel_name=name, x_um=15.0 * field)
        for field in range(2)
        for c, name in enumerate(("DNA", "AGP"))
    ]


def edit(folder: Path, change: str, to: str, *, count: int = 0) -> None:
    path = folder / "Images" / "Index.idx.xml"
    text, n = re.subn(change, to, path.read_text(), count=count)
    assert n
    path.write_text(text)


def test_a_real_plate_of_harmony_5(test_data: Path) -> None:
    folder = test_data / "plates" / "phenix_harmony5_BR00121482"
    plate = open_plate(folder)
    assert plate.metadata["layout"] == "harmony"
    assert plate.metadata["format"] == [16, 24]
    assert plate.metadata["wells"] == ["A01"]
    # by hand from the index: channels in the order of ChannelID, emission in nm; brightfield has an emission of 0
    assert [{**channel, "dtype": "uint16"} for channel in plate.metadata["channels"]] == plate.metadata["channels"]
    assert [{key: channel[key] for key in channel if key != "dtype"} for channel in plate.metadata["channels"]] == [
        {"name": "Alexa 647", "wavelength_nm": 706.0, "exposure_s": 0.01, "flat_field": "FlatfieldProfile"},
        {"name": "Alexa 568", "wavelength_nm": 599.0, "exposure_s": 0.01, "flat_field": "FlatfieldProfile"},
        {"name": "488 long", "wavelength_nm": 599.0, "exposure_s": 0.01, "flat_field": "FlatfieldProfile"},
        {"name": "Alexa 488", "wavelength_nm": 522.0, "exposure_s": 0.01, "flat_field": "FlatfieldProfile"},
        {"name": "HOECHST 33342", "wavelength_nm": 456.0, "exposure_s": 0.01, "flat_field": "FlatfieldProfile"},
        {"name": "Brightfield", "exposure_s": 0.01},
    ]
    assert plate.metadata["disagreements"] == []
    planes = plate.planes.set_index("channel")
    assert (planes["state"] == "ok").all()
    assert planes["z_um"].to_dict() == {
        **{"Alexa 647": -5.0, "Alexa 568": -3.0, "488 long": -3.0, "Alexa 488": -4.0},
        **{"HOECHST 33342": -4.0, "Brightfield": 0.0},
    }
    assert set(planes["y_um"]) == set(planes["x_um"]) == {-540 * 0.5979760809567617}
    _compare_with_pe2loaddata(planes, folder / "load_data_version1.csv")
    pixels = plate.read("A01", "1", "HOECHST 33342")
    assert (pixels.shape, pixels.dtype) == ((1080, 1080), np.uint16)
    np.testing.assert_array_equal(pixels, tifffile.imread(folder / "Images" / "r01c01f01p01-ch5sk1fk1fl1.tiff"))


def test_real_metadata_of_harmony_7_with_its_channels_in_maps(test_data: Path) -> None:
    folder = test_data / "plates" / "phenix_harmony7_metadata_only"
    plate = open_plate(folder)
    assert plate.metadata["format"] == [8, 12]
    assert [channel["name"] for channel in plate.metadata["channels"]] == [
        *("Alexa 488", "Alexa 568", "Alexa 488 Em 650", "405ex, 570-630-em)", "Alexa 647", "HOECHST 33342"),
        "Brightfield",
    ]
    known = {"wavelength_nm": 599.0, "exposure_s": 0.035, "dtype": "uint16"}
    assert plate.metadata["channels"][3] == {"name": "405ex, 570-630-em)", **known}
    fields = [channel["name"] for channel in plate.metadata["channels"] if "flat_field" in channel]
    assert fields == ["Alexa 488", "Alexa 488 Em 650", "HOECHST 33342"]  # of the others it says `Character: Null`
    assert plate.metadata["bit_max"] == 65535  # the file says 65536
    assert plate.metadata["t"] == plate.metadata["z"] == 1  # TimepointID begins with 1 here
    planes = plate.planes.set_index("channel")
    assert set(zip(planes["state"], planes["reason"], strict=True)) == {("missing", "missing")}
    assert set(planes["height"]) == set(planes["width"]) == {2160}
    assert set(planes["dy_um"]) == {0.296688132474701}
    assert planes.loc["HOECHST 33342", "z_um"] == -4.0
    _compare_with_pe2loaddata(planes, folder / "load_data_version7.csv")


def _compare_with_pe2loaddata(planes: "object", path: Path) -> None:
    """pe2loaddata's own expected output: one line a site, columns by the channel names of its configuration."""
    (line,) = csv.DictReader(path.open(newline=""))
    names = {key.removeprefix("FileName_"): value for key, value in line.items() if key.startswith("FileName_")}
    assert len(names) == len(planes)
    for short, file in names.items():
        row = planes.loc[line[f"Metadata_ChannelName_{short}"]]
        assert Path(row["path"]).name == file
        assert row["well"] == line["Metadata_Well"]
        assert row["field"] == line["Metadata_FieldID"]
        assert row["dy_um"] == pytest.approx(float(line["Metadata_ImageResolutionY"]) * 1e6, rel=1e-12)
        assert row["z_um"] == pytest.approx(float(line[f"Metadata_PositionZ_{short}"]) * 1e6, abs=1e-9)
        assert row["width"] == int(line["Metadata_ImageSizeX"])


def test_a_simulated_plate_pixel_for_pixel_and_position_for_position(tmp_path: Path) -> None:
    made = simulate_plate(tmp_path, wells=micro_wells(), fields=3, field_shape=(64, 96), overlap_px=8)
    plate = open_plate(made.raw)
    assert plate.metadata["wells"] == ["B02", "B03"]
    assert plate.metadata["fields"] == 3
    assert len(plate.planes) == 2 * 3 * 3
    for row in plate.planes.to_dict("records"):
        field, channel = int(row["field"]), ["DNA", "AGP", "Marker"].index(row["channel"]) + 1
        file = f"r{row['row'] + 1:02d}c{row['column'] + 1:02d}f{field:02d}p01-ch{channel}sk1fk1fl1.tiff"
        pixels = plate.read(row["well"], row["field"], row["channel"])
        np.testing.assert_array_equal(pixels, tifffile.imread(made.raw / "Images" / file))
        top, left = divmod(field - 1, 2)
        # the canvas is 120 x 184 px with its middle at 0; y downwards
        assert row["y_um"] == pytest.approx((top * 56 - 60) * 0.6)
        assert row["x_um"] == pytest.approx((left * 88 - 92) * 0.6)


def test_names_alone_where_the_index_is_missing(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    with_index = open_plate(folder)
    (folder / "Images" / "Index.idx.xml").unlink()
    assert recognise(folder) == "harmony"
    plate = open_plate(folder, pixel_size_um=0.7)
    same = ["row", "column", "well", "field", "t", "z", "path", "height", "width", "dtype", "size_bytes", "state"]
    assert plate.planes[same].equals(with_index.planes[same])
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["ch1", "ch2"]
    assert plate.planes["y_um"].isna().all()
    assert plate.metadata["pixel_size_um"] == [0.7, 0.7]
    assert "no index" in plate.metadata["disagreements"][0]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("r02c03f01p01-ch1t02.tiff", (1, 2, "1", 0)),
        ("flex_r02c03f04p01-ch1sk1fk1fl1.tiff", (1, 2, "4", 0)),
        ("r16c24f09p01-ch1sk1fk1fl1.TIFF", (15, 23, "9", 0)),
    ],
)
def test_names_of_other_versions(tmp_path: Path, name: str, found: tuple[int, int, str, int]) -> None:
    tifffile.imwrite(tmp_path / name, np.zeros((8, 8), np.uint16))
    row = open_plate(tmp_path, pixel_size_um=1).planes.iloc[0]
    assert (row["row"], row["column"], row["field"], row["t"]) == found


@pytest.mark.parametrize("name", ["Index.ref.xml", "Index.xml"])
@pytest.mark.parametrize("namespace", ["http://www.perkinelmer.com/PEHH/HarmonyV6", "anything/HarmonyV9", ""])
def test_other_index_names_and_namespaces(tmp_path: Path, name: str, namespace: str) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    expected = open_plate(folder).planes
    edit(folder, NAMESPACE, namespace)
    (folder / "Images" / "Index.idx.xml").rename(folder / "Images" / name)
    assert open_plate(folder).planes.equals(expected)


def test_values_of_the_channel_in_maps_and_an_image_that_overrules_them(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    expected = open_plate(folder)
    path = folder / "Images" / "Index.idx.xml"
    tree = ET.parse(path)
    local = lambda element: element.tag.rpartition("}")[2]  # noqa: E731
    entries = {e.get("ChannelID"): e for e in tree.iter() if local(e) == "Entry"}
    tags = {"ChannelName", "ImageResolutionX", "ImageResolutionY", "ImageSizeX", "ImageSizeY", "ExposureTime"}
    for number, image in enumerate(e for e in tree.iter() if local(e) == "Image" and len(e)):
        values = {local(child): child for child in image}
        entry = entries[values["ChannelID"].text]
        for tag in tags | {"MainEmissionWavelength", "MaxIntensity"}:
            if number < 2:
                entry.append(values[tag])
            if number < 3:  # the last image keeps its own
                image.remove(values[tag])
            elif tag == "ImageResolutionY":
                values[tag].text, values[tag].attrib["Unit"] = "250", "nm"
    tree.write(path)
    plate = open_plate(folder)
    assert plate.metadata["channels"] == expected.metadata["channels"]
    assert plate.planes["dy_um"].tolist() == [0.5, 0.5, 0.5, 0.25]
    assert "pixel sizes differ" in plate.metadata["disagreements"][-1]
    assert plate.planes["dx_um"].equals(expected.planes["dx_um"])


@pytest.mark.parametrize(
    ("unit", "text"), [("mm", "0.015"), ("µm", "15"), ("Microns", "15"), ("nm", "15000"), ("", "15E-6")]
)
def test_units_of_positions(tmp_path: Path, unit: str, text: str) -> None:
    folder = make_plate(tmp_path / "p", [record(x_um=15.0)])
    edit(folder, '<PositionX Unit="m">[^<]*<', f'<PositionX Unit="{unit}">{text}<')
    edit(folder, '<PositionY Unit="m">[^<]*<', f'<PositionY Unit="{unit}">{text}<')
    row = open_plate(folder).planes.iloc[0]
    assert (row["x_um"], row["y_um"]) == (15.0 - 7.5, -15.0 - 5.0)


@pytest.mark.parametrize("resolution", ["", r"\g<0>"])
def test_positions_go_with_the_users_pixel_size(tmp_path: Path, resolution: str) -> None:
    folder = make_plate(tmp_path / "p", [record(x_um=15.0)])
    edit(folder, "<ImageResolution.*?</ImageResolution.>", resolution)
    spec = PlateSpec(plate="p", path=str(folder), layout="harmony", pixel_size_um=2.0)
    row = open_plate(spec).planes.iloc[0]
    assert row[["x_um", "y_um", "dx_um"]].tolist() == pytest.approx([15 - 30, -20, 2])


def test_missing_planes_are_rows(tmp_path: Path) -> None:
    records = two_fields()
    folder = make_plate(tmp_path / "p", records[:3])  # no record of field 2, AGP
    (folder / "Images" / file_name(records[1])).unlink()
    edit(folder, f"<URL>{file_name(records[2])}</URL>", "<URL></URL>")
    planes = open_plate(folder).planes.set_index(["field", "channel"])
    assert planes["reason"].to_dict() == {
        **{("1", "DNA"): "", ("1", "AGP"): "missing", ("2", "DNA"): "no_record", ("2", "AGP"): "no_record"}
    }
    assert planes.loc[("2", "AGP"), ["y_um", "x_um", "height"]].tolist() == pytest.approx([-5.0, 7.5, 20])


def test_uneven_stacks_are_no_gaps(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, r"(?s)(<URL>r02c03f01p01-ch1.*?<PlaneID>)1<", r"\g<1>2<")
    planes = open_plate(folder).planes
    # DNA has z 1 and 2 (in other fields); AGP has z 1 alone: of AGP nothing is missing
    missing = planes[planes["state"] == "missing"]
    assert list(zip(missing["field"], missing["channel"], missing["z"], strict=True)) == [
        ("1", "DNA", 0),
        ("2", "DNA", 1),
    ]


def test_disagreements_are_reported(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, "<FieldID>2<", "<FieldID>7<")
    edit(folder, "<PlateRows>8<", "<PlateRows>1<")
    edit(folder, "<ImageSizeY>20<", "<ImageSizeY>40<")
    tifffile.imwrite(folder / "Images" / "r05c05f01p01-ch1sk1fk1fl1.tiff", np.zeros((20, 30), np.uint16))
    plate = open_plate(folder)
    assert plate.metadata["format"] == [8, 12]
    notes = "\n".join(plate.metadata["disagreements"])
    assert "2 file names say another well, field or channel" in notes
    assert "1 image is not in the index" in notes
    assert "the metadata say 1 x 12 wells, but wells reach row 2" in notes
    assert "the metadata say 40 x 30 pixels, the files 20 x 30" in notes


def test_numbers_that_are_written_otherwise_or_missing_do_no_harm(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, "<MaxIntensity>65535<", "<MaxIntensity>4095.0<")
    edit(folder, "<PlateRows>8</PlateRows>", "<PlateRows/>")
    plate = open_plate(folder)
    assert plate.metadata["bit_max"] == 4095
    assert plate.metadata["format"] == [8, 12]
    edit(folder, "<MaxIntensity>4095.0<", "<MaxIntensity>NaN<")
    assert open_plate(folder).metadata["bit_max"] == 65535


def test_channels_of_different_sizes_in_every_field_are_refused(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, r"(?s)(-ch2sk1fk1fl1.tiff<.*?<ImageSizeY>)20<", r"\g<1>10<")
    with pytest.raises(RawDataError, match="different sizes") as error:
        open_plate(folder)
    assert "well B03, field 1: DNA 20 x 30, AGP 10 x 30 px" in error.value.where


def test_a_field_with_channels_of_different_sizes_is_left_to_its_files(tmp_path: Path) -> None:
    records = two_fields()
    folder = make_plate(tmp_path / "p", records)
    edit(folder, r"(?s)(f02p01-ch2sk1fk1fl1.tiff<.*?<ImageSizeY>)20<", r"\g<1>10<")
    plate = open_plate(folder)
    assert set(plate.planes["height"]) == {20}
    assert "well B03, field 2: DNA 20 x 30, AGP 10 x 30 px" in plate.metadata["disagreements"][-1]
    assert plate.read("B03", "2", "AGP").shape == (20, 30)  # the file was right
    tifffile.imwrite(folder / "Images" / file_name(records[3]), np.zeros((10, 30), np.uint16))
    with pytest.raises(PlaneError, match="wrong_size"):
        open_plate(folder).read("B03", "2", "AGP")
    assert open_plate(folder).read("B03", "1", "AGP").shape == (20, 30)


def test_channels_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, "<ChannelName>AGP<", "<ChannelName>DNA<")
    assert [channel["name"] for channel in open_plate(folder).metadata["channels"]] == ["DNA", "DNA (2)"]


def test_fields_beyond_ten_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", [record(field=field, x_um=15.0 * field) for field in range(11)])
    assert list(open_plate(folder).planes["field"]) == [str(n) for n in range(1, 12)]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        (r"(?s)<State>Ok</State>.*", "", "cannot parse the metadata file"),
        (r"\?>", f"?>{BOMB}", "cannot parse the metadata file"),
        (r"<User>", '<User xmlns:a="x">&b;', "cannot parse the metadata file"),
        (r"<Row>2</Row>\s*<Col>3</Col>\s*<FieldID>", "<Row>40</Row><Col>3</Col><FieldID>", "off the plate"),
        (r"<Row>2</Row>\s*<Col>3</Col>\s*<FieldID>", "<Row>0</Row><Col>3</Col><FieldID>", "off the plate"),
        ("<FieldID>2<", "<FieldID>1<", "two planes claim the same place"),
        ("<FieldID>2<", "<FieldID>two<", "cannot parse"),
        ("<URL>r02c03f01p01-ch1", "<URL>../r02c03f01p01-ch1", "leads out of the plate's folder"),
        ("<URL>r02c03f01p01-ch1", r"<URL>..\\..\\r02c03f01p01-ch1", "leads out of the plate's folder"),
        ("<URL>r02c03f01p01-ch1", "<URL>/etc/r02c03f01p01-ch1", "leads out of the plate's folder"),
        ("<URL>r02c03f01p01-ch1", r"<URL>C:\\r02c03f01p01-ch1", "leads out of the plate's folder"),
        (' Unit="m">', ' Unit="furlong">', "cannot parse"),
        ("<ImageResolutionX[^>]*>[^<]*<", '<ImageResolutionX Unit="m">wide<', "cannot parse"),
    ],
)
def test_a_bad_index_is_one_clear_error(tmp_path: Path, change: str, to: str, message: str) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    edit(folder, change, to)
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(folder)
    assert "p" in error.value.where
    assert error.value.remedy


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    image = next((folder / "Images").glob("*.tiff"))
    (tmp_path / "elsewhere").mkdir()
    image.rename(tmp_path / "elsewhere" / image.name)
    image.symlink_to(tmp_path / "elsewhere" / image.name)
    with pytest.raises(RawDataError, match="leads out"):
        open_plate(folder)
    image.unlink()
    (folder / "Images").rename(tmp_path / "elsewhere" / "Images")
    (folder / "Images").symlink_to(tmp_path / "elsewhere" / "Images")
    with pytest.raises(RawDataError, match="leads out"):
        open_plate(folder)


def test_a_link_to_the_plate_itself_is_fine(tmp_path: Path) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    (tmp_path / "link").symlink_to(folder)
    assert len(open_plate(tmp_path / "link").planes) == 4


def test_empty_missing_and_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="does not exist"):
        open_plate(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RawDataError, match="empty"):
        open_plate(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    with pytest.raises(RawDataError, match="layout of the folder is unknown"):
        open_plate(tmp_path / "other")
    with pytest.raises(RawDataError, match="not a Harmony measurement"):
        open_plate(tmp_path / "other", layout="harmony")
    with pytest.raises(RawDataError, match="'zeiss' is unknown"):
        open_plate(tmp_path / "other", layout="zeiss")


def test_one_bad_file_does_not_decide_the_pixel_type(tmp_path: Path) -> None:
    made = simulate_plate(
        tmp_path, wells=micro_wells(), field_shape=(48, 48), faults=[Fault(kind="32bit", well="B02", channel=0)]
    )
    assert set(open_plate(made.raw).planes["dtype"]) == {"uint16"}


def test_columbus_pages_of_flex_files_and_heights_of_the_stage_alone(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "columbus", wells=("B02",), times=1)
    expected = open_plate(raw).planes
    (tiff,) = (raw / "Images").glob("*.tif")
    tiff.rename(tiff.with_suffix(".flex"))
    index = raw / "Images" / "ImageIndex.ColumbusIDX.xml"
    text = index.read_text().replace("-1.tif<", "-1.flex<")
    index.write_text(re.sub(r"(?s)<PositionZ.*?</PositionZ>", "", text))
    plate = open_plate(raw)
    assert set(plate.planes["z_um"].dropna()) == {134611.905}
    same = ["well", "field", "channel", "z", "page", "y_um", "x_um", "state"]
    assert plate.planes[same].equals(expected[same])
    assert plate.planes["page"].max() == 6  # two fields of four planes, without the one that is no image
    pixels = next(p.pixels for p in layouts_plate.planes(("B02",), times=1) if p.record.field and p.record.z == 2)
    np.testing.assert_array_equal(plate.read("B02", "2", "DNA", z=2), pixels)
