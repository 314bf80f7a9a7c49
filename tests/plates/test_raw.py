"""Whose fault it is that a plane can't be read: the file's, or the machine's."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from layouts_plate import write
from raw_share import NOT_CONNECTED, Share
from test_layouts import PATTERN
from vendors import LAYOUTS

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.errors import RawDataError, is_users
from plateflow.plates import PlaneError, index_plate, open_plate
from plateflow.plates.check import check_plate
from plateflow.plates.raw import RawFolder
from plateflow.plates.reader import plate_folder
from plateflow.simulate.plate import micro_wells, simulate_plate

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
OWN = [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOENT]
MACHINE = [number for number in NOT_CONNECTED if number not in OWN]


def row(name: str, **values: Any) -> dict[str, Any]:
    of = {"plate": "p", "well": "B02", "channel": "DNA", "t": 0, "z": 0, "page": 0}
    return {**of, "path": name, "height": 64, "width": 48, "dtype": "uint16", **values}


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Share:
    folder = tmp_path / "raw"
    (folder / "Images").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "c.tif"):
        tifffile.imwrite(folder / "Images" / name, PIXELS)
    return Share(monkeypatch, folder)


@pytest.mark.parametrize("number", MACHINE)
def test_what_the_system_says_of_a_file_may_be_no_fault_of_it(share: Share, number: int) -> None:
    share.refuse("a.tif", number)
    with pytest.raises(RawDataError) as error:
        RawFolder(share.folder).read(row("Images/a.tif"))
    assert f"p/B02: {share.folder}/Images/a.tif" in error.value.where
    assert os.strerror(number) in error.value.why
    assert "run `snakemake` again" in error.value.remedy
    with pytest.raises(RawDataError):
        RawFolder(share.folder).stat("Images/a.tif")


@pytest.mark.parametrize("number", OWN)
def test_an_error_of_one_name_is_its_own_where_others_open(share: Share, number: int) -> None:
    share.refuse("a.tif", number)
    folder = RawFolder(share.folder)
    with pytest.raises(PlaneError, match="missing" if number == errno.ENOENT else "unreadable"):
        folder.read(row("Images/a.tif"))
    assert folder.stat("Images/a.tif") is None
    assert folder.read(row("Images/b.tif")).shape == (64, 48)


@pytest.mark.parametrize("number", OWN)
@pytest.mark.parametrize("read_before", [False, True])
def test_it_is_the_machines_where_no_other_opens(share: Share, number: int, read_before: bool) -> None:
    folder = RawFolder(share.folder)
    if read_before:
        folder.read(row("Images/b.tif"))
    share.fails = lambda path: number if path.suffix == ".tif" else 0
    with pytest.raises(RawDataError, match=os.strerror(number)):
        folder.read(row("Images/a.tif"))


@pytest.mark.parametrize("place", ["raw", "Images"])
def test_it_is_the_machines_where_a_folder_cannot_be_listed(share: Share, place: str) -> None:
    (Path(share.folder) / "index.xml").write_text("<>")
    share.fails = lambda path: errno.EACCES if path.name in {place, "a.tif"} else 0
    with pytest.raises(RawDataError, match="Permission denied"):
        RawFolder(share.folder).read(row("Images/a.tif"))


def test_a_file_that_is_the_only_one_is_judged_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"GIF89a" + bytes(100))
    with pytest.raises(PlaneError, match="unreadable"):
        RawFolder(tmp_path).read(row("a.tif"))


@pytest.mark.parametrize("number", OWN)
def test_what_fails_for_a_moment_is_read_once_more(share: Share, number: int) -> None:
    share.refuse("a.tif", number, times=1)
    np.testing.assert_array_equal(RawFolder(share.folder).read(row("Images/a.tif")), PIXELS)
    share.refuse("a.tif", number, times=1)
    assert RawFolder(share.folder).stat("Images/a.tif") is not None


def test_what_decoding_says_while_the_share_drops_is_read_once_more(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a network file system gives zeros, or less than was asked for."""
    decode, calls = tifffile.TiffPage.asarray, []

    def fail_once(page: tifffile.TiffPage) -> np.ndarray:
        calls.append(page)
        if len(calls) == 1:
            raise ValueError("not enough bytes")
        return decode(page)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail_once)
    np.testing.assert_array_equal(RawFolder(share.folder).read(row("Images/a.tif")), PIXELS)
    calls.clear()
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda _: (share.away(errno.ENOTCONN), 1 / 0))
    with pytest.raises(RawDataError, match="not connected"):
        RawFolder(share.folder).read(row("Images/a.tif"))


