import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from images_project import Project

from plateflow.config import LabelSet
from plateflow.errors import PlateflowError
from plateflow.images import shards
from plateflow.images.histograms import read_histograms
from plateflow.images.well import WellImage
from plateflow.simulate.plate import Fault, WellPlan
from plateflow.stages.job import Job
from plateflow.stages.tile import work_items

MakeProject = Callable[..., Project]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(project: Project, well: str) -> list[Path]:
    return [path for path in project.paths.image(well).glob("*/c/**/*") if path.is_file()]


def test_level_0_is_raw_pixel_for_pixel(make_project: MakeProject) -> None:
    project = make_project(fields=3, field_shape=(64, 80), overlap_px=10)
    project.run("ingest", "tile")
    for well in ("B02", "B03"):
        assert project.outcome("tile", well).state == "ok"
        layout = WellImage.open(project.paths, well).layout
        assert [(box.y, box.x) for box in layout.fields] == [(0, 0), (0, 70), (54, 0)]
        expected = np.zeros((3, 118, 150), np.uint16)
        for field in (3, 2, 1):  # the first wins
            box = layout.fields[field - 1]
            for channel in range(3):
                expected[(channel, *box.slices)] = tifffile.imread(project.raw_file(well, field, channel + 1))
        written = zarr.open_group(project.paths.image(well), mode="r")
        np.testing.assert_array_equal(written["0"][0, :, 0], expected)
        assert written["2"].shape == (1, 3, 1, 30, 38)
        assert written["2"][0, :, 0].any()


def test_histograms_are_exact(make_project: MakeProject) -> None:
    project = make_project()
    project.run("ingest", "tile")
    found = read_histograms(project.paths, "B02")
    assert sorted(found) == sorted((field, name) for field in "12" for name in ("DNA", "AGP", "Marker"))
    pixels = tifffile.imread(project.raw_file("B02", 2, 2))
    histogram = found["2", "AGP"]
    np.testing.assert_array_equal(histogram.counts, np.bincount(pixels.ravel(), minlength=65536))
    corner = pixels[:8, :10].astype(float)  # 64 x 80 px on a grid of 8 x 8
    squares = [np.sort(corner[y : y + 4, x : x + 4].ravel()) for y in (0, 4) for x in (0, 4)]
    assert histogram.low[0, 0] == pytest.approx(min(square.mean() for square in squares))
    assert histogram.high[0, 0] == pytest.approx(max(square[:-1].mean() for square in squares))
    assert histogram.saturated == 0


