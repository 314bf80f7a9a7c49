"""A screen on a cluster larger than any at hand: a discrete-event simulation of its jobs, with simpy.

    python bench/scale.py [--out docs]          # all cases: a table and a figure

The chain of each plate is simulated job by job, as the Snakefile makes it: a job starts when its inputs are there and
the driver has seen so (it polls), waits for a GPU or a core, starts, and does its part of the wells one after another:
each is read and written through one shared storage and computed, in a GPU job the next ones while it is. A job fails
now and then, to be tried again with the time of a whole job lost. Bytes, CPU times and sizes are those of
`plateflow.estimate`, which are measured; what isn't is stated in `Case`.
"""

from __future__ import annotations

import argparse
import json
import random
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import simpy

from plateflow.chain import stages_of
from plateflow.config import Config, LabelSet, Parts
from plateflow.estimate import RATES, Estimate, Size

HEADLINE = Size(wells=384, fields=9, channels=5, z=1, t=1, field_mpx=1.1664, canvas_mpx=10.4976, image_mpx=10.4976)
MODES = {
    "kept, slices": {"keep_flows": True, "follow_slices": 2},
    "kept": {"keep_flows": True, "follow_slices": 1},
    "not kept": {"keep_flows": False, "follow_slices": 1},
}
TILE_MPX = 224**2 / 1e6
"""What a tile adds to a canvas."""
STEPS = {"infer": 24}
"""In how many steps at most a job does its wells; else 8."""
AHEAD = 2
"""Steps that a GPU job may have read and not computed yet."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One simulation; the defaults are the headline case."""

    plates: int = 100
    gpus: int = 10
    cores: int = 200
    mode: str = "not kept"
    parts: tuple[int, int] = (16, 1)
    tiles_s: float = 315.0
    """Tiles a second of an infer job with a ViT-L on one H100, as measured."""
    labels_s: float = 0.0171
    """Seconds of the GPU for a Mpx of labels, where infer makes them: 20 ms a field of 1080 px, which is a goal."""
    storage_gb_s: float = 2.0
    failures: float = 0.02
    poll_s: float = 40.0
    start_s: float = 20.0
    load_s: float = 15.0
    """Start of the program and of the model, in a GPU job: not measured."""
    jobs: int = 200
    """Jobs in the queue at a time, as the profile's `jobs`."""
    tile_jobs: int = 20
    """Jobs of tile at a time, as the profile's resource of that name: nothing else uses the storage as much."""
    order: str = "plate"
    """Which of the waiting jobs goes first: of the earliest plate, or the longest waiting ("fifo")."""