def test_chunks_that_are_gone_with_their_share_are_not_read_as_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(tmp_path / "raw" / "0", shape=(64, 48), chunks=(64, 48), dtype="uint16")
    array[:] = PIXELS
    folder = RawFolder(tmp_path / "raw")
    np.testing.assert_array_equal(folder.read(row("0")), PIXELS)
    read = zarr.Array.__getitem__

    def dropped(self: Any, place: Any) -> Any:
        (tmp_path / "raw").rename(tmp_path / "away")
        return read(self, place)

    monkeypatch.setattr(zarr.Array, "__getitem__", dropped)
    with pytest.raises(RawDataError, match="No such file"):
        folder.read(row("0"))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_manifest_names_files_by_their_paths_within_the_folder(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write(tmp_path / "first", layout, wells=("B02",), times=1)
    opened = open_plate(raw, pattern=PATTERN if layout == "pattern" else None)
    names = [name for name in opened.planes["path"] if name]
    assert names
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
    monkeypatch.chdir(tmp_path)
    raw.parent.rename(tmp_path / "second")
    (tmp_path / "link").symlink_to(tmp_path / "second")
    for place in (tmp_path / "second" / raw.name, tmp_path / "link" / raw.name, Path("link") / raw.name):
        moved = open_plate(place, pattern=PATTERN if layout == "pattern" else None)
        assert moved.planes.equals(opened.planes)
        assert moved.metadata == opened.metadata
        first = moved.planes[moved.planes["state"] == "ok"].iloc[0]
        assert moved.read("B02", first["field"], first["channel"], z=first["z"]).any()


def test_a_zarr_folder_within_the_plates_folder(tmp_path: Path) -> None:
    """It may even be a link to elsewhere."""
    raw = write(tmp_path / "there", "omezarr", wells=("C05",), times=1)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "linked.zarr").symlink_to(raw)
    opened = open_plate(tmp_path / "raw")
    assert all(name.startswith("linked.zarr/C/05/") for name in opened.planes["path"] if name)
    assert opened.read("C05", "1", "DNA").any()


@pytest.mark.parametrize("number", NOT_CONNECTED)
@pytest.mark.parametrize("layout", ["harmony", "omezarr", "imagexpress"])
def test_no_index_is_made_of_a_plate_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, layout: str
) -> None:
    """A manifest of what is left would differ in sizes or positions, and ingest would replace images."""
    raw = write(tmp_path, layout, wells=("C05",), times=1)
    files = {path for path in raw.rglob("*") if path.is_file()}
    Share(monkeypatch, raw).fails = lambda path: number if path in files else 0
    with pytest.raises(RawDataError):
        index_plate(PlateSpec(plate="p", path=str(raw), layout=layout))


@pytest.mark.parametrize("number", NOT_CONNECTED)
def test_the_preflight_tells_once_that_the_share_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made = simulate_plate(tmp_path, wells=micro_wells(), fields=2, field_shape=(48, 48))
    share = Share(monkeypatch, made.raw)
    share.away(number, after=7)
    spec, config = PlateSpec(plate="p", path=str(made.raw)), Config(segmentation={"nuclei": LabelSet(channels=["DNA"])})
    errors = [problem for problem in check_plate(spec, config) if problem.severity == "error"]
    assert len(errors) == 1
    assert os.strerror(number) in errors[0].what
    assert "run `snakemake` again" in errors[0].remedy


def test_a_folder_that_is_not_there_is_the_users_error_unless_its_share_may_be_away(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    for folder, users in (("share/plate", False), ("share", False), ("gone/plate", False), ("plate", True)):
        with pytest.raises(RawDataError, match=r"does not exist|is empty") as error:
            plate_folder(PlateSpec(plate="p", path=str(tmp_path / folder)))
        assert is_users(error.value) is users, folder
