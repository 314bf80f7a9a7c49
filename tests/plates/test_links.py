"""Links in a plate's folder: named where they lead out of it, or followed into the one folder that the user allows."""

import shutil
from pathlib import Path

import pytest
from command_line import plateflow
from layouts_plate import write
from test_layouts import PATTERN

from plateflow.config import PlateSpec, load_plates
from plateflow.errors import RawDataError
from plateflow.plates import index_plate, open_plate, recognise
from plateflow.plates.files import list_files
from plateflow.plates.raw import RawFolder

LAYOUTS = ["harmony", "imagexpress", "yokogawa", "load_data", "pattern", "omezarr"]


def spec_of(raw: Path, layout: str, **columns: str) -> PlateSpec:
    return PlateSpec(
        plate="p", path=str(raw), layout=layout, pattern=PATTERN if layout == "pattern" else None, **columns
    )


def linked(raw: Path, to: Path) -> Path:
    """A copy of a plate in which each file is a link to where it was."""
    for file in [path for path in raw.rglob("*") if path.is_file()]:
        link = to / file.relative_to(raw)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return to


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_links_is_named_as_such_or_followed(tmp_path: Path, layout: str) -> None:
    raw = write(tmp_path / "store", layout, wells=("C05",), times=1)
    links = linked(raw, tmp_path / "links" / raw.name)
    with pytest.raises(RawDataError, match="a link leads out of the plate's folder") as error:
        index_plate(spec_of(links, layout))
    assert f"--follow-links '{tmp_path}/store" in error.value.remedy
    with pytest.raises(RawDataError, match="a link leads out of the plate's folder"):
        index_plate(spec_of(links, layout, follow_links=str(tmp_path / "links")))
    followed = index_plate(spec_of(links, layout, follow_links=str(tmp_path / "store")))
    assert followed.planes.equals(index_plate(spec_of(raw, layout)).planes)
    assert "ok" in set(followed.planes["state"])


@pytest.mark.parametrize("layout", ["harmony", "imagexpress", "pattern"])
def test_links_to_folders(tmp_path: Path, layout: str) -> None:
    raw = write(tmp_path / "store", layout, wells=("C05",), times=1)
    (tmp_path / "raw").mkdir()
    for path in raw.iterdir():
        (tmp_path / "raw" / path.name).symlink_to(path)
    (tmp_path / "raw" / "sub").mkdir()  # through another link, and to the folder above itself
    (raw / "up").symlink_to(raw.parent)
    with pytest.raises(RawDataError, match="a link leads out"):
        index_plate(spec_of(tmp_path / "raw", layout))
    followed = index_plate(spec_of(tmp_path / "raw", layout, follow_links=str(tmp_path / "store")))
    assert followed.planes.equals(index_plate(spec_of(raw, layout)).planes)


