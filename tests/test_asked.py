"""What names a receipt, on plates of which only the small files are there that parsing looks at."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from plateflow.asked import VARIABLE, Asked, PlateAsked, age, upstream, withdraw, write_receipt
from plateflow.chain import STAGES, stage_of, stages_of
from plateflow.config import Config, LabelSet, Parts, PlateSpec
from plateflow.errors import PlateflowError
from plateflow.files import append_line, stat_of, write_json
from plateflow.project import Plate, Project
from plateflow.state.requests import record_set_aside, request, request_digest

SLICED = Config(parts=Parts(cpu=4, gpu=2), follow_slices=2)
JOBS = [(name, job) for name, stage in STAGES.items() for job in stage.jobs(SLICED)]


@pytest.fixture
def plate(tmp_path: Path) -> Plate:
    config = SLICED.model_copy(update={"results": str(tmp_path / "results")})
    return Plate(config=config, spec=PlateSpec(plate="p", path="/raw"))


def digests(plate: Plate) -> dict[tuple[str, str], str]:
    asked = PlateAsked(plate)
    return {key: asked.digest(*key) for key in JOBS}


def renamed(plate: Plate, before: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    return {key for key, name in digests(plate).items() if before[key] != name}


def freeze(plate: Plate) -> None:
    settings = plate.parameters("normalise")
    window = {"settings": settings, "freeze": settings["freeze"], "request": 0, "light": {}}
    write_json(plate.paths.window, window)


def do(plate: Plate, *keys: tuple[str, str]) -> None:
    for key in keys:
        write_receipt(plate.paths, *key, PlateAsked(plate).digest(*key), {})


def done(plate: Plate) -> set[tuple[str, str]]:
    asked = PlateAsked(plate)
    return {key for key in JOBS if Path(asked.receipt(*key)).exists()}


def test_what_is_asked_of_ingest_is_what_earlier_releases_asked(plate):
    """Else nothing of an ordinary plate could be accepted."""
    keys = ("path", "layout", "pattern", "pixel_size_um", "z_step_um")
    raw = dict.fromkeys(keys) | {"path": "/raw", "layout": plate.spec.layout}
    ordinary = {"raw": raw, "label_sets": ["nuclei"], "levels": plate.config.levels, "z_kept": False}
    assert plate.parameters("ingest") == ordinary
    plate = replace(plate, config=plate.config.model_copy(update={"z": "plane 2"}))
    assert plate.parameters("ingest") == ordinary | {"plane": "plane 2"}


def test_a_parameter_renames_its_stage_and_what_builds_on_it(plate):
    before = digests(plate)
    label_set = LabelSet(channels=["DNA"], min_size_px=99)
    changed = replace(plate, config=plate.config.model_copy(update={"segmentation": {"nuclei": label_set}}))
    assert {stage for stage, _ in renamed(changed, before)} == {"stitch", "features", "aggregate", "report"}
    assert renamed(plate, before) == set()


def test_which_fields_count_as_saturated_is_asked_of_the_window(plate):
    before = digests(plate)
    quality = plate.config.quality.model_copy(update={"saturated_fraction": 0.5})
    changed = replace(plate, config=plate.config.model_copy(update={"quality": quality}))
    assert renamed(changed, before) == {key for key in JOBS if key[0] not in ("ingest", "tile")}
    freeze(plate)
    assert plate.has_frozen_window() and not changed.has_frozen_window()


def test_neither_the_way_to_the_results_nor_where_work_is_done_is_in_a_name(plate, tmp_path, monkeypatch):
    before = digests(plate)
    monkeypatch.chdir(tmp_path)
    for change in ({"results": "results"}, {"device": "cpu"}, {"batch_size": 1}, {"scratch": "/tmp"}):
        assert renamed(replace(plate, config=plate.config.model_copy(update=change)), before) == set()


def test_a_request_and_a_lost_file_rename_the_jobs_of_their_well_alone(plate):
    before = digests(plate)
    request(plate.paths, kind="retry", stage="stitch", well="A02", n_columns=12)
    followers = {("stitch", "1"), ("features", "1"), ("aggregate", "plate"), ("report", "plate")}
    assert renamed(plate, before) == followers
    before = digests(plate)
    loss = {"stage": "follow", "key": ["A03", "nuclei", 0], "sequence": 1, "n_columns": 12}
    append_line(plate.paths.watch("features", "2"), {"path": "scratch:ends/nuclei/A03/0-0.ends", "lost": loss})
    assert renamed(plate, before) == {
        ("follow", "2-0"), ("follow", "2-1"), ("stitch", "2"), ("features", "2"),
        ("aggregate", "plate"), ("report", "plate"),
    }  # fmt: skip
    before = digests(plate)
    append_line(plate.paths.watch("features", "2"), {"path": "scratch:...", "lost": {**loss, "sequence": 2}})
    assert ("follow", "2-0") in renamed(plate, before), "lost a second time"
    before = digests(plate)
    loss = {"stage": "aggregate", "key": ["", "", -1], "sequence": 1, "n_columns": 12}
    append_line(plate.paths.watch("report", "plate"), {"path": "wells.parquet", "lost": loss})
    assert renamed(plate, before) == {("aggregate", "plate"), ("report", "plate")}


def test_a_raw_file_that_was_fixed_renames_the_job_that_set_it_aside_and_ingest(plate, tmp_path):
    """The manifest knows it by size and time."""
    raw = tmp_path / "a.tif"
    raw.write_bytes(b"cut")
    record_set_aside(plate.paths, "aggregate", "plate", [(str(raw), stat_of(raw))])
    before = digests(plate)
    raw.write_bytes(b"whole again")
    assert ("ingest", "plate") in renamed(plate, before)
    concerned = {key for key in JOBS if request_digest(plate.paths, *key, STAGES[key[0]].parts(plate.config))}
    assert concerned == {("ingest", "plate"), ("aggregate", "plate")}


def test_a_frozen_window_keeps_its_name_and_waits_for_no_tile(plate):
    key = "normalise", "plate"
    assert PlateAsked(plate).waits_for(*key) == [("tile", str(part)) for part in range(4)]
    before = digests(plate)
    do(plate, key)
    freeze(plate)
    assert PlateAsked(plate).waits_for(*key) == [("ingest", "plate")]
    assert renamed(plate, before) == set()
    request(plate.paths, kind="retry", stage="tile", well="A01", n_columns=12)
    assert ("tile", "0") in renamed(plate, before)
    assert ("infer", "0") in renamed(plate, before)
    assert not {key, ("tile", "1"), ("infer", "1")} & renamed(plate, before)
    (receipt,) = plate.paths.receipts(*key)
    receipt.unlink()
    assert PlateAsked(plate).digest(*key).endswith("-frozen")
    do(plate, key)
    assert PlateAsked(plate).digest(*key).endswith("-frozen"), "and it keeps that name"
    assert PlateAsked(plate).waits_for(*key) == [("ingest", "plate")]


def test_a_window_that_could_not_be_frozen_is_named_by_its_tiles(plate):
    """As of a plate without a sound well: a run with nothing new says so, and a tile that changes brings it up."""
    key = "normalise", "plate"
    do(plate, key)
    write_json(plate.paths.window, {"settings": plate.parameters("normalise"), "freeze": 0})
    assert key in done(plate)
    request(plate.paths, kind="retry", stage="tile", well="A01", n_columns=12)
    assert key not in done(plate)


def test_a_job_that_changes_results_takes_the_receipts_of_all_that_builds_on_them(plate):
    freeze(plate)
    do(plate, *JOBS)
    screen = Project.of(plate.config, {}).screen
    write_receipt(screen, "report", "screen", "ab12", {})
    assert done(plate) == {*JOBS}
    withdraw(plate, "tile", "1")
    affected = {
        ("tile", "1"), ("infer", "1"), ("stitch", "1"), ("stitch", "3"),
        *(("follow", f"{part}-{index}") for part in (1, 3) for index in (0, 1)),
        ("features", "1"), ("features", "3"), ("aggregate", "plate"), ("report", "plate"),
    }  # fmt: skip
    assert {*JOBS} - done(plate) == affected
    assert not screen.receipts("report", "screen")
    asked = PlateAsked(plate)
    assert not asked.stands("features", "3")
    assert asked.stands("features", "2")
    plate.paths.window.unlink()
    withdraw(plate, "tile", "0")
    assert ("normalise", "plate") not in done(plate), "not yet frozen, it builds on its tiles"


def test_old_names_go_when_a_job_is_done(plate):
    paths = plate.paths
    for name in ("old", "new"):
        for file in (
            paths.receipt("tile", "1", name),
            paths.log("tile", "1", name),
            paths.benchmark("tile", "1", name),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    other = paths.log("tile", "10", "old")
    other.touch()
    write_receipt(paths, "tile", "1", "new", {"job": "1"})
    assert [paths.receipts("tile", "1"), paths.logs("tile", "1"), paths.benchmarks("tile", "1")] == [
        [paths.receipt("tile", "1", "new")], [paths.log("tile", "1", "new")], [paths.benchmark("tile", "1", "new")],
    ]  # fmt: skip
    assert other.exists()


def test_the_jobs_of_a_run_take_all_from_what_it_wrote_down(plate, tmp_path, monkeypatch):
    other = replace(plate, spec=PlateSpec(plate="q", path="/other", pixel_size_um=0.5))
    freeze(other)
    asked = Asked.of(Project(config=plate.config, plates={"p": plate, "q": other}))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Asked.given() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "asked.json"))
    assert Asked.given() is None, "a run without hooks writes nothing"
    asked.save(tmp_path / "asked.json")
    expected = {name: each.digests() for name, each in asked.plates.items()}
    request(plate.paths, kind="retry", stage="ingest")
    other.paths.window.unlink()
    given = Asked.given()
    assert given is not None
    assert given.project == asked.project
    assert {name: each.digests() for name, each in given.plates.items()} == expected
    assert given.screen == asked.screen
    assert given.plates["q"].waits_for("normalise", "plate") == [("ingest", "plate")]
    assert given.plates["p"].waits_for("normalise", "plate") != [("ingest", "plate")]
    assert Asked.of(asked.project).screen != asked.screen


def test_receipts_that_a_job_reads_are_old(tmp_path):
    receipt = tmp_path / "0.json"
    receipt.write_text("{}")
    os.utime(receipt, (4e9, 4e9))
    age([str(receipt), str(tmp_path / "gone.json")])
    assert receipt.stat().st_mtime < 1e9


@pytest.mark.parametrize(
    ("keys", "lacking"),
    [
        ({"follow_slices": 3}, set()),
        ({}, {"follow"}),
        ({"keep_flows": False, "follow_slices": 3}, {"follow", "stitch"}),
    ],
)
def test_every_job_but_the_first_waits_for_one(keys, lacking):
    config = Config(parts=Parts(cpu=4, gpu=2), **keys)
    everything = [(name, job) for name, stage in stages_of(config).items() for job in stage.jobs(config)]
    assert {*STAGES} - {name for name, _ in everything} == lacking
    for key in everything:
        waits = upstream(config, *key)
        assert set(waits) <= {*everything}
        assert bool(waits) == (key[0] != "ingest")
    if not lacking:
        assert upstream(config, "stitch", "2") == [("follow", "2-0"), ("follow", "2-1"), ("follow", "2-2")]
    elif lacking == {"follow"}:
        assert upstream(config, "stitch", "3") == [("infer", "1")]
    else:
        assert upstream(config, "features", "3") == [("infer", "1")]
        assert upstream(config, "aggregate", "plate") == [("features", str(part)) for part in range(4)]


@pytest.mark.parametrize("keys", [{"follow_slices": 1}, {"follow_slices": 3}, {"keep_flows": False}])
def test_whichever_stage_makes_labels_is_asked_again_by_what_decides_them(plate, keys):
    """What is asked of a stage that a configuration lacks is asked of the one that does its work."""
    config = plate.config.model_copy(update=keys)
    stages = stages_of(config)

    def names(config: Config, spec: PlateSpec = plate.spec) -> dict[tuple[str, str], str]:
        asked = PlateAsked(Plate(config=config, spec=spec)).digests()
        return {(stage, job): digest for stage, jobs in asked.items() for job, digest in jobs.items()}

    before = names(config)
    for key, value in (("cell_threshold", 0.5), ("flow_threshold", 0.3), ("min_size_px", 99)):
        label_set = LabelSet(channels=["DNA"], **{key: value})
        after = names(config.model_copy(update={"segmentation": {"nuclei": label_set}}))
        first = "follow" if key == "cell_threshold" else "stitch"
        first = first if first in stages else "stitch" if "stitch" in stages else "infer"
        others = [*stages][[*stages].index(first) :]
        assert {stage for (stage, job), name in after.items() if before[stage, job] != name} == {*others}


def test_of_a_stage_that_the_configuration_lacks_the_error_says_why(plate):
    kept = plate.config.model_copy(update={"follow_slices": 1})
    with pytest.raises(PlateflowError, match=r"no stage follow(.|\n)*follow_slices: 1(.|\n)*name stitch instead"):
        stage_of(kept, "follow")
    for name in ("follow", "stitch"):
        with pytest.raises(PlateflowError, match=rf"no stage {name}(.|\n)*keep_flows: false(.|\n)*name infer instead"):
            stage_of(plate.config.model_copy(update={"keep_flows": False}), name)
    with pytest.raises(PlateflowError, match="there is no stage 'stich'"):
        stage_of(kept, "stich")
