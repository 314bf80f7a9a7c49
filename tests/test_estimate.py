"""Estimates: what grows with what, rates that runs refine, and the parts that are proposed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateflow.config import Config, LabelSet, Parts, PlateSpec
from plateflow.estimate import RATES, Estimate, Rate, Size, estimates_of, learn, refine, screen_needs
from plateflow.project import Project

HEADLINE = Size(wells=384, fields=9, channels=5, z=1, t=1, field_mpx=1.1664, canvas_mpx=10.4976, image_mpx=10.4976)
SETS = {"nuclei": LabelSet(channels=["DNA"]), "cells": LabelSet(channels=["AGP"])}


def config(**changes) -> Config:
    return Config(segmentation=SETS, **changes)


def entry(size: Size) -> PlateSpec:
    return PlateSpec(plate="p", path="raw", **vars(size))


def test_the_headline_plate_by_hand() -> None:
    estimate = Estimate(HEADLINE, config())
    assert estimate.tiles == 2 * 15**2  # 3240 px in steps of 224 px: 15 tiles; as the network's plan counts them
    assert estimate.seconds("infer") == pytest.approx(15 + 384 * 450 / 2 / 740)
    storage, raw_mpx, label_mpx = estimate.storage(), 384 * 9 * 5 * 1.1664, 384 * 9 * 2 * 1.1664
    assert storage["raw_gb"] == pytest.approx(raw_mpx * 2 / 1000)
    assert storage["result_files"] < 20_000
    read, written = estimate.moved_gb("tile")
    assert read == pytest.approx((8 * RATES["tile"].read_mb + RATES["tile"].read_per_unit * raw_mpx) / 1000)
    assert written == pytest.approx(RATES["tile"].written_per_unit * raw_mpx / 1000)
    # nuclei take one channel and so do cells, of five
    rate = RATES["infer cuda"]
    read, written = estimate.moved_gb("infer")
    assert read == pytest.approx((2 * rate.read_mb + rate.read_per_unit * raw_mpx * 2 / 5) / 1000)
    assert written == pytest.approx(rate.written_per_unit * label_mpx / 1000) == pytest.approx(storage["scratch_gb"])
    assert estimate.traffic_gb()["infer"] == pytest.approx(read + written)


def test_each_mode_has_its_own_jobs_times_bytes_and_scratch() -> None:
    slices, kept, not_kept = (
        Estimate(HEADLINE, config(**changes)) for changes in ({"follow_slices": 2}, {}, {"keep_flows": False})
    )
    assert [each.jobs("follow") for each in (slices, kept, not_kept)] == [16, 0, 0]
    assert [each.jobs("stitch") for each in (slices, kept, not_kept)] == [8, 8, 0]
    assert (kept.seconds("follow"), kept.moved_gb("follow"), not_kept.hours("stitch")) == (0.0, (0.0, 0.0), 0.0)
    assert slices.hours("stitch") < kept.hours("stitch") < slices.hours("follow") + slices.hours("stitch")
    assert list(not_kept.traffic_gb()) == ["ingest", "tile", "normalise", "infer", "features", "aggregate", "report"]
    moved = [sum(each.traffic_gb().values()) for each in (slices, kept, not_kept)]
    assert moved == sorted(moved, reverse=True)
    assert moved[2] < moved[1] - 1.9 * kept.storage()["scratch_gb"]  # flows are neither written nor read
    files = [each.storage()["scratch_files"] for each in (slices, kept, not_kept)]
    assert files == [384 * 2 * (1 + 4), 384 * 2, 0]
    assert not_kept.storage()["scratch_gb"] == 0
    assert not_kept.seconds("infer") > kept.seconds("infer")
    assert not_kept.memory_mb("infer") > kept.memory_mb("infer")
    assert kept.storage()["result_gb"] == pytest.approx(not_kept.storage()["result_gb"], rel=0.02)


def test_a_change_of_the_segmentation_costs_the_gpu_only_where_flows_are_not_kept() -> None:
    kept, not_kept = (Estimate(HEADLINE, config(keep_flows=keep)) for keep in (True, False))
    assert kept.change_hours() == {"gpu": 0.0, "cpu": pytest.approx(kept.hours("stitch"))}
    assert not_kept.change_hours() == {"gpu": pytest.approx(not_kept.hours("infer")), "cpu": 0.0}
    on_cpu = Estimate(HEADLINE, config(keep_flows=False, device="cpu")).change_hours()
    assert on_cpu["gpu"] == 0 < on_cpu["cpu"]


def test_tiles_are_counted_as_the_network_lays_them() -> None:
    from plateflow.segment.tiles import tile_layout

    for edge in (192, 540, 1080, 2160, 3240, 4000):
        size = replace(HEADLINE, fields=1, field_mpx=edge**2 / 1e6, canvas_mpx=edge**2 / 1e6)
        layout = tile_layout((edge, edge))
        assert Estimate(size, config()).tiles == 2 * len(layout.y.starts) * len(layout.x.starts), edge


def test_tiles_are_of_the_grid_on_which_objects_have_the_models_diameter() -> None:
    sets = {"nuclei": LabelSet(channels=["DNA"], diameter_um=9.0)}
    size = replace(HEADLINE, pixel_um=0.6)  # 15 px, where the model wants 30: twice the edge
    estimate = Estimate(size, Config(segmentation=sets), diameters={"nuclei": 30.0})
    assert (
        estimate.tiles == Estimate(replace(size, field_mpx=4.6656, canvas_mpx=41.9904), Config(segmentation=sets)).tiles
    )
    assert Estimate(replace(size, pixel_um=None), Config(segmentation=sets), diameters={"nuclei": 30.0}).tiles == 15**2
    in_px = Config(segmentation={"nuclei": LabelSet(channels=["DNA"], diameter_px=15.0)})
    assert Estimate(replace(size, pixel_um=None), in_px, diameters={"nuclei": 30.0}).tiles == estimate.tiles


def test_a_plate_without_sizes_has_no_estimate_and_one_with_them_has() -> None:
    plates = {"p": entry(HEADLINE), "q": PlateSpec(plate="q", path="raw", wells=3)}
    assert list(estimates_of(Project.of(config(), plates))) == ["p"]


@pytest.mark.parametrize("stage", ["ingest", "tile", "infer", "follow", "stitch", "features", "aggregate"])
def test_larger_fields_ask_for_more(stage: str) -> None:
    large = replace(HEADLINE, field_mpx=4.6656, canvas_mpx=41.99, image_mpx=41.99)
    small, more = (Estimate(size, config()) for size in (HEADLINE, large))
    assert more.seconds(stage) >= small.seconds(stage)
    assert more.resources(stage)["mem_mb"] >= small.resources(stage)["mem_mb"]
    if stage in {"tile", "features", "infer", "stitch"}:
        assert more.resources(stage)["mem_mb"] > small.resources(stage)["mem_mb"]


def test_the_memory_of_following_is_that_of_a_block() -> None:
    huge = replace(HEADLINE, canvas_mpx=268.0, image_mpx=268.0)
    assert Estimate(huge, config()).memory_mb("follow") == Estimate(HEADLINE, config()).memory_mb("follow")


def test_a_large_model_costs_memory_everywhere_and_time_as_measured() -> None:
    for device, times in (("cpu", 1220 / 13.4), ("cuda", 740 / 315)):
        small, large = (Estimate(HEADLINE, config(device=device), model_mb=mb) for mb in (13.4, 1220.0))
        assert large.memory_mb("infer") > small.memory_mb("infer") + 1200
        start = small.rate("infer").seconds
        assert large.seconds("infer") - start == pytest.approx(times * (small.seconds("infer") - start))


def test_labels_cost_the_same_with_any_model() -> None:
    def seconds(keep: bool, mb: float) -> float:
        return Estimate(HEADLINE, config(device="cuda", keep_flows=keep), model_mb=mb).seconds("infer")

    assert seconds(False, 1220.0) - seconds(True, 1220.0) == pytest.approx(seconds(False, 13.4) - seconds(True, 13.4))


def test_aggregate_holds_the_table_of_a_well_in_memory() -> None:
    one, many = (replace(HEADLINE, wells=wells, canvas_mpx=10.4976 * 4 / wells) for wells in (1, 4))
    one = replace(one, field_mpx=4 * one.field_mpx)
    assert Estimate(one, config()).cells == pytest.approx(Estimate(many, config()).cells)
    assert Estimate(one, config()).memory_mb("aggregate") > Estimate(many, config()).memory_mb("aggregate") + 50


def test_the_screens_job_asks_for_more_the_more_wells_there_are_and_unknown_plates_count_too() -> None:
    def resources(n: int, **sizes) -> dict[str, int]:
        plates = {f"p{i}": PlateSpec(plate=f"p{i}", path="raw", **sizes) for i in range(n)}
        return screen_needs(Project.of(config(), plates))[1]

    assert resources(100)["mem_mb"] == resources(100, wells=384)["mem_mb"] > resources(1)["mem_mb"]
    assert resources(100, wells=1536)["runtime"] > resources(100)["runtime"] > resources(100, wells=96)["runtime"]


@given(
    wells=st.integers(1, 1536),
    fields=st.integers(1, 25),
    px=st.sampled_from([512, 1080, 2160]),
    touching=st.booleans(),
)
def test_the_proposed_parts_keep_their_promise(wells: int, fields: int, px: int, touching: bool) -> None:
    mpx = px * px / 1e6
    canvas = fields * mpx if touching else mpx
    size = Size(
        wells=wells, fields=fields, channels=4, z=1, t=1, field_mpx=mpx, canvas_mpx=canvas, image_mpx=fields * mpx
    )
    parts = Estimate(size, config(parts=Parts(cpu=4, gpu=4))).propose()
    proposed = Estimate(size, config(parts=Parts(**parts)))  # gpu divides cpu, or this fails
    minutes = proposed.seconds("infer") / 60
    assert minutes <= 30 or parts["gpu"] == wells
    assert minutes >= 5 or parts["gpu"] == 1


def test_parts_that_do_well_are_left_as_they_are() -> None:
    assert Estimate(HEADLINE, config(parts=Parts(cpu=8, gpu=1))).propose() == {"cpu": 8, "gpu": 1}
    large = Estimate(HEADLINE, config(parts=Parts(cpu=8, gpu=2), keep_flows=False), model_mb=1220.0)
    assert large.propose() == {"cpu": 8, "gpu": 2}  # of nine minutes each
    assert Estimate(HEADLINE, config(parts=Parts(cpu=8, gpu=4))).propose()["gpu"] == 1  # 1.2 minutes each
    assert Estimate(HEADLINE, config(parts=Parts(cpu=2, gpu=1))).propose()["cpu"] > 2  # two hours each


def rows(rates: dict[str, Rate], estimate: Estimate, share: float = 0.25) -> list[dict]:
    made = []
    for name, rate in rates.items():
        stage = name.split()[0]
        seconds = rate.seconds + rate.per_unit * estimate.work(stage) * share
        read, written = (amount * share for amount in estimate.moved(stage))
        made.append(
            {
                "plate": "p",
                "stage": stage,
                "state": "ok",
                "mode": next((mode for mode in ("labels", "ends") if name.endswith(mode)), ""),
                "share": share,
                "gpus": int("cuda" in name),
                "seconds": seconds,
                "cpu_s": seconds,
                "peak_mb": rate.memory_mb + rate.memory_per_unit * estimate.held(stage),
                "read_mb": rate.read_mb + rate.read_per_unit * read,
                "written_mb": rate.written_per_unit * written,
            }
        )
    return made


def test_the_rates_of_real_runs_are_found_again() -> None:
    estimate = Estimate(HEADLINE, config())
    true = {
        name: replace(rate, per_unit=3 * rate.per_unit, read_per_unit=5.0, written_per_unit=7.0)
        for name, rate in RATES.items()
        if "cpu" not in name
    }
    true["features"] = replace(true["features"], memory_per_unit=40.0)
    found = learn(rows(true, estimate), {"p": estimate})
    for name in ("tile", "infer cuda", "infer cuda labels", "follow", "stitch", "stitch ends", "features"):
        assert found[name].per_unit == pytest.approx(true[name].per_unit), name
        assert found[name].read_per_unit == pytest.approx(5.0), name
        assert found[name].written_per_unit == pytest.approx(7.0), name
    assert found["features"].memory_per_unit == pytest.approx(40.0)


def test_a_large_model_teaches_the_same_rate_of_the_default_one() -> None:
    estimate = Estimate(HEADLINE, config(keep_flows=False), model_mb=1220.0)
    row = rows({"infer cuda labels": RATES["infer cuda labels"]}, estimate)[0]
    row |= {"seconds": 15 + 3 * (estimate.seconds("infer") - 15)}  # as long as three quarters of the two jobs
    found = learn([row], {"p": estimate})
    again = Estimate(HEADLINE, config(keep_flows=False), found, model_mb=1220.0)
    assert again.seconds("infer") == pytest.approx(15 + 6 * (estimate.seconds("infer") - 15))


def test_where_nobody_counts_bytes_their_rates_stay() -> None:
    estimate = Estimate(HEADLINE, config())
    made = rows({"tile": replace(RATES["tile"], per_unit=9.0)}, estimate)
    found = learn([row | {"read_mb": None, "written_mb": None} for row in made], {"p": estimate})
    assert found["tile"].per_unit == pytest.approx(9.0)
    assert found["tile"].read_per_unit == RATES["tile"].read_per_unit
    assert found["tile"].written_per_unit == RATES["tile"].written_per_unit


def test_failed_attempts_other_plates_and_mere_starts_teach_nothing() -> None:
    estimate = Estimate(HEADLINE, config())
    known = rows({"tile": replace(RATES["tile"], per_unit=9.0)}, estimate)
    assert learn([known[0] | {"state": "killed"}], {"p": estimate}) == {}
    assert learn(known, {"q": estimate}) == {}
    start = {"cpu_s": 2.0, "peak_mb": None, "read_mb": 40.0, "written_mb": 5.0}
    assert learn([known[0] | start], {"p": estimate}) == {}


def test_what_was_learnt_is_asked_for_the_next_time(tmp_path) -> None:
    settings = config(results=str(tmp_path / "results"))
    plates = {"p": entry(HEADLINE)}
    before = estimates_of(Project.of(settings, plates))["p"].resources("features")
    greedy = {"features": replace(RATES["features"], per_unit=2.0, memory_per_unit=100.0)}
    refine(Project.of(settings, plates), rows(greedy, Estimate(HEADLINE, settings)))
    after = estimates_of(Project.of(settings, plates))["p"].resources("features")
    assert after["mem_mb"] > 3 * before["mem_mb"]
    assert after["runtime"] > 3 * before["runtime"]
    (file,) = (tmp_path / "results" / "screen").glob("*.json")
    assert set(json.loads(file.read_text())) == {"features"}
    learnt = json.loads(file.read_text())
    for value in learnt.values():  # as an earlier release wrote it
        del value["read_mb"], value["read_per_unit"], value["written_per_unit"]
    file.write_text(json.dumps(learnt))
    again = estimates_of(Project.of(settings, plates))["p"]
    assert again.resources("features") == after
    assert again.rate("features").read_per_unit == RATES["features"].read_per_unit
    file.write_text("{")
    assert estimates_of(Project.of(settings, plates))["p"].resources("features") == before


def test_auto_means_cuda_until_only_cpus_were_seen() -> None:
    assert Estimate(HEADLINE, config()).device == "cuda"
    assert Estimate(HEADLINE, config(), {"infer cpu": RATES["infer cpu"]}).device == "cpu"
    assert Estimate(HEADLINE, config(), {name: RATES[name] for name in ("infer cpu", "infer cuda")}).device == "cuda"
