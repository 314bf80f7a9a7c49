"""Raw files while tile reads them: a share that drops, files that were moved, copied again, or changed."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from images_project import Project
from raw_share import NOT_CONNECTED, Share

from plateflow.errors import RawDataError
from plateflow.images.canvas import canvases
from plateflow.images.well import WellImage
from plateflow.plates.check import changed_files
from plateflow.plates.raw import RawFolder
from plateflow.simulate.plate import Fault, WellPlan
from plateflow.stages.job import Job, changes
from plateflow.stages.stale import to_do
from plateflow.stages.tile import work_items
from plateflow.state.journal import Entry
from plateflow.state.requests import request, request_digest

MakeProject = Callable[..., Project]
WELLS = [WellPlan(well=well, role="negative") for well in ("B02", "B03", "B04")]
PLANES = 2 * 3
"""Of a well: fields x channels."""


def results(project: Project) -> dict[str, bytes]:
    root = project.paths.root
    files = [file for name in ("plate.zarr", "histograms", "manifest") for file in (root / name).rglob("*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


def outcomes(project: Project) -> dict[str, Entry]:
    return {key[0]: entry for key, entry in project.plate.outcomes("tile").items()}


def stale(project: Project) -> dict[str, list[str]]:
    """Why tile would do a well, from names and times alone."""
    items, entries = work_items(Job.of(project.plate, "tile", "0")), outcomes(project)
    found = {item.well: changes(Job.of(project.plate, "tile", "0"), item, entries[item.well]) for item in items}
    return {well: why for well, why in found.items() if why}


def copied_again(project: Project) -> None:
    """Let all raw files bear another time, as those of a copy do."""
    for number, file in enumerate(sorted(project.raw.rglob("*.tiff"))):
        os.utime(file, ns=(10**18 + number, 10**18 + number))


@pytest.mark.parametrize("number", NOT_CONNECTED)
@pytest.mark.parametrize("again", [False, True])
def test_a_share_that_drops_fails_the_job_and_takes_no_well_with_it(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, again: bool
) -> None:
    project = make_project(wells=WELLS)
    project.run("ingest", "tile")
    whole = results(project)
    if again:
        request(project.paths, kind="retry", stage="tile")
    else:
        project = Project(raw=project.raw, results=tmp_path / "first")
        project.run("ingest")
    share = Share(monkeypatch, project.raw)
    share.away(number, after=PLANES + 2)
    with pytest.raises(RawDataError) as error:
        project.run("tile")
    assert "p/B03: " in error.value.where
    assert os.strerror(number) in error.value.why
    assert {entry.state for entry in outcomes(project).values()} == {"ok"}
    assert set(outcomes(project)) == ({"B02", "B03", "B04"} if again else {"B02"})
    if again:
        assert results(project).keys() == whole.keys()
    share.back()
    project.run("tile")
    assert results(project) == whole
    assert {entry.state for entry in outcomes(project).values()} == {"ok"}
    assert outcomes(project)["B02"].sequence == 1 + again


@pytest.mark.parametrize("number", NOT_CONNECTED)
def test_one_stat_that_fails_for_a_moment_deletes_nothing_and_makes_nothing_stale(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    project = make_project()
    project.run("ingest", "tile")
    before, whole = outcomes(project), results(project)
    share = Share(monkeypatch, project.raw)
    for run in (lambda: project.run("tile"), lambda: to_do(project.plate, files=True)):
        share.refuse(project.raw_file("B03", 1, 1).name, number, times=1)
        try:
            run()
        except RawDataError as error:
            assert os.strerror(number) in error.why
        assert outcomes(project) == before
        assert results(project) == whole
    share.back()
    assert not stale(project)


def test_one_plane_that_may_not_be_read_leaves_its_field_out(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.run("ingest")
    share = Share(monkeypatch, project.raw)
    share.refuse(project.raw_file("B03", 1, 1).name, errno.EACCES)
    project.run("tile")
    entry = outcomes(project)["B03"]
    assert entry.fields == {"1": "unreadable"}
    assert entry.watch == [[str(project.raw_file("B03", 1, 1)), None]]
    assert not stale(project)
    share.back()
    assert stale(project) == {"B03": ["raw files"]}
    assert request_digest(project.paths, "tile", "0", 1), "a plain run sees it"
    project.run("tile")
    assert outcomes(project)["B03"].state == "ok"


def test_what_is_mended_while_the_job_reads_is_seen_by_a_plain_run(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.run("ingest")
    path = project.raw_file("B03", 1, 1)
    sound, read = path.read_bytes(), RawFolder.read
    path.write_bytes(sound[:4000])

    def mend_afterwards(self: RawFolder, row: dict) -> np.ndarray:
        try:
            return read(self, row)
        finally:
            if row["path"].endswith(path.name):
                path.write_bytes(sound)

    monkeypatch.setattr(RawFolder, "read", mend_afterwards)
    project.run("tile")
    assert outcomes(project)["B03"].fields == {"1": "truncated"}
    assert request_digest(project.paths, "tile", "0", 1)
    project.run("tile")
    assert outcomes(project)["B03"].state == "ok"


@pytest.mark.parametrize("faults", [(), (Fault(kind="truncated", well="B03", field=0, channel=1),)])
@pytest.mark.parametrize("how", ["moved", "linked", "copied", "copied elsewhere"])
def test_moved_or_copied_raw_data_redo_nothing(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, faults: tuple[Fault, ...]
) -> None:
    project = make_project(faults=faults)
    project.run()
    before, whole = outcomes(project), results(project)
    written = {file: file.stat().st_mtime_ns for file in project.paths.store.rglob("*")}
    if how == "moved":
        project.raw = project.raw.rename(tmp_path / "elsewhere")
    elif how == "linked":
        (tmp_path / "link").symlink_to(project.raw.parent)
        project.raw = tmp_path / "link" / project.raw.name
    else:
        if how == "copied elsewhere":
            project.raw = shutil.copytree(project.raw, tmp_path / "elsewhere")
        copied_again(project)
    if changed_files(project.plate.spec, project.paths):
        request(project.paths, kind="changed", stage="ingest")  # as `plateflow check` does
    share = Share(monkeypatch, project.raw)
    project.run()
    assert {well: entry.fingerprint for well, entry in outcomes(project).items()} == {
        well: entry.fingerprint for well, entry in before.items()
    }, "nothing that comes later is stale"
    assert results(project).items() - whole.items() <= {("manifest/planes.parquet", project.paths.planes.read_bytes())}
    if not faults:  # what could not be read can't be compared: its well is done again, and is as it was
        assert {well: entry.sequence for well, entry in outcomes(project).items()} == {"B02": 1, "B03": 1}
        assert {file: file.stat().st_mtime_ns for file in written} == written
    share.seen = 0
    project.run("ingest", "tile")
    assert share.seen <= 5 * 3, "only headers, five of each channel, each once: the new times are known"
    assert not stale(project)
    assert changed_files(project.plate.spec, project.paths) == []


def test_the_pixels_tell_whether_a_file_of_another_time_is_the_same(make_project: MakeProject) -> None:
    project = make_project(wells=WELLS)
    brighter, larger = project.raw_file("B03", 1, 1), project.raw_file("B04", 1, 1)
    pixels = tifffile.imread(brighter)
    tifffile.imwrite(brighter, pixels)
    size = brighter.stat().st_size
    project.run()
    before = outcomes(project)
    copied_again(project)
    pixels[5, 5] += 1
    tifffile.imwrite(brighter, pixels)
    larger.write_bytes(larger.read_bytes() + b"\0")
    assert brighter.stat().st_size == size
    assert set(stale(project)) == {"B02", "B03", "B04"}
    project.run("tile")
    after = outcomes(project)
    assert {well: entry.sequence for well, entry in after.items()} == {"B02": 1, "B03": 2, "B04": 2}
    assert {well for well in after if after[well].fingerprint != before[well].fingerprint} == {"B03"}
    np.testing.assert_array_equal(WellImage.open(project.paths, "B03").array("0")[0, 0, 0, :, :80], pixels)
    assert not stale(project)


def test_a_share_that_drops_while_copies_are_compared(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.run("ingest", "tile")
    before, whole = outcomes(project), results(project)
    copied_again(project)
    share = Share(monkeypatch, project.raw)
    share.away(errno.ENOTCONN, after=PLANES + 2)
    with pytest.raises(RawDataError, match="not connected"):
        project.run("tile")
    assert outcomes(project) == before
    share.back()
    project.run("tile")
    assert {entry.sequence for entry in outcomes(project).values()} == {1}
    assert results(project) == whole


def test_stacks_and_pages_have_one_checksum_a_file(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    for field in (1, 2):
        pages = rng.integers(10, 250, (3, 40, 48), dtype=np.uint8)
        tifffile.imwrite(raw / f"s{field}.tif", pages, photometric="minisblack")
    lines = [f"C04,{field},{z},DNA,s{field}.tif,{z}" for field in (1, 2) for z in range(3)]
    (tmp_path / "files.csv").write_text("\n".join(["well,field,z,channel,path,page", *lines]))
    entry = {"layout": "pattern", "pattern": str(tmp_path / "files.csv")}
    project = Project(raw=raw, results=tmp_path / "results", entry_options=entry)
    project.run("ingest", "tile")
    before = outcomes(project)["C04"]
    assert set(before.raw) == {"s1.tif", "s2.tif"}
    for file in raw.iterdir():
        os.utime(file, ns=(10**18, 10**18))
    project.run("tile")
    assert outcomes(project)["C04"].sequence == 1
    assert [known[1] for known in outcomes(project)["C04"].raw.values()] == [10**18] * 2
    pages[2, 0, 0] += 1
    tifffile.imwrite(raw / "s2.tif", pages, photometric="minisblack")
    project.run("tile")
    after = outcomes(project)["C04"]
    assert after.sequence == 2
    assert {name for name in after.raw if after.raw[name][2] != before.raw[name][2]} == {"s2.tif"}


@pytest.fixture
def in_place(make_project: MakeProject, tmp_path: Path) -> Project:
    """A plate that is read in place: the store of another."""
    source = make_project()
    source.run("ingest", "tile")
    raw = Path(shutil.copytree(source.paths.store, tmp_path / "plate.zarr"))
    project = Project(raw=raw, results=tmp_path / "in place", entry_options={"layout": "omezarr_in_place"})
    project.run()
    return project


def planes(project: Project) -> np.ndarray:
    image = WellImage.open(project.paths, "B03")
    return image.read(canvases(image.layout, (), "max")[0], ["DNA", "AGP"], "max")


def test_a_plate_read_in_place_may_move(in_place: Project, tmp_path: Path) -> None:
    pixels, before = planes(in_place), outcomes(in_place)
    in_place.raw = in_place.raw.rename(tmp_path / "elsewhere.zarr")
    np.testing.assert_array_equal(planes(in_place), pixels)
    in_place.run()
    assert outcomes(in_place) == before


@pytest.mark.parametrize("number", NOT_CONNECTED)
def test_what_is_read_in_place_fails_with_its_file_and_remedy(
    in_place: Project, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Share(monkeypatch, in_place.raw).away(number)
    with pytest.raises(RawDataError) as error:
        planes(in_place)
    assert f"p/B03: {in_place.raw}/B/03/0/0" in error.value.where
    assert os.strerror(number) in error.value.why
    assert error.value.remedy


@pytest.mark.parametrize("number", NOT_CONNECTED)
def test_status_of_a_plate_whose_share_is_away_names_it(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    project = make_project()
    project.run("ingest", "tile")
    Share(monkeypatch, project.raw).away(number)
    found = to_do(project.plate, files=True)
    assert found.fault
    assert str(project.raw) in found.note


def test_the_manifest_holds_no_place(make_project: MakeProject) -> None:
    project = make_project()
    project.run("ingest")
    names = pq.read_table(project.paths.planes)["path"].to_pylist()
    assert all(name.startswith("Images/r02c0") for name in names)
    assert str(project.raw).encode() not in project.paths.metadata.read_bytes()


def test_another_plate_at_the_path_of_the_sheet_is_noticed(make_project: MakeProject, tmp_path: Path) -> None:
    """The path is asked about, though it is part of no fingerprint."""
    project = make_project()
    project.run("ingest", "tile")
    before = project.plate.parameters("ingest")
    copy = shutil.copytree(project.raw, tmp_path / "other")
    for file in copy.rglob("r02c02*ch1*.tiff"):
        tifffile.imwrite(file, tifffile.imread(file) + 1)
    project.raw = Path(copy)
    assert project.plate.parameters("ingest") != before
    project.run("ingest", "tile")
    assert {well: entry.sequence for well, entry in outcomes(project).items()} == {"B02": 2, "B03": 1}
