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
    assert estimate.seconds("infer") == pytest.approx(15 + 384 * 450 / 2 / 300)
    storage = estimate.storage()
    assert storage["raw_gb"] == pytest.approx(384 * 9 * 5 * 1080**2 * 2 / 1e9)
    assert (
        45 < storage["scratch_gb"] / 1.49 < 55
    )  # the design's 24 GB of flows a label set; end points are half as much
    assert storage["result_files"] < 20_000
    traffic = estimate.traffic_gb()
    assert traffic["tile"] > storage["raw_gb"]
    assert traffic["follow"] == pytest.approx(storage["scratch_gb"])
    assert traffic["infer"] > 48


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


def test_a_large_model_costs_memory_everywhere_and_time_on_a_cpu() -> None:
    for device, slower in (("cpu", True), ("cuda", False)):
        small, large = (Estimate(HEADLINE, config(device=device), model_mb=mb) for mb in (6.0, 1200.0))
        assert large.memory_mb("infer") > small.memory_mb("infer") + 1200
        assert (large.seconds("infer") > 10 * small.seconds("infer")) == slower


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
    assert Estimate(HEADLINE, config()).propose() == {"cpu": 8, "gpu": 2}
    assert Estimate(HEADLINE, config(parts=Parts(cpu=8, gpu=4))).propose()["gpu"] == 1  # 2.6 minutes each
    assert Estimate(HEADLINE, config(parts=Parts(cpu=2, gpu=1))).propose()["cpu"] > 2  # two hours each


def rows(rates: dict[str, Rate], estimate: Estimate, share: float = 0.25) -> list[dict]:
    made = []
    for name, rate in rates.items():
        stage = name.split()[0]
        seconds = rate.seconds + rate.per_unit * estimate.work(stage) * share
        made.append(
            {
                "plate": "p",
                "stage": stage,
                "state": "ok",
                "share": share,
                "gpus": int(name == "infer cuda"),
                "seconds": seconds,
                "cpu_s": seconds,
                "peak_mb": rate.memory_mb + rate.memory_per_unit * estimate.held(stage),
            }
        )
    return made


def test_the_rates_of_real_runs_are_found_again() -> None:
    estimate = Estimate(HEADLINE, config())
    true = {name: replace(rate, per_unit=3 * rate.per_unit) for name, rate in RATES.items() if name != "infer cpu"}
    true["features"] = replace(true["features"], memory_per_unit=40.0)
    found = learn(rows(true, estimate), {"p": estimate})
    for name in ("tile", "infer cuda", "follow", "stitch", "features"):
        assert found[name].per_unit == pytest.approx(true[name].per_unit), name
    assert found["features"].memory_per_unit == pytest.approx(40.0)


def test_failed_attempts_other_plates_and_mere_starts_teach_nothing() -> None:
    estimate = Estimate(HEADLINE, config())
    known = rows({"tile": replace(RATES["tile"], per_unit=9.0)}, estimate)
    assert learn([known[0] | {"state": "killed"}], {"p": estimate}) == {}
    assert learn(known, {"q": estimate}) == {}
    assert learn([known[0] | {"cpu_s": 2.0, "peak_mb": None}], {"p": estimate}) == {}


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
    file.write_text("{")
    assert estimates_of(Project.of(settings, plates))["p"].resources("features") == before


def test_auto_means_cuda_until_only_cpus_were_seen() -> None:
    assert Estimate(HEADLINE, config()).device == "cuda"
    assert Estimate(HEADLINE, config(), {"infer cpu": RATES["infer cpu"]}).device == "cpu"
    assert Estimate(HEADLINE, config(), {name: RATES[name] for name in ("infer cpu", "infer cuda")}).device == "cuda"