def test_equal_work_gives_equal_bytes_and_nothing_is_done_twice(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project()
    project.run("ingest", "tile")
    twin = Project(raw=project.raw, results=tmp_path / "twin")
    twin.run("ingest", "tile")
    for name in ("plate.zarr", "histograms", "manifest", "receipts"):
        assert content(project.paths.root / name) == content(twin.paths.root / name)
    before = project.outcome("tile", "B02")
    project.run("ingest", "tile")
    assert project.outcome("tile", "B02") == before


KINDS = {
    **{"truncated": "truncated", "missing": "missing", "32bit": "wrong_type", "size": "wrong_size", "nan": "nan"},
    **{"zero-byte": "empty_file"},
}


@pytest.mark.parametrize(("kind", "reason"), list(KINDS.items()))
def test_a_bad_plane_leaves_its_field_out(make_project: MakeProject, kind: str, reason: str) -> None:
    project = make_project(faults=[Fault(kind=kind, well="B03", field=0, channel=1)])
    project.options = {"segmentation": {"nuclei": LabelSet(channels=["DNA", "AGP"])}}
    project.run()
    entry = project.outcome("tile", "B03")
    path = project.raw_file("B03", 1, 2)
    assert (entry.state, entry.reason, entry.fields) == ("flagged", "fields", {"1": reason})
    assert path.name in entry.detail
    assert [file for file, _ in entry.watch] == [str(path)]
    assert project.outcome("tile", "B02").state == "ok"
    written = WellImage.open(project.paths, "B03").array("0")[0, :, 0]
    assert not written[:, :, :80].any()
    np.testing.assert_array_equal(written[1, :, 80:], tifffile.imread(project.raw_file("B03", 2, 2)))
    assert {field for field, _ in read_histograms(project.paths, "B03")} == {"2"}
    (canvas,) = project.plate.canvases("B03")
    assert [box.name for box in canvas.fields] == ["2"]


def test_a_constant_plane_is_kept(make_project: MakeProject) -> None:
    project = make_project(faults=[Fault(kind="constant", well="B03", field=0, channel=1)])
    project.run("ingest", "tile")
    assert project.outcome("tile", "B03").state == "ok"
    assert np.flatnonzero(read_histograms(project.paths, "B03")["1", "AGP"].counts).tolist() == [200]


@pytest.mark.parametrize(("kind", "state"), [("truncated", "quarantined"), ("missing", "missing")])
def test_a_well_without_a_sound_field_is_left_out_and_comes_back_once_mended(
    make_project: MakeProject, kind: str, state: str
) -> None:
    faults = [Fault(kind=kind, well="B03", field=field, channel=0) for field in (0, 1)]
    project = make_project(faults=faults)
    bad = [project.raw_file("B03", field, 1) for field in (1, 2)]
    sound = project.raw_file("B02", 1, 1).read_bytes()
    project.run("ingest", "tile")
    entry = project.outcome("tile", "B03")
    assert (entry.state, entry.reason) == (state, kind)
    assert not shards_of(project, "B03")
    assert not project.paths.histogram("B03").exists()
    other = project.outcome("tile", "B02")
    for path in bad:
        path.write_bytes(sound)
    project.run("tile")  # without a new ingest: the job looks at its wells' files
    assert project.outcome("tile", "B03").state == "ok"
    assert project.outcome("tile", "B02") == other
    pixels = WellImage.open(project.paths, "B03").array("0")
    np.testing.assert_array_equal(pixels[0, 0, 0, :, :80], tifffile.imread(bad[0]))
    for path in bad:
        path.write_bytes(b"")
    project.run("tile")
    assert project.outcome("tile", "B03").state == "quarantined"
    assert not shards_of(project, "B03")  # what was there before is gone


def write_stack(folder: Path, *, bad: str = "") -> Project:
    """A patterned plate: one well, 2 fields, channel a with 3 z planes, b with one, 2 time points."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for t in range(2):
        for field in (1, 2):
            for channel, z in (("a", 0), ("a", 1), ("a", 2), ("b", 1)):
                name = f"C04_f{field}_t{t}_z{z}_{channel}.tif"
                tifffile.imwrite(folder / name, rng.integers(10, 250, (40, 48), dtype=np.uint8))
                if name == bad:
                    (folder / name).write_bytes(b"")
    pattern = r"(?P<well>C04)_f(?P<field>\d)_t(?P<t>\d)_z(?P<z>\d)_(?P<channel>.)\.tif"
    return Project(
        raw=folder,
        results=folder.parent / "results",
        options={"segmentation": {"nuclei": LabelSet(channels=["a"])}},
        entry_options={"layout": "pattern", "pattern": pattern},
    )


def test_time_points_and_stacks(tmp_path: Path) -> None:
    project = write_stack(tmp_path / "raw")
    project.run("ingest", "tile")
    image = zarr.open_group(project.paths.image("C04"), mode="r")
    assert image["0"].shape == (2, 2, 3, 40, 48 * 2 + 32)
    for t, c, z, name in ((1, 0, 2, "t1_z2_a"), (0, 1, 1, "t0_z1_b")):
        np.testing.assert_array_equal(image["0"][t, c, z, :, :48], tifffile.imread(project.raw / f"C04_f1_{name}.tif"))
    assert not image["0"][:, 1, 0].any()
    assert image["labels/nuclei/0"].shape == (2, 1, 40, 128)
    assert len(project.plate.canvases("C04")) == 2 * 2
    counts = read_histograms(project.paths, "C04")["1", "a"].counts
    assert counts.shape == (256,)
    assert counts.sum() == 2 * 3 * 40 * 48


def test_a_plane_that_turns_out_bad_late_takes_its_whole_field_out(tmp_path: Path) -> None:
    project = write_stack(tmp_path / "raw", bad="C04_f1_t1_z2_a.tif")
    project.run("ingest", "tile")
    assert project.outcome("tile", "C04").fields == {"1": "empty_file"}
    image = WellImage.open(project.paths, "C04").array("0")
    assert not image[..., :48].any()  # no t and no z of the field is left
    np.testing.assert_array_equal(image[0, 0, 0, :, 80:], tifffile.imread(project.raw / "C04_f2_t0_z0_a.tif"))
    assert {field for field, _ in read_histograms(project.paths, "C04")} == {"2"}


def test_shard_regions_of_a_large_image(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = make_project(fields=4, faults=[Fault(kind="nan", well="B03", field=3, channel=2)])
    project.run("ingest", "tile")
    monkeypatch.setattr(shards, "CHUNK_PX", 8)
    monkeypatch.setattr(shards, "SHARD_BYTES", 70 * 70 * 6)
    twin = Project(raw=project.raw, results=tmp_path / "twin")
    twin.run("ingest", "tile")
    for well in ("B02", "B03"):
        for level in range(3):
            whole, cut = (WellImage.open(p.paths, well).array(str(level)) for p in (project, twin))
            np.testing.assert_array_equal(whole[:], cut[:])
        assert len(list((twin.paths.image(well) / "0" / "c").rglob("0/0/*/*"))) > 3
    assert content(project.paths.root / "histograms") == content(twin.paths.root / "histograms")
    shards.array_files.cache_clear()


def test_a_changed_layout_replaces_the_image_and_tile_does_the_well_again(make_project: MakeProject) -> None:
    project = make_project()
    project.run("ingest", "tile")
    index = project.raw / "Images" / "Index.idx.xml"
    original = index.read_text()
    first = original.index("<PositionX", original.index("r02c03f02p01-ch1"))
    moved = original[:first] + original[first:].replace("<PositionX", '<PositionX Unit="um">60</PositionX><!--', 1)
    moved = moved[: moved.index("<!--")] + moved[moved.index("</PositionX>", moved.index("<!--")) + 12 :]
    other = project.outcome("tile", "B02")
    for text in (moved, original):
        index.write_text(text)
        project.run("ingest", "tile")
        layout = WellImage.open(project.paths, "B03").layout
        box = layout.fields[1]
        np.testing.assert_array_equal(
            WellImage.open(project.paths, "B03").array("0")[(0, 0, 0, *box.slices)],
            tifffile.imread(project.raw_file("B03", 2, 1)),
        )
        assert (box.x == 80) == (text is original)
    assert project.outcome("tile", "B02") == other


def test_a_new_well_adds_only_itself(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(wells=[WellPlan(well=well, role="negative") for well in ("B02", "B03", "B04")])
    hidden = {path: path.read_bytes() for path in project.raw.rglob("r02c04*.tiff")}
    index = project.raw / "Images" / "Index.idx.xml"
    whole = index.read_text()
    head, *images = whole.split("    <Image Version")
    tail = images[-1][images[-1].index("  </Images>") :]
    index.write_text("    <Image Version".join([head, *[i for i in images if "<URL>r02c04" not in i]]) + tail)
    for path in hidden:
        path.unlink()
    project.run("ingest", "tile")
    before = content(project.paths.store)
    old = project.outcome("tile", "B02")
    index.write_text(whole)
    for path, data in hidden.items():
        path.write_bytes(data)
    project.run("ingest", "tile")
    after = content(project.paths.store)
    assert {name for name in before if after[name] != before[name]} == {"zarr.json"}
    assert all(name.startswith("B/04/") for name in set(after) - set(before))
    assert project.outcome("tile", "B02") == old
    assert project.outcome("tile", "B04").state == "ok"


def test_ingest_refuses_a_channel_that_the_plate_lacks(make_project: MakeProject) -> None:
    project = make_project(options={"segmentation": {"nuclei": LabelSet(channels=["DAPI"])}})
    with pytest.raises(PlateflowError, match="no channel 'DAPI'"):
        project.run("ingest")
    assert not project.paths.store.exists()
    assert not project.paths.planes.exists()


def test_wells_whose_positions_cannot_be_right_are_reported(make_project: MakeProject) -> None:
    project = make_project()
    index = project.raw / "Images" / "Index.idx.xml"
    index.write_text(index.read_text().replace('<PositionX Unit="m">', '<PositionX Unit="nm">'))
    project.run("ingest")
    info = json.loads(project.paths.metadata.read_text())
    assert info["untrusted_positions"] == ["B02", "B03"]
    assert info["disagreements"][-1].startswith(
        "2 wells are laid out in a grid, as by their positions fields would lie"
    )
    assert info["disagreements"][-1].endswith(": B02, B03")


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond a size, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_disk_that_fills_fails_the_job_and_nothing_half_written_counts(
    make_project: MakeProject, small_files: Callable[[int], None]
) -> None:
    project = make_project(field_shape=(128, 128))
    project.run("ingest")
    small_files(20_000)
    with pytest.raises(OSError):
        project.run("tile")
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    assert project.plate.outcomes("tile") == {}
    assert not project.paths.receipts("tile", "0")
    assert not list(project.paths.image("B02").rglob("c/0/0/0/0/0"))
    project.run("tile")
    assert project.outcome("tile", "B02").state == "ok"
    assert not list(project.paths.store.rglob("*.partial"))


def test_a_small_full_disk(make_project: MakeProject, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        project = make_project(field_shape=(256, 256))
        project.results = disk
        project.run("ingest")
        with pytest.raises(PlateflowError, match="No space left"):
            project.run("tile")
        assert not project.paths.receipts("tile", "0")
        assert not project.plate.outcomes("tile")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_unit_depends_on_named_things(make_project: MakeProject) -> None:
    project = make_project()
    project.run("ingest")
    (first, _) = work_items(Job.of(project.plate, "tile", "0"))
    assert set(first.depends) == {"manifest", "raw files", "image", "parameters", "histograms"}
    os.utime(project.raw_file("B02", 1, 1))
    (again, _) = work_items(Job.of(project.plate, "tile", "0"))
    assert {key for key in first.depends if first.depends[key] != again.depends[key]} == {"raw files"}


def test_a_real_plate(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "plates" / "phenix_harmony5_BR00121482"
    project = Project(raw=folder, results=tmp_path)
    project.options = {"segmentation": {"nuclei": LabelSet(channels=["HOECHST 33342"])}}
    project.run()
    image = zarr.open_group(project.paths.image("A01"), mode="r")
    assert image["0"].shape == (1, 6, 1, 1080, 1080)
    for n in range(6):
        raw = tifffile.imread(folder / "Images" / f"r01c01f01p01-ch{n + 1}sk1fk1fl1.tiff")
        np.testing.assert_array_equal(image["0"][0, n, 0], raw)
    window = json.loads(project.paths.window.read_text())
    assert set(window["channels"]) == {
        *("Alexa 647", "Alexa 568", "488 long", "Alexa 488", "HOECHST 33342", "Brightfield")
    }