def test_nothing_outside_of_the_folder_that_links_may_lead_into_is_listed(tmp_path: Path) -> None:
    """However a link gets there: by a chain of links, by `..`, within the allowed one, or to one that begins alike."""
    for name in ("raw", "store/there", "store2", "secret"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("store/there/a.tif", "store2/b.tif", "secret/c.tif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "raw/there").symlink_to(tmp_path / "store/there")
    (tmp_path / "store/there/nested").symlink_to(tmp_path / "secret")
    (tmp_path / "raw/up").symlink_to("../store/../secret")
    (tmp_path / "raw/alike").symlink_to(tmp_path / "store2")
    (tmp_path / "store/chain").symlink_to(tmp_path / "secret/c.tif")
    (tmp_path / "raw/chained.tif").symlink_to(tmp_path / "store/chain")
    listing = list_files(tmp_path / "raw", str(tmp_path / "store"))
    assert list(listing.files) == ["there/a.tif"]
    assert set(listing.outside) == {"there/nested", "up", "alike", "chained.tif"}
    assert listing.outside["there/nested"] == str(tmp_path / "secret")


@pytest.mark.parametrize("path", ["/etc/passwd.tif", "../other/a.tif", "b/../../a.tif"])
def test_names_that_lead_out_are_refused_though_links_are_followed(tmp_path: Path, path: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/files.csv").write_text(f"path,well\n{path},B02\n")
    spec = PlateSpec(plate="p", path=str(tmp_path / "raw"), layout="pattern", pattern="files.csv")
    with pytest.raises(RawDataError, match="leads out of the plate's folder"):
        index_plate(spec.model_copy(update={"follow_links": str(tmp_path)}))


def test_circles_of_links_end(tmp_path: Path) -> None:
    for name in ("raw", "store/a", "store/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "store/a/x.tif").write_bytes(b"")
    (tmp_path / "store/a/to_b").symlink_to(tmp_path / "store/b")
    (tmp_path / "store/b/to_a").symlink_to(tmp_path / "store/a")
    (tmp_path / "raw/a").symlink_to(tmp_path / "store/a")
    (tmp_path / "raw/self").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/itself.tif").symlink_to("itself.tif")
    listing = list_files(tmp_path / "raw", str(tmp_path))
    assert list(listing.files) == ["a/x.tif"]
    assert listing.broken == {"itself.tif"}


def test_links_that_lead_nowhere_are_named_and_their_planes_missing(tmp_path: Path) -> None:
    raw = write(tmp_path / "store", "pattern", wells=("C05",), times=1)
    links = linked(raw, tmp_path / "links")
    (raw / "C05_s2_w1.tif").unlink()
    index = index_plate(spec_of(links, "pattern", follow_links=str(raw)))
    assert index.planes.loc[index.planes["state"] == "missing", "field"].unique().tolist() == ["2"]
    assert "1 link leads nowhere: C05_s2_w1.tif" in index.metadata["disagreements"]


def test_a_share_that_links_lead_to_and_that_is_away_is_no_fault_of_the_files(tmp_path: Path) -> None:
    """Of links to files and to their folder; the index is here, and opens."""
    raw = write(tmp_path / "store", "harmony", wells=("C05",), times=1)
    (tmp_path / "files/Images").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    for image in (raw / "Images").glob("*.tiff"):
        (tmp_path / "files/Images" / image.name).symlink_to(image)
    shutil.copy(raw / "Images/Index.idx.xml", tmp_path / "files/Images")
    shutil.copy(raw / "Images/Index.idx.xml", tmp_path / "folder")
    (tmp_path / "folder/Images").symlink_to(raw / "Images")
    name = f"Images/{image.name}"
    raw.rename(tmp_path / "away")
    for place in ("files", "folder"):
        with pytest.raises(RawDataError, match="the share, the disk or this machine fails"):
            RawFolder(tmp_path / place).stat(name)


def test_init_writes_into_which_folder_links_may_lead(tmp_path: Path) -> None:
    raw = write(tmp_path / "store", "harmony", wells=("C05",), times=1)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "Images").symlink_to(raw / "Images")
    assert "a link leads out of the plate's folder" in plateflow("init", tmp_path / "links", cwd=tmp_path, status=1)
    plateflow("init", tmp_path / "links", "--follow-links", tmp_path / "store", cwd=tmp_path)
    spec = load_plates(tmp_path / "config" / "plates.tsv")["links"]
    assert (spec.layout, spec.follow_links) == ("harmony", str(tmp_path / "store"))
    assert len(open_plate(spec).planes) == len(open_plate(raw).planes)


def test_a_folder_that_links_may_lead_into_and_that_is_not_there(tmp_path: Path) -> None:
    raw = write(tmp_path / "store", "harmony", wells=("C05",), times=1)
    with pytest.raises(RawDataError, match="the folder that links may lead into does not exist") as error:
        index_plate(spec_of(raw, "harmony", follow_links=str(tmp_path / "nowhere")))
    assert "fix follow_links in the plate sheet" in error.value.remedy


def test_a_link_beside_images_of_an_unknown_layout(tmp_path: Path) -> None:
    raw = write(tmp_path / "store", "pattern", wells=("C05",), times=1)
    (raw / "latest").symlink_to(tmp_path)
    with pytest.raises(RawDataError, match="the layout of the folder is unknown"):
        recognise(raw)


def test_init_again_keeps_what_the_sheet_says(tmp_path: Path) -> None:
    """Also the layout, which isn't recognised anew, and where paths in the sheet count from the project."""
    raw, sheet = write(tmp_path / "store", "omezarr", wells=("C05",), times=1), tmp_path / "config" / "plates.tsv"
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "p.zarr").symlink_to(raw)
    plateflow("init", "raw", "--plate", "q", "--layout", "omezarr_in_place", "--follow-links", "store", cwd=tmp_path)
    sheet.write_text(sheet.read_text().replace(f"{tmp_path}/", ""))
    assert "q: omezarr_in_place, 384 wells" in plateflow("init", "raw", "--format", "384", cwd=tmp_path)
    (spec,) = load_plates(sheet).values()
    assert (spec.plate, spec.layout, spec.format) == ("q", "omezarr_in_place", 384)
    assert spec.follow_links == str(tmp_path / "store")