class Cluster:
    """GPUs, cores, and storage that divides its bandwidth among those who use it."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        config = Config(
            parts=Parts(cpu=case.parts[0], gpu=case.parts[1]),
            segmentation={"nuclei": LabelSet(channels=["DNA"]), "cells": LabelSet(channels=["AGP", "DNA"])},
            device="cuda",
            **MODES[case.mode],
        )
        labels = 0.0 if config.keep_flows else case.labels_s * TILE_MPX
        name = "infer cuda" if config.keep_flows else "infer cuda labels"
        rate = replace(RATES[name], seconds=case.load_s, per_unit=1 / case.tiles_s + labels)
        self.case, self.estimate, self.stages = case, Estimate(HEADLINE, config, {name: rate}), stages_of(config)
        self.env, self.random = simpy.Environment(), random.Random(seed)
        self.gpus = simpy.PriorityResource(self.env, case.gpus)
        self.cores = simpy.PriorityResource(self.env, case.cores)
        self.slots = simpy.PriorityResource(self.env, case.jobs)
        self.tiling = simpy.PriorityResource(self.env, case.tile_jobs)
        self.storage = simpy.Resource(self.env, 1)
        self.gpu_busy = self.gpu_work = self.core_busy = self.moved_gb = 0.0
        self.failed = self.run = 0

    def job(self, plate: int, stage: str):
        """One job with its attempts; ends when the driver knows that it is done."""
        case, env = self.case, self.env
        priority = plate if case.order == "plate" else 0
        for attempt in range(4):
            fails = self.random.random() < case.failures and attempt < 3
            with ExitStack() as stack:
                if stage == "tile":  # before it is in the queue: the driver holds it back
                    yield stack.enter_context(self.tiling.request(priority=priority))
                yield stack.enter_context(self.slots.request(priority=priority))
                with (self.gpus if stage == "infer" else self.cores).request(priority=priority) as place:
                    yield place
                    began = env.now
                    yield env.timeout(case.start_s)
                    worked = yield env.process(self.work(stage))
                    self.run, self.failed = self.run + 1, self.failed + fails
                    if stage == "infer":
                        self.gpu_busy += env.now - began
                        self.gpu_work += 0 if fails else worked
                    else:
                        self.core_busy += env.now - began
                # The place is free at once; the driver sees the end at its next poll.
                yield env.timeout(self.random.uniform(0, case.poll_s))
            if not fails:
                return

    def work(self, stage: str):
        """The wells of a job, in steps; the seconds that it computed beyond its start."""
        env, jobs = self.env, self.estimate.jobs(stage)
        spread = self.random.uniform(0.9, 1.1)
        start = self.estimate.rate(stage).seconds
        seconds = (self.estimate.seconds(stage) - start) * spread
        gigabytes = sum(self.estimate.moved_gb(stage)) / jobs
        steps = max(1, min(STEPS.get(stage, 8), HEADLINE.wells // jobs))
        yield env.timeout(start)
        if stage != "infer":
            for _ in range(steps):
                yield env.process(self.transfer(gigabytes / steps))
                yield env.timeout(seconds / steps)
            return seconds
        read = simpy.Store(env, AHEAD)

        def reading():
            for _ in range(steps):
                yield env.process(self.transfer(gigabytes / steps))
                yield read.put(None)

        env.process(reading())
        for _ in range(steps):
            yield read.get()
            yield env.timeout(seconds / steps)
        return seconds

    def transfer(self, gigabytes: float):
        """Bytes through the storage, 0.2 GB in turn, so that all share its bandwidth."""
        self.moved_gb += gigabytes
        while gigabytes > 0:
            part = min(0.2, gigabytes)
            with self.storage.request() as turn:
                yield turn
                yield self.env.timeout(part / self.case.storage_gb_s)
            gigabytes -= part

    def plate(self, number: int):
        """All jobs of a plate, as the Snakefile lets them wait for each other."""
        cpu, gpu = self.case.parts
        env = self.env
        yield env.process(self.job(number, "ingest"))
        yield env.all_of([env.process(self.job(number, "tile")) for _ in range(cpu)])
        yield env.process(self.job(number, "normalise"))
        yield env.all_of([env.process(self.group(number, cpu // gpu)) for _ in range(gpu)])
        yield env.process(self.job(number, "aggregate"))
        yield env.process(self.job(number, "report"))

    def group(self, number: int, parts: int):
        """A GPU part, then the CPU parts that wait for it."""
        yield self.env.process(self.job(number, "infer"))
        yield self.env.all_of([self.env.process(self.part(number)) for _ in range(parts)])

    def part(self, number: int):
        if "follow" in self.stages:
            slices = MODES[self.case.mode]["follow_slices"]
            yield self.env.all_of([self.env.process(self.job(number, "follow")) for _ in range(slices)])
        for stage in ("stitch", "features"):
            if stage in self.stages:
                yield self.env.process(self.job(number, stage))


def simulate(case: Case, seed: int = 0) -> dict[str, float]:
    """Run a case; hours, shares and counts."""
    cluster = Cluster(case, seed)
    done = cluster.env.all_of([cluster.env.process(cluster.plate(n)) for n in range(case.plates)])
    cluster.env.run(done)
    makespan, estimate = cluster.env.now, cluster.estimate
    sizes = estimate.storage()
    return {
        "makespan_h": makespan / 3600,
        "gpu_occupancy": cluster.gpu_busy / (case.gpus * makespan),
        "gpu_useful": cluster.gpu_work / (case.gpus * makespan),
        "gpu_needed_share": cluster.gpu_work / cluster.gpu_busy,
        "gpu_h": cluster.gpu_busy / 3600,
        "core_occupancy": cluster.core_busy / (case.cores * makespan),
        "core_h": cluster.core_busy / 3600,
        "storage_use": cluster.moved_gb / case.storage_gb_s / makespan,
        "moved_tb": cluster.moved_gb / 1000,
        "plate_gb": sum(estimate.traffic_gb().values()),
        "infer_min": estimate.seconds("infer") / 60,
        "features_min": estimate.seconds("features") / 60,
        "jobs": cluster.run,
        "failed": cluster.failed,
        "files_m": case.plates * (sizes["result_files"] + sizes["scratch_files"]) / 1e6,
        "scratch_tb": case.plates * sizes["scratch_gb"] / 1000,
    }


def average(case: Case) -> dict[str, float]:
    """The mean over a few seeds: which job fails late alone moves the makespan by a quarter of an hour."""
    runs = [simulate(case, seed) for seed in range(1 if case.plates > 400 else 3)]
    return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}


HEAD = Case()
PLATES, GPUS = (100, 1000), (4, 8, 10, 16)
FAST = {"tiles_s": 567.0}
"""Of an infer job with a network of 630 tiles a second: goals."""
WHAT_IF = {
    "headline: 10 GPUs, keep_flows: false, parts {cpu: 16, gpu: 1}": HEAD,
    "keep_flows: true": replace(HEAD, mode="kept"),
    "keep_flows: true, 6 GPUs": replace(HEAD, mode="kept", gpus=6),
    "keep_flows: true, two slices": replace(HEAD, mode="kept, slices"),
    "any number of tile jobs": replace(HEAD, tile_jobs=10_000),
    "keep_flows: true, any number of tile jobs": replace(HEAD, mode="kept", tile_jobs=10_000),
    "10 tile jobs": replace(HEAD, tile_jobs=10),
    "40 tile jobs": replace(HEAD, tile_jobs=40),
    "parts {cpu: 8, gpu: 1}": replace(HEAD, parts=(8, 1)),
    "parts {cpu: 16, gpu: 2}": replace(HEAD, parts=(16, 2)),
    "parts {cpu: 16, gpu: 4}": replace(HEAD, parts=(16, 4)),
    "567 tiles per second and GPU": replace(HEAD, **FAST),
    "567 tiles per second and GPU, 6 GPUs": replace(HEAD, **FAST, gpus=6),
    "labels as slow as on an H100 before": replace(HEAD, labels_s=0.0634),
    "labels as slow as on an H100 before, 16 GPUs": replace(HEAD, labels_s=0.0634, gpus=16),
    "100 jobs in the queue": replace(HEAD, jobs=100),
    "300 jobs in the queue, 300 cores": replace(HEAD, jobs=300, cores=300),
    "1 GB/s": replace(HEAD, storage_gb_s=1.0),
    "4 GB/s, 400 cores, 40 tile jobs, 20 GPUs": replace(
        HEAD, storage_gb_s=4.0, cores=400, jobs=500, tile_jobs=40, gpus=20
    ),
    "longest waiting first": replace(HEAD, order="fifo"),
    "no failures": replace(HEAD, failures=0.0),
    "polling 5 s, start 2 s": replace(HEAD, poll_s=5.0, start_s=2.0),
}


def limits(found: dict[str, float]) -> str:
    shares = {
        "GPUs": found["gpu_occupancy"],
        "cores": found["core_occupancy"],
        "storage": found["storage_use"],
    }
    name, share = max(shares.items(), key=lambda item: item[1])
    return name if share > 0.7 else "none above 70 %: waiting"


def row(name: str, found: dict[str, float]) -> str:
    return (
        f"| {name} | {found['makespan_h']:.1f} | {found['gpu_occupancy']:.2f} | {found['gpu_useful']:.2f} | "
        f"{found['gpu_needed_share']:.2f} | {found['core_occupancy']:.2f} | {found['storage_use']:.2f} | "
        f"{found['gpu_h']:.0f} | {found['core_h']:.0f} | {found['jobs']:,.0f} | {limits(found)} |"
    )


HEADER = (
    "| case | makespan, h | GPUs held | GPUs at work | at work while held | cores held | storage | GPU h | core h | "
    "jobs | limit |\n|" + " --- |" * 11
)


def figure(results: dict[tuple[int, int], dict[str, float]], path: Path) -> None:
    """Makespan and occupancy by the number of GPUs."""
    import altair as alt

    shares = {"GPUs held": "gpu_occupancy", "GPUs at work": "gpu_useful", "cores": "core_occupancy"}
    shares |= {"storage": "storage_use"}
    rows = [
        {"plates": f"{plates} plates", "GPUs": str(gpus), "what": what, "value": found[key]}
        for (plates, gpus), found in results.items()
        for what, key in shares.items()
    ]
    times = [
        {"plates": f"{plates} plates", "GPUs": str(gpus), "hours": found["makespan_h"]}
        for (plates, gpus), found in results.items()
    ]
    x = alt.X("GPUs:O", sort=[str(n) for n in GPUS], axis=alt.Axis(labelAngle=0))
    share = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    share = share.encode(x=x, y=alt.Y("value:Q", title="share in use", scale=alt.Scale(domain=[0, 1])), color="what:N")
    hours = alt.Chart(alt.Data(values=times)).mark_line(point=True, color="black")
    hours = hours.encode(x=x, y=alt.Y("hours:Q", title="makespan, h", scale=alt.Scale(type="log")))
    panels = []
    for plates in PLATES:
        mine = f"datum.plates == '{plates} plates'"
        size = {"width": 230, "height": 170}
        panels.append(
            hours.transform_filter(mine).properties(title=f"{plates} plates", **size)
            | share.transform_filter(mine).properties(**size)
        )
    alt.vconcat(*panels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for scale.svg; without it only the tables are printed")
    out = parser.parse_args().out
    print(json.dumps({"headline": asdict(HEAD), "rates": {name: asdict(rate) for name, rate in RATES.items()}}))
    results = {(n, g): average(replace(HEAD, plates=n, gpus=g)) for n in PLATES for g in GPUS}
    print(HEADER)
    for (plates, gpus), found in results.items():
        print(row(f"{plates} plates, {gpus} GPUs", found), flush=True)
    print(HEADER)
    for name, case in WHAT_IF.items():
        print(row(name, average(case)), flush=True)
    print(json.dumps({f"{n} plates, {g} GPUs": found for (n, g), found in results.items()}))
    if out is not None:
        figure(results, out / "scale.svg")


if __name__ == "__main__":
    main()
